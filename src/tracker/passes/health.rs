//! The health pass: checks whether recorded processes are still alive.
//!
//! The kernel notifies the monitor of a death within a millisecond; this pass is the safety net. It
//! also records the descendants of each root, with memory and CPU time, enforces limits, retries
//! survivors, and makes writes that failed before. Processes are ended only after its scan, so that
//! a long grace delays no other pass.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use super::{
    descendants,
    held_pidfds::{self, seen_alive},
    orphans,
    pass::Pass,
    retention::maintain,
};
use crate::{
    error::Result,
    model::{
        EndReason, Ending, InstanceId, LeakKind, Millis, Outcome, PassKind, ProcessId,
        ProcessRecord, Report, RuleKey, State, Suspect, task_text,
    },
    sys::{Pinned, Probe, spawn::gate::GATE_LIMIT},
    tracker::{
        core::Core,
        end::{
            adopted_zombies, background, claimed_trees, flush, foreign_claims, keeper_departure,
            keeper_end_logs, left_behind,
            missed_members::{self, is_missed},
            outcome::{self, Conclusion},
            release,
            root_exit::log_dead,
            settle,
        },
        runtime::{
            background_ends::Due,
            cause::Cause,
            liveness::Liveness,
            other_instances,
            pass_run::PassRun,
            tracked::{Dead, Tracked},
        },
    },
};

/// How long a pass waits for the ends of trees besides their grace; ending a tree takes seconds at
/// most, unless it is stuck.
const ENDS_LIMIT: Duration = Duration::from_secs(30);

/// A health pass that is due while the previous one is still running is retried after this time.
const RETRY: Duration = Duration::from_secs(1);

/// The periodic health pass, which runs on a separate thread, since it may wait for another pass,
/// for a grace, or for the ledger.
pub(super) struct HealthPass {
    next: Instant,
    interval: Duration,
}

impl HealthPass {
    pub(super) fn new(now: Instant, interval: Duration) -> Self {
        Self { next: now + interval, interval }
    }
}

impl Pass for HealthPass {
    fn due(&self, _core: &Core) -> Option<Instant> {
        Some(self.next)
    }

    fn run_once(&mut self, core: &Arc<Core>, _now: Instant) {
        let Some(running) = core.passes.begin_health() else {
            self.next = Instant::now() + self.interval.min(RETRY);
            return;
        };
        let theirs = Arc::clone(core);
        core.threads.run("procledger-health", move || {
            let _running = running;
            if let Err(error) = health_pass(&theirs) {
                tracing::error!("the health pass failed: {error}");
            }
            maintain(&theirs);
        });
        self.next = Instant::now() + self.interval;
    }
}

/// A scan of the recorded processes, with its results so far.
struct Scan<'a> {
    core: &'a Arc<Core>,
    /// Instances that are dead.
    dead_instances: HashSet<InstanceId>,
    report: Report,
    // The following are about our own rows.
    alive: Vec<(ProcessRecord, Pinned)>,
    dead: Vec<Dead>,
    /// Processes that are alive and that no thread is ending, although an earlier attempt to end
    /// them failed.
    left: Vec<ProcessRecord>,
    /// Claimed rows of processes left by roots of ours whose ends were not detected.
    strays: Vec<ProcessRecord>,
    /// Those roots, which are released when these processes have ended.
    unheld: Vec<Arc<Tracked>>,
}

/// The results of a scan: processes to be ended, and the report so far.
struct Found {
    report: Report,
    /// Trees of ours that have exceeded a limit, or had survived.
    due: Vec<(Arc<Tracked>, Cause)>,
    /// Claimed rows that lead to processes that were left, each with the cause of its end.
    left: Vec<(Cause, ProcessRecord)>,
    /// Roots to be released when those processes have ended.
    unheld: Vec<Arc<Tracked>>,
}

/// Ends in progress; a pass waits for their outcomes.
struct Awaited {
    answers: Receiver<Report>,
    count: usize,
    deadline: Instant,
}

