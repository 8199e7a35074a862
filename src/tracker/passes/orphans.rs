//! The orphan pass: finds and ends the processes that dead instances left.
//!
//! One transaction marks the dead instances and takes over their rows, so that two hosts that
//! restart at once never both act. The processes are ended outside any transaction, and a second
//! transaction records the outcomes.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::name_match;
use crate::{
    error::Result,
    model::{
        DeadInstance, End, EndReason, Ending, InstanceRecord, LeakKind, Millis, Origin,
        OrphanClaim, Outcome, PassKind, ProcessId, ProcessRecord, Report, RuleKey, State, Suspect,
    },
    sys::{Pinned, Probe},
    tracker::{
        core::Core,
        end::{
            adopted_zombies, claimed_trees, context, foreign_claims, keeper_end_logs,
            outcome::{self, Conclusion},
            spared,
        },
        runtime::{
            cause::Cause,
            liveness::{Liveness, orphan_rule},
            other_instances,
            pass_run::PassRun,
            tracked::Tracking,
            unrecorded_ends,
        },
    },
};

/// How long `open` waits for another reaper that is ending processes: longer than the cap of a
/// grace and the limit of a kill together.
const OTHER_REAPER_LIMIT: Duration = Duration::from_secs(10);
const OTHER_REAPER_PAUSE: Duration = Duration::from_millis(10);

pub(in crate::tracker) fn reap_orphans(core: &Arc<Core>) -> Result<Report> {
    let _pass = core.passes.begin_pass();
    let deadline = Instant::now() + OTHER_REAPER_LIMIT;
    let Passed { mut report, alone } = orphan_pass(core)?;
    if !alone {
        await_other_reapers(core, deadline, &mut report)?;
    }
    adopted_zombies::reap_former_roots(core);
    core.instance.mark_clean();
    Ok(report)
}

/// Waits until other reapers have ended the processes that they took over. One that dies meanwhile
/// loses its claims to us.
fn await_other_reapers(core: &Arc<Core>, deadline: Instant, report: &mut Report) -> Result<()> {
    loop {
        match other_reaper_has_died(core, deadline) {
            Ok(true) => report.absorb(orphan_pass(core)?.report),
            Ok(false) => return Ok(()),
            Err(why) => {
                report.errors.push(why);
                return Ok(());
            }
        }
    }
}

/// The result of a pass.
struct Passed {
    report: Report,
    /// Whether no other instance had a live row or a claim, or was running.
    alone: bool,
}

fn orphan_pass(core: &Arc<Core>) -> Result<Passed> {
    try_orphan_pass(core).inspect_err(|_| core.counters().pass_failed(PassKind::Orphan))
}

fn try_orphan_pass(core: &Arc<Core>) -> Result<Passed> {
    let pass = PassRun::begin(PassKind::Orphan);
    let others = other_instances::check_others_at_rest(&core.store, &core.proc, &core.instance)?;
    let alone = others.is_empty();
    let living = others.iter().filter(|(_, life)| !matches!(life, Liveness::Dead(_)));
    let needed_locks: HashSet<String> = living
        .map(|(instance, _)| instance.lock_name.clone())
        .chain(core.instance.lock_name())
        .collect();
    let (dead, mut report) = sort_out_dead(core, others);
    if !alone {
        // For rows of instances whose death cannot be determined, but whose claims are void.
        report.add_error(foreign_claims::give_dead_claims_back(core, &dead));
        spared::record_spared_before(core)?;
    }
    let uid_limit = (core.instance.observer.uid != 0).then_some(core.instance.observer.uid);
    let claim = core.store.claim_orphans(
        core.instance.id,
        &core.options.program,
        uid_limit,
        &dead,
        pass.started_at,
    )?;
    log_loaded(core, &claim);
    report.absorb(report_gone(&claim));
    if !claim.gone.is_empty() {
        core.export.notify();
    }
    let adopted = adopt(core, &claim.adopted);
    report.absorb(adopted.report);
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
        left.filter(|row| row.spec.root.is_none() && claim.replaced.contains(&row.id)).collect();
    adopted_zombies::remember_replaced(core, &left);
    let keepers = keeper_end_logs::await_keepers(core, &claim.claimed);
    let mut ended = claimed_trees::end_claimed_each(core, &cause_of, claim.claimed);
    keeper_end_logs::end_keepers(core, keepers);
    ended.settled.extend(adopted.settled);
    ended.absorb(name_match::end_matches(core));
    report.absorb(ended.report);
    log_cleaned(&report);
    let pass = pass.record(&report);
    report.add_error(outcome::write(core, Some(pass), ended.settled));
    let names = core.store.names_beside();
    unrecorded_ends::import_unrecorded_ends(&core.store, &names);
    core.cgroups.remove_those_of_others();
    other_instances::remove_stale_locks(&core.store, &names, &needed_locks);
    keeper_end_logs::remove_end_logs(core, &names);
    Ok(Passed { report, alone })
}

/// Returns the dead instances, and a report of those that cannot be judged.
fn sort_out_dead(
    core: &Core,
    others: Vec<(InstanceRecord, Liveness)>,
) -> (Vec<DeadInstance>, Report) {
    let (mut dead, mut report) = (Vec::new(), Report::default());
    for (instance, life) in others {
        match life {
            Liveness::Alive | Liveness::LockOutlives => {}
            Liveness::Dead(record) => dead.push(record),
            Liveness::Unknown(why) => report.absorb(report_unknown(core, &instance, &why)),
        }
    }
    (dead, report)
}

