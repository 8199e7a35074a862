//! Background ends: trees that have exceeded a limit, and trees whose handle was dropped.
//!
//! None of them may delay another one, or the thread that requested it: the monitor must record
//! deaths, a pass must continue, and a handle may be dropped on a runtime's thread. So trees are
//! put into a queue, and a worker thread ends them ([`end_as_they_come`]). Each tree is asked to
//! end as soon as it arrives, and has its own grace, cause and record; the thread exits when no
//! tree is left. Another thread is started only while all others are killing, which takes some
//! seconds if a process is stuck in the kernel. There are at most four.
//!
//! A tree is in the queue once: the right to end it ([`Tracked::begin`]) is taken before it is put
//! there. If an attempt fails, the health pass makes the next one.
//!
//! Shutdown waits for these threads as for all others. Trees that are queued before shutdown has
//! closed the tracker are ended with their own cause; all others are ended by the shutdown itself.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{
    context, flush, nested_instances, outcome, own_trees, release,
    run::{EndContext, EndQueue, TreeOutcome, TreeTarget, end_as_they_come},
};
use crate::{
    model::{ProcessId, task_text},
    store::TakeOver,
    tracker::{
        core::Core,
        runtime::{background_ends::Due, tracked::Tracked},
    },
};

/// The target of the log line for each tree. It does not depend on the module's name, since log
/// filters contain it.
const LOG_TARGET: &str = "procledger::ends";

/// Ends trees in the background, all together. Trees that are already being ended are skipped.
pub(in crate::tracker) fn end_in_background(core: &Arc<Core>, due: Vec<Due>) {
    let due: Vec<Due> = due.into_iter().filter(|due| due.entry.begin()).collect();
    if due.is_empty() {
        return;
    }
    if !core.background.add(due) {
        return;
    }
    let theirs = Arc::clone(core);
    core.threads.run("procledger-ends", move || Worker::new(&theirs).run());
}

/// A thread that ends the trees in the queue.
struct Worker<'a> {
    core: &'a Arc<Core>,
    under_way: HashMap<ProcessId, Due>,
    /// Trees whose claims could not be written: they are ended regardless (invariant 10), and
    /// claimed with the outcome.
    unclaimed: HashSet<ProcessId>,
    killing: bool,
    /// Whether it has left the queue, which no longer counts it.
    gone: bool,
}

impl<'a> Worker<'a> {
    fn new(core: &'a Arc<Core>) -> Self {
        let (under_way, unclaimed) = (HashMap::new(), HashSet::new());
        Self { core, under_way, unclaimed, killing: false, gone: false }
    }

    fn run(&mut self) {
        let core = self.core;
        end_as_they_come(self, &mut |root, found| outcome::record_found(core, root, found));
    }

    /// Takes at most `room` trees from the queue. If there are none, an idle worker leaves the
    /// queue.
    fn take(&mut self, idle: bool, room: usize) -> Vec<Due> {
        let taken = self.core.background.take(idle, room);
        self.gone = taken.is_none();
        taken.unwrap_or_default()
    }

    /// Claims trees, and logs each once. A tree that has already ended, or that another instance is
    /// ending, is given up.
    fn claim(&mut self, taken: Vec<Due>) -> Vec<TreeTarget> {
        let entries: Vec<&Arc<Tracked>> = taken.iter().map(|due| &due.entry).collect();
        let (trees, recorded) = own_trees::claim_own(self.core, &entries, TakeOver::default());
        let claimed: HashSet<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
        for due in taken {
            let root = &due.entry.root;
            if !claimed.contains(&root.row) {
                self.core.registry.give_up(&due.entry);
                continue;
            }
            tracing::warn!(
                target: LOG_TARGET,
                "ending process {} for task {}: {}",
                root.identity.pid,
                task_text(root.task.as_ref()),
                due.cause.rule
            );
            due.entry.set_ending(&due.cause);
            if !recorded {
                self.unclaimed.insert(root.row);
            }
            self.under_way.insert(root.row, due);
        }
        trees
    }
}

impl<'a> EndQueue<'a> for Worker<'a> {
    fn join(
        &mut self,
        under_way: &[ProcessId],
        room: usize,
    ) -> Option<(EndContext<'a>, Vec<TreeTarget>)> {
        loop {
            let taken = self.take(under_way.is_empty(), room);
            if taken.is_empty() {
                return None;
            }
            let trees = self.claim(taken);
            if trees.is_empty() {
                continue;
            }
            let rows: Vec<ProcessId> = self.under_way.keys().copied().collect();
            let (context, _) = context::context_or_certain(self.core, &rows);
            return Some((context, trees));
        }
    }

    fn done(&mut self, ends: Vec<TreeOutcome>) {
        let core = self.core;
        let began = Instant::now();
        let (mut claimed, mut unclaimed) = (Vec::new(), Vec::new());
        let (mut rows, mut answers, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for end in ends {
            let row = end.root.row;
            let Some(due) = self.under_way.remove(&row) else { continue };
            let settled = if self.unclaimed.remove(&row) { &mut unclaimed } else { &mut claimed };
            let concluded = outcome::conclude_tree(core, &due.cause, end, began);
            settled.extend(concluded.settled);
            ended.extend(concluded.ended);
            rows.push(row);
            answers.push((due.answer, concluded.report));
        }
        claimed.extend(nested_instances::settle_rows(core, &ended));
        // An error is logged, and retried.
        let _ = outcome::write(core, None, claimed);
        if !unclaimed.is_empty() {
            core.pending.settled.extend(unclaimed);
            flush::try_flush(core);
        }
        release::release_ended(core, &rows);
        for (answer, report) in answers {
            // A caller that no longer waits needs no answer.
            let _ = answer.map(|answer| answer.send(report));
        }
    }

    fn is_killing(&mut self, killing: bool) {
        self.core.background.set_killing(killing);
        self.killing = killing;
    }
}

impl Drop for Worker<'_> {
    /// Makes the queue no longer count the thread, however it ends.
    fn drop(&mut self) {
        if !self.gone {
            self.core.background.remove_worker(self.killing);
        }
    }
}