impl Awaited {
    fn report(self) -> Report {
        let mut report = Report::default();
        for answered in 0..self.count {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(answer) => report.absorb(answer),
                // The others are being ended by another call.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let open = self.count - answered;
                    report.errors.push(format!("{open} trees are still being ended"));
                    break;
                }
            }
        }
        report
    }
}

pub(in crate::tracker) fn health_pass(core: &Arc<Core>) -> Result<Report> {
    let pass = PassRun::begin(PassKind::Health);
    // 1. One pass at a time scans.
    let Found { mut report, due, left, unheld } = scan_rows(core)?;
    // 2. Ends, which take a grace, delay neither another pass nor a kill.
    let awaited = end_due_trees(core, due);
    report.absorb(try_again(core, left, &unheld));
    report.absorb(awaited.report());
    // 3. The record of the pass contains the outcomes.
    report.add_error(record_health_pass(core, &pass, &report));
    Ok(report)
}

/// Does the same for a thread that must not wait for the grace of a tree: trees are ended on
/// another thread.
pub(in crate::tracker) fn health_pass_without_waiting(core: &Arc<Core>) -> Result<()> {
    let pass = PassRun::begin(PassKind::Health);
    let Found { report, due, left, unheld } = scan_rows(core)?;
    drop(end_due_trees(core, due));
    if !(left.is_empty() && unheld.is_empty()) {
        let theirs = Arc::clone(core);
        core.threads.run("procledger-left", move || {
            // Errors are logged.
            let _ = try_again(&theirs, left, &unheld);
        });
    }
    // Errors are logged, since no caller reads the report of this pass.
    let _ = record_health_pass(core, &pass, &report);
    Ok(())
}

fn scan_rows(core: &Arc<Core>) -> Result<Found> {
    let _pass = core.passes.begin_pass();
    flush::try_flush(core);
    release::finish_late(core);
    settle::settle_claimed(core, &[]);
    adopted_zombies::reap_ended(core);
    adopted_zombies::reap_adopted(core);
    let mut scan = Scan::begin(core);
    let dead = foreign_claims::dead_claimants(core);
    scan.report.add_error(dead.and_then(|dead| core.store.give_back(core.instance.id, &dead)));
    let failed = |_: &_| core.counters().pass_failed(PassKind::Health);
    let rows = core.store.live().inspect_err(failed).inspect_err(|_| save_lost_wal(core))?;
    // Taken before processes are checked: a process that is alive afterwards had its PID while the
    // snapshot was taken.
    let snapshot = core.proc.snapshot();
    let held = held_pidfds::held_alive(core, &rows);
    let listed: HashSet<ProcessId> = rows.iter().map(|row| row.id).collect();
    for row in rows {
        scan.report.checked += 1;
        if row.owner == core.instance.id {
            let held = match (held.get(&row.id), &snapshot) {
                (Some(fd), Ok(snapshot)) => seen_alive(&row, fd, snapshot),
                _ => None,
            };
            scan.check_own(row, held, &listed);
        } else {
            scan.check_other(row);
        }
    }
    let removed = scan.report.endings.len() + scan.dead.len();
    scan.report.endings.extend(settle_found(core, &scan.dead));
    settle_unlisted(core, &listed);
    core.registry.all().iter().for_each(|entry| entry.notice_keeper());
    keeper_departure::reap_departing(core);
    let due = match &snapshot {
        Ok(snapshot) => {
            let (due, written) = descendants::record_members(core, snapshot, &scan.alive);
            scan.report.add_error(written);
            due
        }
        Err(error) => {
            scan.report.errors.push(error.to_string());
            Vec::new()
        }
    };
    if removed > 0 {
        tracing::info!("Cleaned up {removed} dead processes from registry");
    }
    Ok(scan.finish(due))
}

/// Records the pass; returns the error if that fails.
fn record_health_pass(core: &Core, pass: &PassRun, report: &Report) -> Result<()> {
    let recorded = core.store.record_pass(core.instance.id, &pass.record(report));
    if let Err(error) = &recorded {
        core.counters().pass_failed(PassKind::Health);
        save_lost_wal(core);
        tracing::error!("failed to record the health pass: {error}");
    }
    core.export.notify();
    recorded
}

