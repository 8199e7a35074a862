//! The steps of an end: request, wait, freeze, kill, scan again.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::{
    end_plan::Stage,
    new_members::has_new_members,
    rescan::{resume, stop_on_sight},
    scan::scan,
    state::{EndContext, TokenCache, TreeRun, TreeTarget, suspected},
    suspects,
    task_cgroup::kill_unseen,
    tree_outcome::{Preview, Recorder, Seen, TreeOutcome},
    wait::Deaths,
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::{fd_table::free_descriptors, poll::timespec, snapshot::Snapshot},
    tracker::{membership::process_info::ProcessInfo, runtime::tracked::Root},
};

/// Time limit for the death of a killed process, which takes milliseconds; a process that takes
/// longer is stuck in the kernel and counts as a survivor.
pub(super) const KILL_LIMIT: Duration = Duration::from_secs(1);
/// The limit restarts while processes keep dying, since many die at once on an overloaded machine;
/// this is the maximum in all.
const KILL_CAP: Duration = Duration::from_secs(5);
/// Limit on scans during a freeze: two or three are enough, unless members cannot be stopped.
const FREEZE_SCANS: u32 = 50;
/// Limit on the duration of one freeze, since scans are slow on a busy machine. After this, the
/// known members are killed.
const FREEZE_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two scans of a tree that is still stopping.
pub(super) const FREEZE_PAUSE: Duration = Duration::from_millis(1);
/// How long the last scan is retried if `/proc` cannot be read: a lack of descriptors is usually
/// over within moments.
pub(super) const FAILED_SCAN_LIMIT: Duration = Duration::from_secs(1);
/// How often the scan for the strays of a dead root is repeated while a process cannot be pinned,
/// appeared during the scan, or is calling exec.
const STRAY_SCANS: u32 = 20;
/// The minimum time for which the scan is repeated.
const STRAYS_TAKE: Duration = Duration::from_millis(500);
/// The maximum time, however slow the scans are. After this it is unknown what the root left, and
/// the scan is repeated later. On a machine on which one scan takes seconds, twenty of them had
/// delayed the monitor, and with it the end of its host, for minutes.
const STRAYS_LIMIT: Duration = Duration::from_secs(5);
/// Minimum pause between scans for processes that members started before they exited, while members
/// are dying.
pub(super) const SCAN_AGAIN: Duration = Duration::from_millis(20);
/// Minimum pause as a multiple of the duration of a scan, so that scanning takes at most a tenth of
/// the time.
const BETWEEN_SCANS: u32 = 9;

/// Ends all trees together, and returns the outcome for each member.
pub(in crate::tracker) fn end_trees(
    context: &EndContext<'_>,
    trees: Vec<TreeTarget>,
    recorder: &mut Recorder<'_>,
) -> Vec<TreeOutcome> {
    end_trees_unless(context, trees, recorder, None)
}

/// Does the same, but once `interrupt` is set, a tree whose grace is not over is left as it is. Any
/// other tree is ended regardless, since a part of it may be stopped.
pub(in crate::tracker) fn end_trees_unless(
    context: &EndContext<'_>,
    trees: Vec<TreeTarget>,
    recorder: &mut Recorder<'_>,
    interrupt: Option<&AtomicBool>,
) -> Vec<TreeOutcome> {
    let mut outcomes = Vec::with_capacity(trees.len());
    for batch in batches(trees) {
        let mut run = Run::new(Cow::Borrowed(context), Vec::new(), recorder);
        run.join(batch);
        outcomes.extend(run.end(interrupt));
    }
    outcomes
}

/// Finds the processes that dead roots left, without signalling them. Fails if that cannot be
/// determined, because `/proc` cannot be read or there is no descriptor to pin a process with.
pub(in crate::tracker) fn strays(
    context: &EndContext<'_>,
    trees: &[TreeTarget],
) -> Result<Vec<Preview>> {
    let trees = trees.iter().map(|tree| TreeRun::new(context, tree.clone())).collect();
    let mut recorder = |_: &Root, _: &[&ProcessInfo]| HashMap::new();
    let mut run = Run::new(Cow::Borrowed(context), trees, &mut recorder);
    let began = Instant::now();
    for scans in 0.. {
        let before = context.proc.last_allocated();
        run.try_scan()?;
        let is_open = run.is_open(before) || run.trees.iter().any(TreeRun::hides);
        if !is_open || scans >= STRAY_SCANS && began.elapsed() > STRAYS_TAKE {
            break;
        }
        if began.elapsed() > STRAYS_LIMIT {
            let what = "processes start and exit faster than they can be scanned: will be retried";
            return Err(Error::new(Kind::Unknown, what));
        }
        // A process was seen in the session, and left it or exited before it was pinned. It, or a
        // process that it forked, can now be found by other evidence, and there is no later scan
        // for a root that has ended.
        std::thread::sleep(FREEZE_PAUSE);
    }
    Ok(run.preview(false))
}

