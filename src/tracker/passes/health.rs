//! The health pass: checks whether the recorded processes are still alive.
//!
//! The kernel notifies the monitor of a death within a millisecond; this pass is the safety net. It also records the
//! descendants of each root, with memory and CPU time, enforces limits, retries survivors, and writes what could not be written
//! before. The processes to be ended are ended after its scan, so that a long grace delays no other pass.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Kind, Result},
    model::{
        EndReason, Ending, InstanceId, LeakKind, Millis, Outcome, PassKind, ProcessId,
        ProcessRecord, Report, Suspect, state::State, task_text,
    },
    sys::{
        PidFd, Pinned, Probe, fd_table::which_are_dead, snapshot::Snapshot, spawn::gate::GATE_LIMIT,
    },
    tracker::{
        Tracker,
        core::Core,
        end::{
            background::Due,
            outcome::{Cause, Pass},
            root_exit::{Dead, log_dead, stray},
            run::preview,
        },
        runtime::{liveness::Life, lock::lock, tracked::Entry},
    },
};

impl Tracker {
    /// Checks every recorded process, and ends the rows of those that are gone.
    ///
    /// For this instance's own processes it also records the descendants of each root, with memory and CPU time, ends the trees
    /// that have passed a limit, and retries those that had survived.
    ///
    /// Rows of other instances are ended only when those instances are dead; a live owner keeps its exit codes.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read. Errors of a single process are in the report.
    pub fn health_pass(&self) -> Result<Report> {
        self.inner.core.instance.check_usable()?;
        self.inner.core.health_pass()
    }
}

/// The rule by which a pass ends what an earlier attempt did not.
pub(in crate::tracker) const SURVIVED: &str = "it had survived an earlier attempt";

/// Apart from its grace, ending a tree takes seconds at most; a pass waits no longer for one that is stuck.
const ENDS_LIMIT: Duration = Duration::from_secs(30);

/// What was found about our own rows.
#[derive(Default)]
struct Seen {
    alive: Vec<(ProcessRecord, Pinned)>,
    dead: Vec<Dead>,
    /// Ours, alive, and not being ended by any thread since an attempt to end them failed.
    left: Vec<ProcessRecord>,
    /// Processes left by roots of ours whose end was not noticed, claimed.
    strays: Vec<ProcessRecord>,
    /// Those roots: they are released when these processes have ended.
    unheld: Vec<Arc<Entry>>,
}

/// What a pass has found that is to be ended.
struct Found {
    /// Trees of ours that have passed a limit, or had survived.
    due: Vec<(Arc<Entry>, Cause)>,
    /// Claimed rows that lead to processes that were left, each with the kind of end it counts as.
    left: Vec<(Cause, ProcessRecord)>,
    /// Roots to be released when those processes have ended.
    unheld: Vec<Arc<Entry>>,
}

/// Ends in progress; a pass waits for their outcomes.
struct Awaited {
    answers: Receiver<Report>,
    count: usize,
    deadline: Instant,
}

impl Awaited {
    fn absorb_into(self, report: &mut Report) {
        for answered in 0..self.count {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(answer) => report.absorb(answer),
                // The others are being ended by another call.
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let open = self.count - answered;
                    report.errors.push(format!("{open} trees are still being ended"));
                    return;
                }
            }
        }
    }
}

impl Core {
    pub(in crate::tracker) fn health_pass(self: &Arc<Self>) -> Result<Report> {
        let pass = Pass::begin(PassKind::Health);
        let mut report = Report::default();
        // 1. One pass at a time scans.
        let found = self.health_look(&mut report)?;
        // 2. What takes a grace delays neither another pass nor a kill.
        let awaited = self.end_due_trees(found.due);
        self.try_again(found.left, &found.unheld, &mut report);
        awaited.absorb_into(&mut report);
        // 3. The record contains the outcomes.
        self.record_health_pass(&pass, &mut report);
        Ok(report)
    }

    /// Does the same on a thread that must not wait for the grace of a tree: trees are ended on another thread.
    pub(in crate::tracker) fn health_pass_without_waiting(self: &Arc<Self>) -> Result<()> {
        let pass = Pass::begin(PassKind::Health);
        let mut report = Report::default();
        let found = self.health_look(&mut report)?;
        drop(self.end_due_trees(found.due));
        let (left, unheld) = (found.left, found.unheld);
        if !(left.is_empty() && unheld.is_empty()) {
            let core = Arc::clone(self);
            self.run_aside("procledger-left", move || {
                core.try_again(left, &unheld, &mut Report::default());
            });
        }
        self.record_health_pass(&pass, &mut report);
        Ok(())
    }