/// Saves a lost WAL, if that is why the ledger can neither be read nor written.
fn save_lost_wal(core: &Core) {
    if let Err(error) = core.store.save_lost_wal() {
        tracing::error!("{error}");
    }
}

fn dead_instances(core: &Core) -> Result<HashSet<InstanceId>> {
    let others = other_instances::check_others(&core.store, &core.proc, &core.instance)?;
    let dead = others.into_iter().filter(|(_, life)| matches!(life, Liveness::Dead(_)));
    Ok(dead.map(|(instance, _)| instance.id).collect())
}

impl<'a> Scan<'a> {
    fn begin(core: &'a Arc<Core>) -> Self {
        let mut scan = Self {
            core,
            dead_instances: HashSet::new(),
            report: Report::default(),
            alive: Vec::new(),
            dead: Vec::new(),
            left: Vec::new(),
            strays: Vec::new(),
            unheld: Vec::new(),
        };
        match dead_instances(core) {
            Ok(dead) => scan.dead_instances = dead,
            Err(error) => scan.report.errors.push(error.to_string()),
        }
        scan
    }

    /// Checks a row of ours. `held`: its process was already found alive by its pidfd.
    /// `listed`: all live rows.
    fn check_own(&mut self, row: ProcessRecord, held: Option<Pinned>, listed: &HashSet<ProcessId>) {
        let core = self.core;
        let probe = held.map_or_else(
            || Pinned::probe(&core.proc, core.pid_scope(), &row.spec.identity),
            Probe::Alive,
        );
        match probe {
            Probe::Alive(pinned) => {
                if is_left(core, &row, listed) {
                    self.left.push(row.clone());
                }
                self.alive.push((row, pinned));
            }
            Probe::Unknown(error) => self.suspect(row, &error.to_string()),
            Probe::Zombie(pinned) => self.found_dead(row, Some(pinned)),
            Probe::Gone => self.found_dead(row, None),
        }
    }

    /// Settles a tracked root with its status; a row without an entry is closed, unless an entry is
    /// about to be created.
    fn found_dead(&mut self, row: ProcessRecord, pinned: Option<Pinned>) {
        let core = self.core;
        if let Some(entry) = core.registry.get(row.id) {
            if let Some(fd) = entry.pidfd.clone().or_else(|| pinned.map(Pinned::into_fd)) {
                note_last_seen(core, &entry);
                self.dead.push((entry, fd));
            } else {
                self.found_reaped(row, entry);
            }
            return;
        }
        let at_the_gate = row.spec.root.is_none()
            && row.life.state() == State::Running
            && row.last_error.is_none()
            && Millis::now().since(row.spec.started_at) < GATE_LIMIT;
        let waits = core.pending.rows().contains(&row.id);
        if at_the_gate || waits || row.life.state() == State::Ending {
            return;
        }
        match left_behind::has_left_something(core, &row) {
            Ok(true) => self.left.push(row),
            Ok(false) => {
                self.report.absorb(orphans::record_gone(core, &row));
                if row.spec.root.is_some() {
                    // If this process has adopted it, its zombie is reaped as well.
                    core.zombies.unreaped.extend(pinned.map(Pinned::into_fd));
                }
            }
            // Its row may be the only record that leads to the processes that it left.
            Err(error) => self.suspect(row, &error.to_string()),
        }
    }

    /// Handles a root of ours without a held pidfd that another process has reaped: its status is
    /// lost, but its end is recorded.
    fn found_reaped(&mut self, row: ProcessRecord, entry: Arc<Tracked>) {
        let core = self.core;
        match left_behind::has_left_something(core, &row) {
            Ok(true) if !entry.strays.keep => {
                // Its row leads to the processes that it left, and is closed together with them.
                match core.store.claim(&[row.id], core.instance.id, Some(core.instance.id), None) {
                    Ok(claimed) => self.strays.extend(claimed),
                    Err(error) => self.report.errors.push(error.to_string()),
                }
                return self.unheld.push(entry);
            }
            Ok(_) => self.report.absorb(orphans::record_gone(core, &row)),
            Err(error) => return self.suspect(row, &error.to_string()),
        }
        untrack_unobserved(core, &entry);
    }

