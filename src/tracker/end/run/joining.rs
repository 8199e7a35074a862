//! Runs ends that begin at different times on one thread.
//!
//! Trees exceed their limits one after another, each with its own grace. A thread for each end
//! would mean as many threads as trees; one batch after another would let the last tree run for the
//! sum of all graces. Here a tree joins the run that is in progress, is asked to end at once, and
//! is returned as soon as it has ended.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use super::{
    phases::{FAILED_SCAN_LIMIT, FREEZE_PAUSE, KILL_LIMIT, Run, SCAN_AGAIN, share_of_descriptors},
    state::{EndContext, TreeRun, TreeTarget},
    suspects,
    task_cgroup::kill_unseen,
    tree_outcome::{Recorder, TreeOutcome},
    wait::Deaths,
};
use crate::model::ProcessId;

/// Minimum time between two joins, as a multiple of the duration of a scan of all processes, which
/// each join requires. Trees that arrive meanwhile join together, so that scans take at most a
/// third of the time.
const BETWEEN_JOINS: u32 = 2;
/// The number of descriptors for a tree whose members are not known yet: its root, its task cgroup,
/// one descendant.
const DESCRIPTORS: usize = 3;

/// A queue of trees to end, and the destination of their outcomes.
pub(in crate::tracker) trait EndQueue<'a> {
    /// Returns at most `room` trees to be ended besides those in progress, and the context from now
    /// on; `None` if there are no trees. If none is in progress either, the run is over.
    fn join(
        &mut self,
        under_way: &[ProcessId],
        room: usize,
    ) -> Option<(EndContext<'a>, Vec<TreeTarget>)>;

    /// Receives the outcomes of trees that have ended.
    fn done(&mut self, ends: Vec<TreeOutcome>);

    /// Reports to the queue whether the run is killing, when no tree joins for up to some seconds.
    fn is_killing(&mut self, killing: bool);
}

/// Ends trees as they arrive, until none is in progress and no new one is available.
pub(in crate::tracker) fn end_as_they_come(
    queue: &mut dyn EndQueue<'_>,
    recorder: &mut Recorder<'_>,
) {
    let Some((context, trees)) = queue.join(&[], room(0)) else { return };
    let mut run = Run::new(Cow::Owned(context), Vec::new(), recorder);
    run.join(trees);
    let mut next_join = Instant::now() + SCAN_AGAIN;
    loop {
        // 1. Accept new trees.
        let began = Instant::now();
        if began >= next_join || run.trees.is_empty() {
            let rows: Vec<ProcessId> = run.trees.iter().map(|tree| tree.root.row).collect();
            if let Some((context, trees)) = queue.join(&rows, room(run.trees.len())) {
                run.context = Cow::Owned(context);
                run.join(trees);
            } else if run.trees.is_empty() {
                return;
            }
            next_join = Instant::now() + SCAN_AGAIN.max(began.elapsed() * BETWEEN_JOINS);
        }
        // 2. Ask new members to end, and kill those whose grace is over.
        run.ask_new();
        if run.expire() {
            queue.is_killing(true);
            run.kill();
            queue.is_killing(false);
            continue;
        }
        // 3. Return trees that have ended.
        let pending = run.next_deadline();
        let any_done = run.trees.iter().any(|tree| !tree.goes_on());
        if any_done && (pending.is_none() || Instant::now() >= run.next_scan) {
            let ends = run.take_ended();
            if !ends.is_empty() {
                queue.done(ends);
                continue;
            }
        }
        // 4. Wait for the others.
        let Some(deadline) = pending else {
            std::thread::sleep(FREEZE_PAUSE);
            continue;
        };
        run.await_death(deadline.saturating_duration_since(Instant::now()).min(SCAN_AGAIN));
        if !any_done && Instant::now() >= run.next_scan {
            run.scan();
            run.await_death(Duration::ZERO);
        }
    }
}

/// Returns for how many more trees there are descriptors; at least one if none is in progress.
fn room(under_way: usize) -> usize {
    (share_of_descriptors() / DESCRIPTORS).max(usize::from(under_way == 0))
}

impl Run<'_, '_> {
    /// Removes and returns the trees for which nothing is left to do, if one more scan shows that
    /// these members were all. If scans fail, or the tree keeps starting new processes, this is
    /// retried for a second.
    fn take_ended(&mut self) -> Vec<TreeOutcome> {
        let before = self.context.proc.last_allocated();
        let scanned = self.try_scan();
        let is_open = scanned.is_err() || self.is_open(before);
        let now = Instant::now();
        let mut gave_up = false;
        let ended: Vec<bool> = (self.trees.iter_mut())
            .map(|tree| {
                if tree.goes_on() {
                    tree.closing = None;
                    return false;
                }
                let since = *tree.closing.get_or_insert(now);
                let over = now.duration_since(since) >= FAILED_SCAN_LIMIT;
                gave_up |= is_open && over;
                !is_open || over
            })
            .collect();
        if let (true, Err(error)) = (gave_up, scanned) {
            tracing::error!("failed to scan for more members of the trees being ended: {error}");
        }
        let mut ended = ended.into_iter();
        let mut taken: Vec<TreeRun> =
            self.trees.extract_if(.., |_| ended.next().unwrap_or(false)).collect();
        if taken.is_empty() {
            return Vec::new();
        }
        // Processes in a task cgroup that cannot be seen are killed through the cgroup; the tree
        // has not ended before that.
        if kill_unseen(&self.context, &mut taken, KILL_LIMIT) {
            self.trees.append(&mut taken);
        }
        self.deaths = Deaths::restart(&mut self.trees);
        suspects::find(&self.context, &mut taken, &self.last);
        let unseen = self.unseen.as_deref();
        taken
            .into_iter()
            .map(|tree| {
                tree.remove_task_cgroup();
                tree.finish(&self.context, &self.last, unseen)
            })
            .collect()
    }
}
