//! The orphan pass: finds and ends what dead instances left.
//!
//! One transaction marks the dead instances and takes over their rows, so two hosts that restart at once never both act; the
//! ends follow outside of any transaction; a second transaction records the outcome for each.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    model::{
        DeadInstance, End, EndReason, Ending, ExitStatus, InstanceRecord, LeakKind, Millis, Origin,
        OrphanClaim, Outcome, PassKind, ProcessId, ProcessRecord, Report, Settled, Suspect,
        state::State,
    },
    sys::{Pinned, Probe},
    tracker::{
        Tracker,
        core::Core,
        end::{
            outcome::{Cause, Pass},
            root_exit::stray,
        },
        runtime::{
            liveness::{Life, orphan_rule},
            tracked::Hold,
        },
    },
};

/// How long `open` waits for another reaper that is at work: longer than any grace cap and kill limit together.
const OTHER_REAPER_LIMIT: Duration = Duration::from_secs(10);
const OTHER_REAPER_PAUSE: Duration = Duration::from_millis(10);

impl Tracker {
    /// Ends what dead instances left, and the processes that match the configured names; returns when each is gone or has
    /// survived.
    ///
    /// [`open`](crate::Builder::open) does this by itself.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read, or rows cannot be claimed. Errors of a single process are in the report.
    pub fn reap_orphans(&self) -> Result<Report> {
        self.inner.core.instance.check_usable()?;
        self.inner.core.reap_orphans()
    }
}

impl Core {
    pub(in crate::tracker) fn reap_orphans(self: &Arc<Self>) -> Result<Report> {
        let _pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + OTHER_REAPER_LIMIT;
        let mut report = self.orphan_pass()?;
        // A reaper that dies while we wait for it loses its claims to us.
        while self.other_reaper_has_died(deadline, &mut report) {
            report.absorb(self.orphan_pass()?);
        }
        self.reap_former_roots();
        self.instance.mark_clean();
        Ok(report)
    }

    fn orphan_pass(self: &Arc<Self>) -> Result<Report> {
        self.try_orphan_pass().inspect_err(|_| self.counters().pass_failed(PassKind::Orphan))
    }

    fn try_orphan_pass(self: &Arc<Self>) -> Result<Report> {
        let pass = Pass::begin(PassKind::Orphan);
        let mut report = Report::default();
        let dead = self.find_dead(&mut report)?;
        // Rows of instances that cannot be judged as dead, but that have no claims any more.
        if let Err(error) = self.give_dead_claims_back(&dead) {
            report.errors.push(error.to_string());
        }
        let uid_limit = (self.instance.observer.uid != 0).then_some(self.instance.observer.uid);
        let claim = self.store.claim_orphans(
            self.instance.id,
            &self.options.program,
            uid_limit,
            &dead,
            pass.started_at,
        )?;
        self.log_loaded(&claim);
        self.report_gone(&claim, &mut report);
        let adopted = self.adopt(&claim.adopted, &mut report);
        let cause = |replaced| Cause {
            reason: EndReason::Orphan,
            leak: Some(LeakKind::Orphan),
            rule: orphan_rule(replaced).into(),
        };
        let (dead, replaced) = (cause(false), cause(true));
        let cause_of = |row| {
            if claim.replaced.contains(&row) { replaced.clone() } else { dead.clone() }
        };
        let left = claim.claimed.iter().chain(&claim.adopted);
        let left: Vec<&ProcessRecord> =
            left.filter(|row| row.root.is_none() && claim.replaced.contains(&row.id)).collect();
        self.remember_replaced(&left);
        let keepers = self.await_keepers(&claim.claimed);
        let mut settled = self.end_claimed_each(&cause_of, claim.claimed, &mut report);
        self.end_keepers(keepers);
        settled.extend(adopted);
        settled.extend(self.sweep(&mut report));
        log_cleaned(&report);
        self.write(Some(pass), settled, &mut report);
        self.take_late_ends();
        self.remove_branches_of_others();
        self.remove_stale_locks();
        self.remove_end_logs();
        Ok(report)
    }

    fn find_dead(&self, report: &mut Report) -> Result<Vec<DeadInstance>> {
        let mut dead = Vec::new();
        for (instance, life) in self.judge_others_at_rest()? {
            match life {
                Life::Alive => {}
                Life::Dead(record) => dead.push(record),
                Life::Unknown(why) => self.report_unknown(&instance, &why, report),
            }
        }
        Ok(dead)
    }

    /// Reports what an instance that cannot be judged has left; it is left alone.
    fn report_unknown(&self, instance: &InstanceRecord, why: &str, report: &mut Report) {
        let rows = self.store.live_of(instance.id).unwrap_or_default();
        report.checked += rows.len() as u64;
        report.suspects.extend(rows.into_iter().map(|row| Suspect {
            task_id: row.task,
            pid: row.identity.pid,
            command: row.command,
            why: format!(
                "its instance {} (pid {}) cannot be judged: {why}",
                instance.program, instance.identity.pid
            ),
        }));
    }