    fn health_look(self: &Arc<Self>, report: &mut Report) -> Result<Found> {
        let _pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_late();
        self.finish_late();
        self.settle_claimed(&[]);
        self.reap_ended();
        self.reap_adopted();
        let dead_instances = self.dead_instances(report);
        let dead: Result<Vec<InstanceId>> = self.dead_claimants();
        if let Err(error) = dead.and_then(|dead| self.store.give_back(self.instance.id, &dead)) {
            report.errors.push(error.to_string());
        }
        let failed = |_: &_| self.counters().pass_failed(PassKind::Health);
        let rows = self.store.live().inspect_err(failed).inspect_err(|_| self.save_lost_wal())?;
        // Before any process is found alive: one that is alive afterwards had its PID while this snapshot was taken.
        let snapshot = self.proc.snapshot();
        let held = self.held_alive(&rows);
        let mut seen = Seen::default();
        let listed: HashSet<ProcessId> = rows.iter().map(|row| row.id).collect();
        for row in rows {
            report.checked += 1;
            if row.owner == self.instance.id {
                let held = match (held.get(&row.id), &snapshot) {
                    (Some(fd), Ok(snapshot)) => seen_alive(&row, fd, snapshot),
                    _ => None,
                };
                self.look_at_own(row, held, &mut seen, report);
            } else {
                self.look_at_other(row, &dead_instances, report);
            }
        }
        let removed = report.endings.len() + seen.dead.len();
        self.settle_found(&seen.dead, report);
        self.settle_unlisted(&listed);
        self.all_entries().iter().for_each(|entry| Self::notice_keeper(entry));
        self.bury_departed();
        let due = match &snapshot {
            Ok(snapshot) => self.look_below(snapshot, &seen.alive, report),
            Err(error) => {
                report.errors.push(error.to_string());
                Vec::new()
            }
        };
        let mut left = self.claim_left(&seen.left, report);
        left.extend(seen.strays.into_iter().map(|record| (stray(), record)));
        if removed > 0 {
            tracing::info!("Cleaned up {removed} dead processes from registry");
        }
        Ok(Found { due, left, unheld: seen.unheld })
    }

    fn record_health_pass(&self, pass: &Pass, report: &mut Report) {
        if let Err(error) = self.store.record_pass(self.instance.id, &pass.record(report)) {
            self.counters().pass_failed(PassKind::Health);
            self.save_lost_wal();
            tracing::error!("failed to record the health pass: {error}");
            report.errors.push(error.to_string());
        }
        self.notify_export();
    }

    /// Saves a lost WAL, where that is the reason that the ledger can neither be read nor written.
    fn save_lost_wal(&self) {
        if let Err(error) = self.store.save_lost_wal() {
            tracing::error!("{error}");
        }
    }

    fn dead_instances(&self, report: &mut Report) -> HashSet<InstanceId> {
        match self.judge_others() {
            Ok(others) => others
                .into_iter()
                .filter(|(_, life)| matches!(life, Life::Dead(_)))
                .map(|(instance, _)| instance.id)
                .collect(),
            Err(error) => {
                report.errors.push(error.to_string());
                HashSet::new()
            }
        }
    }

    /// Returns our rows whose processes are alive, by the pidfds that are held: one system call for all of them.
    pub(in crate::tracker) fn held_alive(
        &self,
        rows: &[ProcessRecord],
    ) -> HashMap<ProcessId, Arc<PidFd>> {
        let own = rows.iter().filter(|row| row.owner == self.instance.id);
        let (ids, fds): (Vec<ProcessId>, Vec<Arc<PidFd>>) =
            own.filter_map(|row| Some((row.id, self.entry(row.id)?.pidfd.clone()?))).unzip();
        // On an error each one is checked separately.
        let Ok(dead) = which_are_dead(&fds) else { return HashMap::new() };
        let all = ids.into_iter().zip(fds).zip(dead);
        all.filter_map(|(held, dead)| (!dead).then_some(held)).collect()
    }

    /// `held`: it was already found alive by its pidfd.
    fn look_at_own(
        self: &Arc<Self>,
        row: ProcessRecord,
        held: Option<Pinned>,
        seen: &mut Seen,
        report: &mut Report,
    ) {
        let probe = held
            .map_or_else(|| Pinned::probe(&self.proc, self.place(), &row.identity), Probe::Alive);
        match probe {
            Probe::Alive(pinned) => {
                if self.is_left(&row) {
                    seen.left.push(row.clone());
                }
                seen.alive.push((row, pinned));
            }
            Probe::Unknown(error) => report.suspects.push(unknown(row, &error.to_string())),
            Probe::Zombie(pinned) => self.found_dead(&row, Some(pinned), seen, report),
            Probe::Gone => self.found_dead(&row, None, seen, report),
        }
    }

