//! Background ends: trees that have exceeded a limit, and trees whose handle was dropped.
//!
//! None of them may delay another one, nor the thread that requested it: the monitor records deaths, a pass continues, a
//! dropped handle may be on a runtime's thread. So a tree is put into a queue, and a worker thread ends what is in it
//! ([`end_as_they_come`]): each tree is asked to end as it arrives and has its own grace, cause and record, and the thread
//! exits when none is left. Another thread is started only while all the others are killing, which takes up to some seconds
//! where a process is stuck in the kernel; there are at most four.
//!
//! A tree is in the queue once: the right to end it ([`Entry::begin`]) is taken before it is put there. If an attempt fails,
//! the health pass makes the next one.
//!
//! Shutdown waits for these threads as for all others. What is queued before shutdown has closed the tracker is ended with its
//! own cause; what comes later is ended by the shutdown itself.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, mpsc::Sender},
    time::Instant,
};

use super::{
    outcome::Cause,
    run::{Feed, Tree, TreeEnd, World, end_as_they_come},
};
use crate::{
    model::{ProcessId, Report, task_text},
    store::TakeOver,
    tracker::{
        core::Core,
        runtime::{lock::lock, tracked::Entry},
    },
};

/// Maximum number of threads that end trees.
const WORKERS: usize = 4;

/// A tree that is to be ended, and why.
#[derive(Debug)]
pub(in crate::tracker) struct Due {
    pub(in crate::tracker) entry: Arc<Entry>,
    pub(in crate::tracker) cause: Cause,
    /// The channel on which the caller waits for the outcome, if it does.
    pub(in crate::tracker) answer: Option<Sender<Report>>,
}

/// Trees that wait to be ended, and how many threads are working on it.
#[derive(Debug, Default)]
pub(in crate::tracker) struct BackgroundEnds(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Due>,
    workers: usize,
    /// Workers that are killing, and accept nothing meanwhile.
    killing: usize,
}

impl Core {
    /// Ends trees in the background, all of them together. Trees that are already being ended are skipped.
    pub(in crate::tracker) fn end_aside(self: &Arc<Self>, due: Vec<Due>) {
        let due: Vec<Due> = due.into_iter().filter(|due| due.entry.begin()).collect();
        if due.is_empty() {
            return;
        }
        let mut queue = lock(&self.background.0);
        queue.waiting.extend(due);
        if queue.workers > queue.killing || queue.workers >= WORKERS {
            return;
        }
        queue.workers += 1;
        drop(queue);
        let core = Arc::clone(self);
        self.run_aside("procledger-ends", move || Worker::new(&core).run());
    }
}

/// A thread that ends what is in the queue.
struct Worker<'a> {
    core: &'a Arc<Core>,
    under_way: HashMap<ProcessId, Due>,
    /// Trees whose claims could not be written: they are ended regardless (invariant 10), and claimed with the outcome.
    unclaimed: HashSet<ProcessId>,
    killing: bool,
    /// It has left the queue, which no longer counts it.
    gone: bool,
}

impl<'a> Worker<'a> {
    fn new(core: &'a Arc<Core>) -> Self {
        let (under_way, unclaimed) = (HashMap::new(), HashSet::new());
        Self { core, under_way, unclaimed, killing: false, gone: false }
    }

    fn run(&mut self) {
        let core = self.core;
        end_as_they_come(self, &mut |root, found| core.record_found(root, found));
    }

    /// Takes what is queued, at most `room`. Where nothing is, an idle worker counts as gone.
    fn take(&mut self, idle: bool, room: usize) -> Vec<Due> {
        let mut queue = lock(&self.core.background.0);
        if queue.waiting.is_empty() && idle {
            queue.workers -= 1;
            self.gone = true;
        }
        let room = room.min(queue.waiting.len());
        queue.waiting.drain(..room).collect()
    }

    /// Claims trees and logs each once; a tree that has already ended, or is being ended by another instance, is given up.
    fn claim(&mut self, taken: Vec<Due>) -> Vec<Tree> {
        let entries: Vec<&Arc<Entry>> = taken.iter().map(|due| &due.entry).collect();
        let (trees, recorded) = self.core.claim_own(&entries, TakeOver::default());
        let claimed: HashSet<ProcessId> = trees.iter().map(|tree| tree.root.row).collect();
        for due in taken {
            let root = &due.entry.root;
            if !claimed.contains(&root.row) {
                self.core.give_up(&due.entry);
                continue;
            }
            tracing::warn!(
                "ending process {} for task {}: {}",
                root.identity.pid,
                task_text(root.task.as_ref()),
                due.cause.rule
            );
            if !recorded {
                self.unclaimed.insert(root.row);
            }
            self.under_way.insert(root.row, due);
        }
        trees
    }
}

impl<'a> Feed<'a> for Worker<'a> {
    fn join(&mut self, under_way: &[ProcessId], room: usize) -> Option<(World<'a>, Vec<Tree>)> {
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
            return Some((self.core.world_or_certain(&rows, &mut Report::default()), trees));
        }
    }

    fn done(&mut self, ends: Vec<TreeEnd>) {
        let core = self.core;
        let began = Instant::now();
        let (mut claimed, mut unclaimed) = (Vec::new(), Vec::new());
        let (mut rows, mut answers) = (Vec::new(), Vec::new());
        for end in ends {
            let row = end.root.row;
            let Some(due) = self.under_way.remove(&row) else { continue };
            let settled = if self.unclaimed.remove(&row) { &mut unclaimed } else { &mut claimed };
            let mut report = Report::default();
            core.conclude_tree(&due.cause, end, began, settled, &mut report);
            rows.push(row);
            answers.push((due.answer, report));
        }
        core.write(None, claimed, &mut Report::default());
        if !unclaimed.is_empty() {
            lock(&core.unsettled).extend(unclaimed);
            core.write_late();
        }
        core.release_ended(&rows);
        for (answer, report) in answers {
            // A caller that has gone away needs no answer.
            let _ = answer.map(|answer| answer.send(report));
        }
    }

    fn is_killing(&mut self, killing: bool) {
        let mut queue = lock(&self.core.background.0);
        if killing {
            queue.killing += 1;
        } else {
            queue.killing -= 1;
        }
        self.killing = killing;
    }
}

impl Drop for Worker<'_> {
    /// However the thread ends, it is no longer counted.
    fn drop(&mut self) {
        let mut queue = lock(&self.core.background.0);
        queue.killing -= usize::from(self.killing);
        queue.workers -= usize::from(!self.gone);
    }
}
