//! Imports the JSON file of the former implementation.
//!
//! The file contains neither a start tick nor a boot id, so an entry is ended only if everything
//! agrees: the process started at the time in the file, within two seconds; its name is configured;
//! no exemption of the name match applies; and its parent adopts orphans. Any other process is
//! reported and left running.

use std::{path::Path, sync::Arc, time::Duration};

use super::name_match::{self, Match, Search};
use crate::{
    error::Result,
    export::{Legacy, LegacyEntry, read_legacy},
    model::{EndReason, LeakKind, Millis, Named, Origin, Report, Rule, Suspect, task_text},
    policy::name_match::Judgement,
    sys::proc::age,
    tracker::{
        core::Core, end::outcome, membership::process_info::command_of, runtime::cause::Cause,
    },
};

/// The times in the file are in whole seconds, and were determined after the start.
const START_TOLERANCE: Duration = Duration::from_secs(2);

/// Imports a list. What is not imported, and which processes are left running, is in the report; it
/// is not logged.
pub(in crate::tracker) fn import(core: &Arc<Core>, path: &Path) -> Result<Report> {
    let mut report = Report::default();
    let shown = path.display();
    match read_legacy(path, core.instance.observer.uid)? {
        Legacy::Absent => {}
        Legacy::Untrusted(why) => report.errors.push(format!("`{shown}` is not read: {why}")),
        Legacy::Corrupt { kept_as, reason } => {
            let kept_as = kept_as.display();
            report
                .errors
                .push(format!("`{shown}` is malformed: {reason}; it is kept as `{kept_as}`"));
        }
        Legacy::Entries { entries, rejected } => {
            report.errors.extend(rejected.iter().map(|line| format!("`{shown}`: {line}")));
            report.absorb(import_entries(core, path, entries)?);
        }
    }
    Ok(report)
}

/// Logs what a list left open, for an import on opening: a host may not read the report.
pub(in crate::tracker) fn log(report: &Report) {
    for error in &report.errors {
        tracing::error!("{error}");
    }
    for Suspect { pid, task_id, why, .. } in &report.suspects {
        tracing::warn!(
            "process {pid} for task {} is left alone: {why}",
            task_text(task_id.as_ref())
        );
    }
}

fn import_entries(core: &Arc<Core>, path: &Path, entries: Vec<LegacyEntry>) -> Result<Report> {
    let mut report = Report::default();
    let known = core.store.live()?;
    let new: Vec<LegacyEntry> = entries
        .into_iter()
        .filter(|entry| {
            !known
                .iter()
                .any(|row| row.pid() == entry.pid && row.spec.task_id.as_ref() == Some(&entry.task))
        })
        .collect();
    if new.is_empty() {
        return Ok(report);
    }
    tracing::info!("Loaded {} persisted processes from {}", new.len(), path.display());
    let mut settled = Vec::new();
    for entry in new {
        report.checked += 1;
        // Checked first, since most entries of a long list are gone, and determining the processes
        // of other instances takes longer.
        if core.proc.stat(entry.pid)?.is_none() {
            continue;
        }
        let search = name_match::search(core, &core.options.orphan_names, core.options.min_age)?;
        match judge(&search, &entry)? {
            Verdict::Gone => {}
            Verdict::Leave { command, why } => {
                report.suspects.push(Suspect {
                    task_id: Some(entry.task),
                    pid: entry.pid,
                    command,
                    why,
                });
            }
            Verdict::End(found, named) => {
                report.checked -= 1;
                let cause = Cause {
                    reason: EndReason::Orphan,
                    leak: Some(LeakKind::Orphan),
                    rule: Rule::Imported(named),
                };
                let ended = name_match::end_found(
                    core,
                    &search,
                    &cause,
                    Some(entry.task),
                    Origin::Imported,
                    &found,
                )?;
                settled.extend(ended.settled);
                report.absorb(ended.report);
            }
        }
    }
    report.add_error(outcome::write(core, None, settled));
    Ok(report)
}

enum Verdict {
    Gone,
    Leave { command: Vec<String>, why: String },
    End(Match, Named),
}

fn judge(search: &Search<'_>, entry: &LegacyEntry) -> Result<Verdict> {
    let Some(stat) = search.proc.stat(entry.pid)? else { return Ok(Verdict::Gone) };
    let command = command_of(search.proc, entry.pid, true);
    let started = Millis::now().minus(age(stat.start_tick));
    if started.since(entry.start_time).max(entry.start_time.since(started)) > START_TOLERANCE {
        let why = format!(
            "it started at {}, not at {}",
            started.to_rfc3339(),
            entry.start_time.to_rfc3339()
        );
        return Ok(Verdict::Leave { command, why });
    }
    let Some(found) = search.judge_one(entry.pid)? else {
        return Ok(Verdict::Leave { command, why: "no configured name matches it".into() });
    };
    Ok(match found.judgement.clone() {
        Judgement::Leak(named) => Verdict::End(found, named),
        Judgement::Suspect(why) | Judgement::Spared(why) | Judgement::Young(why) => {
            Verdict::Leave { command, why }
        }
    })
}