    fn check_other(&mut self, row: ProcessRecord) {
        let core = self.core;
        match Pinned::probe(&core.proc, core.pid_scope(), &row.spec.identity) {
            Probe::Alive(_) => return,
            Probe::Unknown(error) => return self.suspect(row, &error.to_string()),
            // A child that a former image left to this process; the orphan pass records how it
            // ended.
            Probe::Zombie(pinned) if matches!(pinned.fd().child_status(false), Ok(Some(_))) => {
                return;
            }
            Probe::Zombie(_) | Probe::Gone => {}
        }
        if !self.dead_instances.contains(&row.owner) || row.life.state() == State::Ending {
            return;
        }
        if keeper_end_logs::has_end_log(core, &row) {
            let why = "its keeper ends the processes that it left: `procledger reap` records that";
            return self.suspect(row, why);
        }
        match left_behind::has_left_something(core, &row) {
            Ok(false) => {}
            Ok(true) => {
                let why =
                    "it is gone, but processes that it left are alive: `procledger reap` ends them";
                return self.suspect(row, why);
            }
            Err(error) => return self.suspect(row, &error.to_string()),
        }
        // An instance that is ending a tree may have just ended this process and its instance with
        // that tree, and knows why.
        match self.others_end_trees() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return self.suspect(row, &error.to_string()),
        }
        log_dead(row.pid(), &task_text(row.spec.task_id.as_ref()));
        self.report.absorb(orphans::record_gone(core, &row));
    }

    /// Returns whether live instances are ending rows.
    fn others_end_trees(&self) -> Result<bool> {
        let core = self.core;
        let others = core.store.other_claimants(core.instance.id)?;
        Ok(others.iter().any(|it| !foreign_claims::is_dead_claimant(core, it.id)))
    }

    fn suspect(&mut self, row: ProcessRecord, why: &str) {
        self.report.suspects.push(Suspect {
            pid: row.pid(),
            task_id: row.spec.task_id,
            command: row.spec.command,
            why: why.to_owned(),
        });
    }

    /// Claims the rows that are to be retried. `due` are trees that have exceeded a limit, or had
    /// survived.
    fn finish(mut self, due: Vec<(Arc<Tracked>, Cause)>) -> Found {
        let claimed = claim_left(self.core, &self.left);
        let mut left = claimed.unwrap_or_else(|error| {
            self.report.errors.push(error.to_string());
            Vec::new()
        });
        left.extend(self.strays.into_iter().map(|record| (Cause::stray(), record)));
        Found { report: self.report, due, left, unheld: self.unheld }
    }
}

/// Returns whether a live row of ours is to be ended, but has no entry by which it would be: an
/// orphan or a stray that survived, or whose claim was given back, or a member of a tree that
/// another instance has ended without it.
fn is_left(core: &Core, row: &ProcessRecord, listed: &HashSet<ProcessId>) -> bool {
    let tried =
        matches!(row.life.state(), State::Survived | State::Running) && !was_never_tried(row);
    let held = [Some(row.id), row.spec.root]
        .into_iter()
        .flatten()
        .any(|id| core.registry.get(id).is_some());
    !held && (tried || is_missed(core, row, listed))
}

/// Claims such rows, so that they are ended, or retried once (invariant 12), each with its earlier
/// cause.
fn claim_left(core: &Core, left: &[ProcessRecord]) -> Result<Vec<(Cause, ProcessRecord)>> {
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<ProcessId> = left.iter().map(|row| row.id).collect();
    let claimed = core.store.claim(&ids, core.instance.id, Some(core.instance.id), None)?;
    let with_cause = |row: ProcessRecord| {
        let old = left.iter().find(|old| old.id == row.id);
        if row.spec.root.is_some() && old.is_some_and(was_never_tried) {
            return (missed_members::cause(core, &row), row);
        }
        let survived = old.is_some_and(|old| old.life.state() == State::Survived);
        let leak = core.store.leak_kind(row.id).ok().flatten().or(match row.spec.root {
            _ if survived => None,
            Some(_) => Some(LeakKind::Stray),
            None => Some(LeakKind::Orphan),
        });
        let reason = match leak {
            Some(LeakKind::Orphan) => EndReason::Orphan,
            Some(LeakKind::Stray) => EndReason::Stray,
            Some(LeakKind::Unregistered) => EndReason::Unregistered,
            None => EndReason::Terminated,
        };
        (Cause { reason, leak, rule: RuleKey::SurvivedBefore.into() }, row)
    };
    Ok(claimed.into_iter().map(with_cause).collect())
}