/// Reports the processes that an instance that cannot be judged left. They are left running.
fn report_unknown(core: &Core, instance: &InstanceRecord, why: &str) -> Report {
    let rows = match core.store.live_of(instance.id) {
        Ok(rows) => rows,
        Err(error) => {
            let errors = vec![error.to_string()];
            return Report { errors, unverified: 1, ..Report::default() };
        }
    };
    let checked = rows.len() as u64;
    let suspect = |row: ProcessRecord| Suspect {
        pid: row.pid(),
        task_id: row.spec.task_id,
        command: row.spec.command,
        why: format!(
            "its instance {} (pid {}) cannot be judged: {why}",
            instance.program, instance.identity.pid
        ),
    };
    let suspects = rows.into_iter().map(suspect).collect();
    Report { checked, suspects, unverified: checked, ..Report::default() }
}

/// Logs the line of the former implementation, with the path of the export if there is one.
fn log_loaded(core: &Core, claim: &OrphanClaim) {
    let loaded = claim.claimed.len() + claim.adopted.len() + claim.gone.len();
    if loaded > 0 {
        let path = core.options.export.as_deref().unwrap_or_else(|| core.store.path());
        tracing::info!("Loaded {loaded} persisted processes from {}", path.display());
    }
}

fn report_gone(claim: &OrphanClaim) -> Report {
    let ending = |row| gone(row, RuleKey::PlaceGone, "boot id or namespace");
    Report {
        checked: claim.gone.len() as u64,
        endings: claim.gone.iter().map(ending).collect(),
        ..Report::default()
    }
}

/// Returns the report of a process that was found gone.
fn gone(record: &ProcessRecord, rule: RuleKey, evidence: &str) -> Ending {
    Ending {
        task_id: record.spec.task_id.clone(),
        pid: record.pid(),
        command: record.spec.command.clone(),
        rule: rule.sentence().into(),
        evidence: evidence.into(),
        outcome: Outcome::Gone,
        stop_signal: None,
        died_after: None,
        obstacle: None,
    }
}

/// Adopts processes that a former run of this program left on purpose.
///
/// If a root is gone, the processes that it left are ended like any strays; returns the results to
/// write and to report.
fn adopt(core: &Arc<Core>, records: &[ProcessRecord]) -> Conclusion {
    let mut report = Report::default();
    let mut gone = HashSet::new();
    for record in records.iter().filter(|record| record.spec.root.is_none()) {
        match Pinned::probe(&core.proc, core.pid_scope(), &record.spec.identity) {
            Probe::Alive(pinned) => {
                report.checked += 1;
                report.adopted += 1;
                // Left by a former image of this process, or adopted through the kernel, so its
                // status is reported to us.
                let child = record.spec.origin == Origin::Spawned
                    && pinned.stat.parent == core.own_pid().get();
                let tracking = Tracking { child, ..Tracking::default() };
                core.registry.track(context::root_of(core, record), tracking, &pinned.into_fd());
            }
            Probe::Zombie(_) | Probe::Gone => {
                gone.insert(record.id);
            }
            // It stays ours in the ledger, and the health pass checks it again.
            Probe::Unknown(error) => report.errors.push(error.to_string()),
        }
    }
    if !records.is_empty() {
        core.export.notify();
    }
    let of_the_gone =
        |record: &&ProcessRecord| gone.contains(&record.spec.root.unwrap_or(record.id));
    let left: Vec<ProcessId> = records.iter().filter(of_the_gone).map(|record| record.id).collect();
    let claimed = core.store.claim(&left, core.instance.id, Some(core.instance.id), None);
    let mut all = Conclusion { report, ..Conclusion::default() };
    all.absorb(match claimed {
        Ok(claimed) => claimed_trees::end_claimed(core, &Cause::stray(), claimed),
        Err(error) => Conclusion::failed(&error),
    });
    all
}

/// Records that the process of a row of ours, or of a dead instance, is gone: it is not a leak, and
/// how it ended is unknown.
pub(in crate::tracker) fn record_gone(core: &Core, record: &ProcessRecord) -> Report {
    let end = End::unobserved(EndReason::Gone, Millis::now());
    let state =
        if record.life.state() == State::Survived { State::Survived } else { State::Running };
    let mut report = Report::default();
    match core.store.end(record.id, state, end, None) {
        Ok(true) => {
            core.cgroups.remove_task_cgroup(record.spec.cgroup.as_ref());
            report.endings.push(gone(record, RuleKey::Gone, "identity"));
        }
        Ok(false) => {}
        Err(error) => report.errors.push(error.to_string()),
    }
    report
}

/// Waits for rows that another reaper took over and is still ending, since nothing is started
/// before they have ended (invariant 8). Returns whether one of those reapers has died meanwhile,
/// or why that is unknown.
fn other_reaper_has_died(core: &Core, deadline: Instant) -> Result<bool, String> {
    loop {
        let live = core.store.live_ending_by_others(core.instance.id);
        let live = live.map_err(|error| error.to_string())?;
        if live == 0 {
            return Ok(false);
        }
        if Instant::now() >= deadline {
            return Err(format!("another instance is still ending {live} orphans"));
        }
        std::thread::sleep(OTHER_REAPER_PAUSE);
        let died = |(instance, life): &(InstanceRecord, Liveness)| {
            matches!(life, Liveness::Dead(_)) && instance.stopped_at.is_none()
        };
        if other_instances::check_others(&core.store, &core.proc, &core.instance)
            .is_ok_and(|others| others.iter().any(died))
        {
            return Ok(true);
        }
    }
}

/// Logs the line of the former implementation.
fn log_cleaned(report: &Report) {
    let killed = report.count(Outcome::Term) + report.count(Outcome::Kill);
    if killed > 0 {
        tracing::info!("Cleaned up {killed} orphaned processes from previous run");
    }
}