    /// Returns whether a live row of ours has no entry by which it would be ended, and was to be ended before: an orphan or a
    /// stray that survived, or whose claim was given back.
    fn is_left(&self, row: &ProcessRecord) -> bool {
        let tried = row.state == State::Survived
            || (row.state == State::Running && row.last_error.is_some());
        let held =
            [Some(row.id), row.root].into_iter().flatten().any(|id| self.entry(id).is_some());
        tried && !held
    }

    /// Claims such rows, so that they are retried once (invariant 12), each with its earlier kind of end.
    fn claim_left(
        &self,
        left: &[ProcessRecord],
        report: &mut Report,
    ) -> Vec<(Cause, ProcessRecord)> {
        if left.is_empty() {
            return Vec::new();
        }
        let ids: Vec<ProcessId> = left.iter().map(|row| row.id).collect();
        let claimed = match self.store.claim(&ids, self.instance.id, Some(self.instance.id), None) {
            Ok(claimed) => claimed,
            Err(error) => {
                report.errors.push(error.to_string());
                return Vec::new();
            }
        };
        let with_cause = |row: ProcessRecord| {
            let survived = left.iter().any(|old| old.id == row.id && old.state == State::Survived);
            let leak = self.store.leak_kind(row.id).ok().flatten().or(match row.root {
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
            (Cause { reason, leak, rule: SURVIVED.into() }, row)
        };
        claimed.into_iter().map(with_cause).collect()
    }

    /// Ends claimed rows, all together, each with its own cause.
    fn try_again(
        &self,
        left: Vec<(Cause, ProcessRecord)>,
        unheld: &[Arc<Entry>],
        report: &mut Report,
    ) {
        let causes: HashMap<ProcessId, Cause> =
            left.iter().map(|(cause, row)| (row.id, cause.clone())).collect();
        let rows = left.into_iter().map(|(_, row)| row).collect();
        let cause_of = |row: ProcessId| causes.get(&row).cloned().unwrap_or_else(stray);
        let settled = self.end_claimed_each(&cause_of, rows, report);
        self.write(None, settled, report);
        for entry in unheld {
            self.let_go_unobserved(entry);
        }
    }

    /// Releases processes that have died while another instance ended their rows, in case the monitor has missed it.
    fn settle_unlisted(self: &Arc<Self>, listed: &HashSet<ProcessId>) {
        let unlisted =
            self.all_entries().into_iter().filter(|entry| !listed.contains(&entry.root.row));
        self.settle(&self.dead_among(unlisted));
    }

    /// Returns those of our processes that have died.
    pub(in crate::tracker) fn dead_among(
        &self,
        entries: impl Iterator<Item = Arc<Entry>>,
    ) -> Vec<Dead> {
        entries
            .filter_map(|entry| {
                let fd = self.pidfd_of(&entry)?;
                fd.is_dead().unwrap_or(false).then_some((entry, fd))
            })
            .collect()
    }

    /// Settles a root that we hold with its status; a row without an entry is closed, unless an entry is about to be created.
    fn found_dead(
        self: &Arc<Self>,
        row: &ProcessRecord,
        pinned: Option<Pinned>,
        seen: &mut Seen,
        report: &mut Report,
    ) {
        if let Some(entry) = self.entry(row.id) {
            if let Some(fd) = entry.pidfd.clone().or_else(|| pinned.map(Pinned::into_fd)) {
                self.note_last_seen(&entry);
                seen.dead.push((entry, fd));
            } else {
                // It has no entry, and was reaped by another process: its status is lost, its end is not.
                match self.has_left_something(row) {
                    Ok(true) if !entry.strays.keep => {
                        self.claim_strays(row, seen, report);
                        return seen.unheld.push(entry);
                    }
                    Ok(_) => self.record_gone(row, report),
                    Err(error) => {
                        let suspect = unknown(row.clone(), &error.to_string());
                        return report.suspects.push(suspect);
                    }
                }
                self.let_go_unobserved(&entry);
            }
            return;
        }
        let at_the_gate = row.root.is_none()
            && row.state == State::Running
            && row.last_error.is_none()
            && Millis::now().since(row.started_at) < GATE_LIMIT;
        let waits = lock(&self.unwritten).iter().any(|end| end.process == row.id)
            || lock(&self.unsettled).iter().any(|settled| settled.process == row.id);
        if !at_the_gate && !waits && row.state != State::Ending {
            match self.has_left_something(row) {
                Ok(true) => seen.left.push(row.clone()),
                Ok(false) => {
                    self.record_gone(row, report);
                    if row.root.is_some() {
                        // If this process has adopted it, its zombie is reaped as well.
                        lock(&self.adopted.unreaped).extend(pinned.map(Pinned::into_fd));
                    }
                }
                // Its row may be the only lead to the processes it left.
                Err(error) => report.suspects.push(unknown(row.clone(), &error.to_string())),
            }
        }
    }

    /// Releases a root whose exit status is unknown.
    fn let_go_unobserved(&self, entry: &Entry) {
        entry.publish(crate::model::ExitStatus::Unobserved);
        entry.mark_recorded();
        self.let_go(entry.root.row);
    }

    /// For a root of ours that is gone: its row leads to the processes it left, and is closed together with them.
    fn claim_strays(&self, row: &ProcessRecord, seen: &mut Seen, report: &mut Report) {
        match self.store.claim(&[row.id], self.instance.id, Some(self.instance.id), None) {
            Ok(claimed) => seen.strays.extend(claimed),
            Err(error) => report.errors.push(error.to_string()),
        }
    }

    fn look_at_other(&self, row: ProcessRecord, dead: &HashSet<InstanceId>, report: &mut Report) {
        match Pinned::probe(&self.proc, self.place(), &row.identity) {
            Probe::Alive(_) => {}
            Probe::Unknown(error) => report.suspects.push(unknown(row, &error.to_string())),
            // A child that an exec left to this process: the orphan pass records how it ended.
            Probe::Zombie(pinned) if matches!(pinned.fd().child_status(false), Ok(Some(_))) => {}
            Probe::Zombie(_) | Probe::Gone => {
                if dead.contains(&row.owner) && row.state != State::Ending {
                    if self.has_account(&row) {
                        let why =
                            "its keeper ends the processes it left: `procledger reap` records that";
                        return report.suspects.push(unknown(row, why));
                    }
                    match self.has_left_something(&row) {
                        Ok(false) => {}
                        Ok(true) => {
                            let why = "it is gone, but processes it left are alive: `procledger reap` ends them";
                            return report.suspects.push(unknown(row, why));
                        }
                        Err(error) => {
                            return report.suspects.push(unknown(row, &error.to_string()));
                        }
                    }
                    log_dead(row.identity.pid, &task_text(row.task.as_ref()));
                    self.record_gone(&row, report);
                }
            }
        }
    }

    /// Returns whether a root that is gone has members that are alive: its row, with the token, is the only lead to them.
    pub(in crate::tracker) fn has_left_something(&self, row: &ProcessRecord) -> Result<bool> {
        if row.token.is_none() {
            return Ok(false);
        }
        let world = self.world(&[row.id])?;
        let mut missed = false;
        for tree in self.trees_of_rows(std::slice::from_ref(row))? {
            let seen = preview(&world, tree)?;
            if seen.members.iter().any(|member| member.alive) {
                return Ok(true);
            }
            if seen.hides {
                return Ok(true);
            }
            missed |= seen.missed;
        }
        if missed {
            let what = "it is gone, and not all processes it left could be examined: retrying";
            return Err(Error::new(Kind::Unknown, what));
        }
        Ok(false)
    }

    fn settle_found(self: &Arc<Self>, dead: &[Dead], report: &mut Report) {
        for (entry, _) in dead {
            let root = &entry.root;
            if root.origin == crate::model::Origin::Spawned {
                // For the others settling logs it.
                log_dead(root.identity.pid, &task_text(root.task.as_ref()));
            }
            report.endings.push(Ending {
                task_id: root.task.clone(),
                pid: root.identity.pid,
                command: root.command.to_vec(),
                rule: "it is not there any more".into(),
                evidence: "identity".into(),
                outcome: Outcome::Gone,
                died_after_ms: None,
                obstacle: None,
            });
        }
        self.settle(dead);
    }

    /// Ends roots of ours on another thread, all together, each for its own cause.
    fn end_due_trees(self: &Arc<Self>, due: Vec<(Arc<Entry>, Cause)>) -> Awaited {
        let grace = due.iter().map(|(entry, _)| entry.root.limits.grace).max().unwrap_or_default();
        let (answer, answers) = channel();
        let count = due.len();
        let due = due.into_iter();
        let due = due.map(|(entry, cause)| Due { entry, cause, answer: Some(answer.clone()) });
        self.end_aside(due.collect());
        drop(answer);
        Awaited { answers, count, deadline: Instant::now() + grace + ENDS_LIMIT }
    }
}

/// A process that is alive, as shown by the snapshot, which was taken before that was checked.
pub(in crate::tracker) fn seen_alive(
    row: &ProcessRecord,
    fd: &Arc<PidFd>,
    snapshot: &Snapshot,
) -> Option<Pinned> {
    Pinned::held(Arc::clone(fd), row.identity, snapshot.get(row.identity.pid)?)
}

fn unknown(row: ProcessRecord, why: &str) -> Suspect {
    Suspect { task_id: row.task, pid: row.identity.pid, command: row.command, why: why.to_owned() }
}