/// Returns the current members of trees, as an end of all of them would find them, without
/// signalling any. Fails if `/proc` cannot be read.
pub(in crate::tracker) fn previews(
    context: &EndContext<'_>,
    trees: Vec<TreeTarget>,
) -> Result<Vec<Preview>> {
    let mut recorder = |_: &Root, _: &[&ProcessInfo]| HashMap::new();
    let mut previews = Vec::with_capacity(trees.len());
    for batch in batches(trees) {
        let trees = batch.into_iter().map(|tree| TreeRun::new(context, tree)).collect();
        let mut run = Run::new(Cow::Borrowed(context), trees, &mut recorder);
        let before = context.proc.last_allocated();
        run.try_scan()?;
        let missed = run.is_open(before);
        previews.extend(run.preview(missed));
    }
    Ok(previews)
}

/// Splits trees into batches for which there are enough descriptors at the same time; a tree that
/// needs more is alone.
fn batches(trees: Vec<TreeTarget>) -> Vec<Vec<TreeTarget>> {
    let share = share_of_descriptors();
    let (mut batches, mut taken) = (Vec::<Vec<TreeTarget>>::new(), 0);
    for tree in trees {
        let needs = descriptors(&tree);
        match batches.last_mut() {
            Some(batch) if taken + needs <= share => {
                taken += needs;
                batch.push(tree);
            }
            _ => {
                taken = needs;
                batches.push(vec![tree]);
            }
        }
    }
    batches
}

/// Returns the number of descriptors for the trees that are ended together: half of what this
/// process may still open. The rest is for members that a scan finds, and for other work of the
/// process.
pub(super) fn share_of_descriptors() -> usize {
    // If the open ones cannot even be counted, trees are ended one after another.
    free_descriptors().unwrap_or(0) / 2
}

/// Returns the number of descriptors that a tree needs before the first scan: a pidfd for each
/// process and its keeper, and its task cgroup.
fn descriptors(tree: &TreeTarget) -> usize {
    let root = &tree.root;
    1 + tree.recorded.len()
        + usize::from(root.cgroup.is_some())
        + usize::from(root.keeper.is_some())
}

pub(super) struct Run<'a, 'b> {
    pub(super) context: Cow<'a, EndContext<'a>>,
    pub(super) trees: Vec<TreeRun>,
    cache: TokenCache,
    recorder: &'a mut Recorder<'b>,
    pub(super) deaths: Deaths,
    /// When the last member died.
    progress: Instant,
    /// When the next scan is due. Its cost grows with the number of processes, so scans are spaced
    /// by their own duration.
    pub(super) next_scan: Instant,
    pub(super) last: Snapshot,
    /// Why the last scan failed.
    pub(super) unseen: Option<String>,
}

impl<'a, 'b> Run<'a, 'b> {
    pub(super) fn new(
        context: Cow<'a, EndContext<'a>>,
        trees: Vec<TreeRun>,
        recorder: &'a mut Recorder<'b>,
    ) -> Self {
        let now = Instant::now();
        let (cache, last) = (TokenCache::default(), Snapshot::default());
        Self {
            context,
            trees,
            cache,
            recorder,
            deaths: Deaths::new(),
            progress: now,
            next_scan: now,
            last,
            unseen: None,
        }
    }

    /// Returns the trees as the last scan showed them.
    fn preview(mut self, missed: bool) -> Vec<Preview> {
        suspects::find(&self.context, &mut self.trees, &self.last);
        let context = &self.context;
        let preview = |tree: TreeRun| Preview {
            missed,
            hides: tree.hides(),
            suspects: suspected(context, tree.suspects, tree.root.arguments),
            members: tree.members.into_iter().map(Seen::from).collect(),
            unknown: tree.unknown.into_iter().map(|left| left.why).collect(),
        };
        self.trees.into_iter().map(preview).collect()
    }