fn was_never_tried(row: &ProcessRecord) -> bool {
    row.life.state() == State::Running && row.last_error.is_none()
}

/// Ends claimed rows, all together, each with its own cause.
fn try_again(core: &Core, left: Vec<(Cause, ProcessRecord)>, unheld: &[Arc<Tracked>]) -> Report {
    let causes: HashMap<ProcessId, Cause> =
        left.iter().map(|(cause, row)| (row.id, cause.clone())).collect();
    let rows = left.into_iter().map(|(_, row)| row).collect();
    let cause_of = |row: ProcessId| causes.get(&row).cloned().unwrap_or_else(Cause::stray);
    let Conclusion { settled, mut report, .. } =
        claimed_trees::end_claimed_each(core, &cause_of, rows);
    report.add_error(outcome::write(core, None, settled));
    for entry in unheld {
        untrack_unobserved(core, entry);
    }
    report
}

/// Releases processes that died while another instance ended their rows, in case the monitor missed
/// that.
fn settle_unlisted(core: &Arc<Core>, listed: &HashSet<ProcessId>) {
    let unlisted =
        core.registry.all().into_iter().filter(|entry| !listed.contains(&entry.root.row));
    settle::settle(core, &settle::dead_among(core, unlisted));
}

/// Releases a root whose exit status is unknown.
fn untrack_unobserved(core: &Core, entry: &Tracked) {
    entry.publish(crate::model::ExitStatus::Unobserved);
    entry.mark_recorded();
    release::untrack(core, entry.root.row);
}

fn settle_found(core: &Arc<Core>, dead: &[Dead]) -> Vec<Ending> {
    let ending = |(entry, _): &Dead| {
        let root = &entry.root;
        if root.origin == crate::model::Origin::Spawned {
            // For the others the end is logged when it is settled.
            log_dead(root.identity.pid, &task_text(root.task.as_ref()));
        }
        Ending {
            task_id: root.task.clone(),
            pid: root.identity.pid,
            command: root.command.to_vec(),
            rule: RuleKey::Gone.sentence().into(),
            evidence: "identity".into(),
            outcome: Outcome::Gone,
            stop_signal: None,
            died_after: None,
            obstacle: None,
        }
    };
    let endings = dead.iter().map(ending).collect();
    settle::settle(core, dead);
    endings
}

/// Ends roots of ours in the background, all together, each with its own cause.
fn end_due_trees(core: &Arc<Core>, due: Vec<(Arc<Tracked>, Cause)>) -> Awaited {
    let grace = due.iter().map(|(entry, _)| entry.root.asking_time()).max().unwrap_or_default();
    let (answer, answers) = channel();
    let count = due.len();
    let due = due.into_iter();
    let due = due.map(|(entry, cause)| Due { entry, cause, answer: Some(answer.clone()) });
    background::end_in_background(core, due.collect());
    drop(answer);
    Awaited { answers, count, deadline: Instant::now() + grace + ENDS_LIMIT }
}

/// Notes when a process that a health pass found dead was last known to be alive: at the previous
/// pass, or at its start if that was later.
fn note_last_seen(core: &Core, entry: &Tracked) {
    let age = entry.root.age();
    let since = core.counters().since_last_began(PassKind::Health).unwrap_or(age).min(age);
    if let Some(at) = Instant::now().checked_sub(since) {
        let _ = entry.died_since.set(at);
    }
}