    /// The line of the former implementation; the path is the export's where there is one, as there.
    fn log_loaded(&self, claim: &OrphanClaim) {
        let loaded = claim.claimed.len() + claim.adopted.len() + claim.gone.len();
        if loaded > 0 {
            let path = self.options.export.as_deref().unwrap_or_else(|| self.store.path());
            tracing::info!("Loaded {loaded} persisted processes from {}", path.display());
        }
    }

    fn report_gone(&self, claim: &OrphanClaim, report: &mut Report) {
        report.checked += claim.gone.len() as u64;
        report.endings.extend(claim.gone.iter().map(|row| Ending {
            task_id: row.task.clone(),
            pid: row.identity.pid,
            command: row.command.clone(),
            rule: "its machine was restarted, or its PID namespace is gone".into(),
            evidence: "boot id or namespace".into(),
            outcome: Outcome::Gone,
            died_after_ms: None,
            obstacle: None,
        }));
        if !claim.gone.is_empty() {
            self.notify_export();
        }
    }

    /// Adopts what a former run of this program left on purpose.
    ///
    /// If the root is gone, the processes it left are ended like any strays; returns what is to be written.
    fn adopt(self: &Arc<Self>, records: &[ProcessRecord], report: &mut Report) -> Vec<Settled> {
        let mut gone = HashSet::new();
        for record in records.iter().filter(|record| record.root.is_none()) {
            match Pinned::probe(&self.proc, self.place(), &record.identity) {
                Probe::Alive(pinned) => {
                    report.checked += 1;
                    report.adopted += 1;
                    // Left by an exec of this program, or adopted through the kernel: its status is reported to us.
                    let child = record.origin == Origin::Spawned
                        && pinned.stat.parent == self.own_pid().get();
                    let hold = Hold { child, ..Hold::default() };
                    self.take_on(self.root_of(record), hold, &pinned.into_fd());
                }
                Probe::Zombie(_) | Probe::Gone => {
                    gone.insert(record.id);
                }
                // It stays ours in the ledger; the health pass checks it again.
                Probe::Unknown(error) => report.errors.push(error.to_string()),
            }
        }
        if !records.is_empty() {
            self.notify_export();
        }
        let of_the_gone =
            |record: &&ProcessRecord| gone.contains(&record.root.unwrap_or(record.id));
        let left: Vec<ProcessId> =
            records.iter().filter(of_the_gone).map(|record| record.id).collect();
        match self.store.claim(&left, self.instance.id, Some(self.instance.id), None) {
            Ok(claimed) => self.end_claimed(&stray(), claimed, report),
            Err(error) => {
                report.errors.push(error.to_string());
                Vec::new()
            }
        }
    }

    /// Records a row of ours, or of a dead instance, whose process is gone: not a leak, and how it ended is unknown.
    pub(in crate::tracker) fn record_gone(&self, record: &ProcessRecord, report: &mut Report) {
        let end = End {
            reason: EndReason::Gone,
            status: ExitStatus::Unobserved,
            at: Millis::now(),
            error: None,
            because: None,
        };
        let state = if record.state == State::Survived { State::Survived } else { State::Running };
        match self.store.end(&[(record.id, state, end)]) {
            Ok(changed) if changed == [true] => {
                self.remove_leaf(record.cgroup.as_ref());
                report.endings.push(Ending {
                    task_id: record.task.clone(),
                    pid: record.identity.pid,
                    command: record.command.clone(),
                    rule: "it is not there any more".into(),
                    evidence: "identity".into(),
                    outcome: Outcome::Gone,
                    died_after_ms: None,
                    obstacle: None,
                });
            }
            Ok(_) => {}
            Err(error) => report.errors.push(error.to_string()),
        }
    }

    /// Waits for rows that another reaper took over and is still ending: clean before new (invariant 8). Returns whether one of
    /// those reapers has died meanwhile.
    fn other_reaper_has_died(&self, deadline: Instant, report: &mut Report) -> bool {
        loop {
            let live = match self.store.live_ending_by_others(self.instance.id) {
                Ok(live) => live,
                Err(error) => {
                    report.errors.push(error.to_string());
                    return false;
                }
            };
            if live == 0 {
                return false;
            }
            if Instant::now() >= deadline {
                report.errors.push(format!("another instance is still ending {live} orphans"));
                return false;
            }
            std::thread::sleep(OTHER_REAPER_PAUSE);
            let died = |(instance, life): &(InstanceRecord, Life)| {
                matches!(life, Life::Dead(_)) && instance.stopped_at.is_none()
            };
            if self.judge_others().is_ok_and(|others| others.iter().any(died)) {
                return true;
            }
        }
    }
}

/// The line of the former implementation.
fn log_cleaned(report: &Report) {
    let killed = report.count(Outcome::Term) + report.count(Outcome::Kill);
    if killed > 0 {
        tracing::info!("Cleaned up {killed} orphaned processes from previous run");
    }
}