    fn end(mut self, interrupt: Option<&AtomicBool>) -> Vec<TreeOutcome> {
        loop {
            if interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Acquire)) {
                self.trees.iter_mut().for_each(TreeRun::interrupt);
            }
            self.ask_new();
            if self.expire() {
                self.kill();
                continue;
            }
            let Some(deadline) = self.next_deadline() else {
                // All are dead, or cannot be ended: scan once more for processes that were started
                // meanwhile.
                self.scan_once_more();
                if self.trees.iter().any(TreeRun::goes_on)
                    || kill_unseen(&self.context, &mut self.trees, KILL_LIMIT)
                {
                    continue;
                }
                break;
            };
            self.await_death(deadline.saturating_duration_since(Instant::now()).min(SCAN_AGAIN));
            if Instant::now() >= self.next_scan {
                self.scan();
                // With thousands of processes this takes longer than a grace, so deaths in the
                // meantime are handled before any grace expires.
                self.await_death(Duration::ZERO);
            }
        }
        self.trees.iter().for_each(TreeRun::remove_task_cgroup);
        suspects::find(&self.context, &mut self.trees, &self.last);
        let (context, last, unseen) = (self.context, self.last, self.unseen);
        self.trees.into_iter().map(|tree| tree.finish(&context, &last, unseen.as_deref())).collect()
    }

    /// Adds trees, and scans for their members; their first step begins after the scan, however
    /// long that takes. If the scan fails, members that may be exempt are left running.
    pub(super) fn join(&mut self, trees: Vec<TreeTarget>) {
        let first = self.trees.len();
        let began = Instant::now();
        // The snapshot is taken before the roots are pinned, so that roots whose pidfds are held
        // need not be read again.
        let snapshot = self.context.proc.snapshot();
        for tree in trees {
            let tree = TreeRun::seen(&self.context, tree, snapshot.as_ref().ok());
            tree.thaw_all();
            self.trees.push(tree);
        }
        if let Err(error) = self.scan_in(snapshot, began) {
            let context = &self.context;
            self.trees[first..].iter_mut().for_each(|tree| tree.doubt_recorded(context, &error));
        }
        let context = &self.context;
        let opened = self.trees[first..].iter_mut().map(|tree| tree.open_up_task_cgroup(context));
        // `count` visits all of them, while `any` would stop at the first.
        if opened.filter(|opened| *opened).count() > 0 {
            self.scan();
        }
        self.trees[first..].iter_mut().for_each(|tree| tree.stage = Stage::first());
    }

    pub(super) fn await_death(&mut self, limit: Duration) {
        if self.wait(limit) {
            self.progress = Instant::now();
        }
    }

    /// Scans, and returns whether there is a new member. If `/proc` cannot be read, the known
    /// members are ended regardless.
    pub(super) fn scan(&mut self) -> bool {
        self.try_scan().unwrap_or(false)
    }

    /// Scans to determine whether these were all members. A scan that fails, or finds a process
    /// that is gone before it can be pinned, does not decide this.
    fn scan_once_more(&mut self) {
        let deadline = Instant::now() + FAILED_SCAN_LIMIT;
        loop {
            let before = self.context.proc.last_allocated();
            let scanned = self.try_scan();
            let is_open = scanned.is_err() || self.is_open(before);
            if !is_open || self.trees.iter().any(TreeRun::goes_on) {
                return;
            }
            if Instant::now() >= deadline {
                if let Err(error) = scanned {
                    tracing::error!(
                        "failed to scan for more members of the trees being ended: {error}"
                    );
                }
                return;
            }
            std::thread::sleep(FREEZE_PAUSE);
        }
    }

    /// Returns whether the last scan may have missed members. `before` is the last PID that was
    /// allocated before it.
    pub(super) fn is_open(&mut self, before: Option<Pid>) -> bool {
        for tree in &mut self.trees {
            tree.vanished |= tree.has_unseen_children(&self.context);
        }
        self.trees.iter().any(|tree| tree.vanished)
            || has_new_members(&self.context, &self.trees, &self.last, before)
    }

    pub(super) fn try_scan(&mut self) -> Result<bool> {
        let began = Instant::now();
        self.scan_in(self.context.proc.snapshot(), began)
    }

    /// Does the same with a snapshot that was begun at `began`.
    fn scan_in(&mut self, snapshot: Result<Snapshot>, began: Instant) -> Result<bool> {
        let scanned = snapshot.and_then(|snapshot| {
            scan(&self.context, snapshot, &mut self.trees, &mut self.cache, self.recorder)
        });
        self.next_scan = Instant::now() + SCAN_AGAIN.max(began.elapsed() * BETWEEN_SCANS);
        self.unseen = scanned.as_ref().err().map(ToString::to_string);
        let (snapshot, any_new) = scanned?;
        self.last = snapshot;
        Ok(any_new)
    }

    /// Asks the recipients of the current step of each tree to end.
    pub(super) fn ask_new(&mut self) {
        let mut begun = Vec::new();
        for (index, tree) in self.trees.iter_mut().enumerate() {
            tree.take_next_step(self.progress);
            if tree.ask(&self.last) {
                begun.push(index);
            }
        }
        if begun.is_empty() {
            return;
        }
        // Asking thousands takes longer than a short grace. So the grace of all begins when the
        // last one was asked, and deaths until then are noted before it is over.
        let now = Instant::now();
        for index in begun {
            let tree = &mut self.trees[index];
            tree.stage = tree.stage.since(now);
        }
        self.await_death(Duration::ZERO);
    }

    /// Returns when the first grace is over; `None` if no member is left to wait for.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.trees.iter().filter(|tree| tree.is_in_grace());
        waiting.filter_map(|tree| tree.deadline(self.progress)).min()
    }

    /// Marks the trees whose last grace is over; returns whether any has members to kill.
    pub(super) fn expire(&mut self) -> bool {
        let now = Instant::now();
        for tree in self.trees.iter_mut().filter(|tree| tree.is_in_grace()) {
            let is_over = tree.deadline(self.progress).is_some_and(|deadline| deadline <= now);
            if is_over && tree.stage.next_step(&tree.steps, !tree.has_root_to_ask(), now).is_none()
            {
                tree.stage = Stage::Killing { rounds: 0 };
            }
        }
        self.trees.iter().any(TreeRun::must_be_killed)
    }

    /// Waits until a member dies, at most `limit`; marks all that are dead, and returns whether
    /// there were any.
    fn wait(&mut self, limit: Duration) -> bool {
        match self.deaths.wait(&mut self.trees, limit) {
            Some(any) => any,
            None => self.wait_by_asking(limit),
        }
    }

    /// Does the same without epoll, if that is not available or cannot watch all of them.
    fn wait_by_asking(&mut self, limit: Duration) -> bool {
        let mut fds: Vec<PollFd<'_>> = (self.trees.iter())
            .flat_map(|tree| &tree.members)
            .filter(|member| member.is_alive())
            .filter_map(|member| Some(PollFd::new(member.pinned.as_ref()?.fd(), PollFlags::IN)))
            .collect();
        match poll(&mut fds, Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory for the poll: check each after a pause.
            Err(_) => std::thread::sleep(limit.min(FREEZE_PAUSE)),
        }
        drop(fds);
        self.mark_dead()
    }

    fn mark_dead(&mut self) -> bool {
        let mut any = false;
        for member in self.trees.iter_mut().flat_map(TreeRun::alive) {
            any |= member.check_death();
        }
        any
    }

    /// Freezes the remaining members of expired trees until no new member appears, kills them, and
    /// waits.
    pub(super) fn kill(&mut self) {
        for tree in self.trees.iter_mut().filter(|tree| tree.must_be_killed()) {
            if let Stage::Killing { rounds } = &mut tree.stage {
                *rounds += 1;
            }
        }
        self.freeze();
        self.trees.iter_mut().filter(|tree| tree.stage.is_killing()).for_each(TreeRun::kill);
        let start = Instant::now();
        let mut last = start;
        while self.trees.iter().any(TreeRun::is_dying)
            && last.elapsed() < KILL_LIMIT
            && start.elapsed() < KILL_CAP
        {
            if self.wait(KILL_LIMIT.saturating_sub(last.elapsed())) {
                last = Instant::now();
            }
        }
        self.progress = Instant::now();
        self.scan();
    }

    /// Stops all members of the trees that are to be frozen until no new one appears; returns
    /// whether that succeeded.
    pub(super) fn freeze(&mut self) -> bool {
        let start = Instant::now();
        for _ in 0..FREEZE_SCANS {
            if start.elapsed() > FREEZE_LIMIT {
                return false;
            }
            self.trees.iter_mut().filter(|tree| tree.stage.freezes()).for_each(TreeRun::stop);
            let stopped = stop_on_sight(&self.context, &self.trees);
            let any_new = self.scan() || !stopped.is_empty();
            resume(&self.trees, stopped);
            self.mark_dead();
            let still = self
                .trees
                .iter()
                .filter(|tree| tree.stage.freezes())
                .all(|tree| tree.is_still(&self.last));
            if still && !any_new {
                return true;
            }
            std::thread::sleep(FREEZE_PAUSE);
        }
        false
    }
}
