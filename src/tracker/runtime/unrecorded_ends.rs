//! Saves ends that could not be written before the host stopped in a file beside the ledger, for
//! the next instance; so are the processes that it left running on purpose.
//!
//! The file is `LEDGER-ends-HEX.json`, with the same HEX as in the name of the instance's lock. The
//! rows stay `running` until an instance that reaps opens the ledger. Its orphan pass ends them
//! (and the remaining members of their trees), then adds from the file how and when they ended, and
//! which of them were leaks, in one transaction, and removes the file. The processes that were left
//! on purpose are recorded first, since the pass would end them with their trees. A malformed file
//! changes nothing, and is logged.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{liveness::lock_prefix, pending_writes::PendingWrites};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid},
    model::{
        End, EndReason, ExitStatus, InstanceId, Justification, LateEnd, LeakKind, Millis, NewLeak,
        Outcome, ProcessId, Row, Settled, Verdict, millis, task_text,
    },
    redact::mask_text,
    store::Store,
    sys::spool,
};

/// Maximum size of a file: some 10,000 ends, more than any host leaves.
const LIMIT_BYTES: u64 = 4 << 20;
/// Maximum number of files that one pass reads.
const FILES: usize = 256;
/// Maximum length of a text; rules and evidence are sentences.
const LONGEST_TEXT: usize = 4 << 10;
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    instance: i64,
    ends: Vec<SavedEnd>,
    /// Absent if there are none, so that a program that does not know them can read the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spared: Vec<SavedSpared>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedEnd {
    process: i64,
    pid: i64,
    start_tick: u64,
    ended_at: i64,
    reason: String,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    #[serde(default)]
    core_dumped: bool,
    rule: Option<String>,
    evidence: Option<String>,
    /// Absent for an end that was no leak, so that a program that does not know it can read the
    /// file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leak: Option<SavedLeak>,
}

/// A process that was left running on purpose.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedSpared {
    root: i64,
    pid: i64,
    start_tick: u64,
    rule: String,
    evidence: String,
    leak: SavedLeak,
}

/// A process that an instance left running on purpose and could not record, for [`spared_before`].
#[derive(Clone, Debug)]
pub(in crate::tracker) struct UnrecordedSpared {
    pub(in crate::tracker) root: ProcessId,
    pub(in crate::tracker) pid: Pid,
    pub(in crate::tracker) start_tick: u64,
    pub(in crate::tracker) leak: NewLeak,
}

/// The leak that a process was; its rule and evidence are those of its end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedLeak {
    kind: String,
    found_at: i64,
    age_ms: u64,
    rss_bytes: Option<u64>,
    outcome: String,
    died_after_ms: Option<u64>,
    stop_signal: Option<i32>,
}

impl From<&NewLeak> for SavedLeak {
    fn from(leak: &NewLeak) -> Self {
        let whole = |span: Duration| u64::try_from(millis(span)).unwrap_or(0);
        Self {
            kind: leak.kind.as_str().to_owned(),
            found_at: leak.found_at.0,
            age_ms: whole(leak.age),
            rss_bytes: leak.rss,
            outcome: leak.outcome.as_str().to_owned(),
            died_after_ms: leak.died_after.map(whole),
            stop_signal: leak.stop_signal,
        }
    }
}

impl SavedLeak {
    /// Returns `None` for values that this program never writes.
    fn parse(self, because: Option<&Justification>) -> Option<NewLeak> {
        if self.stop_signal.is_some_and(|signal| !(1..=64).contains(&signal)) {
            return None;
        }
        Some(NewLeak {
            kind: LeakKind::parse(&self.kind)?,
            because: because?.clone(),
            found_at: Millis(self.found_at),
            age: Duration::from_millis(self.age_ms),
            rss: self.rss_bytes,
            outcome: Outcome::parse(&self.outcome)?,
            died_after: self.died_after_ms.map(Duration::from_millis),
            stop_signal: self.stop_signal,
        })
    }
}

impl From<&LateEnd> for SavedEnd {
    fn from(late: &LateEnd) -> Self {
        let LateEnd { process, pid, start_tick, end, leak, task: _ } = late;
        Self {
            process: process.0,
            pid: i64::from(pid.get()),
            start_tick: *start_tick,
            ended_at: Millis::from(end.at).0,
            reason: end.reason.as_str().to_owned(),
            exit_code: end.status.code(),
            exit_signal: end.status.signal(),
            core_dumped: end.core_dumped,
            rule: end.because.as_ref().map(|because| because.rule.clone()),
            evidence: end.because.as_ref().map(|because| because.evidence.clone()),
            leak: leak.as_ref().map(SavedLeak::from),
        }
    }
}

impl SavedEnd {
    /// Parses an end; `None` for values that this program never writes.
    fn parse(self) -> Option<LateEnd> {
        let status = match (self.exit_code, self.exit_signal) {
            (Some(code @ 0..=255), None) => ExitStatus::Exited(code),
            (None, Some(signal @ 1..=64)) => ExitStatus::Signaled(signal),
            (None, None) => ExitStatus::Unobserved,
            _ => return None,
        };
        let short =
            |text: &Option<String>| text.as_ref().is_none_or(|text| text.len() <= LONGEST_TEXT);
        if !short(&self.rule) || !short(&self.evidence) {
            return None;
        }
        let because = self.rule.zip(self.evidence);
        let because =
            because.map(|(rule, evidence)| Justification::recorded((rule, None), (evidence, None)));
        let leak = match self.leak {
            Some(leak) => Some(leak.parse(because.as_ref())?),
            None => None,
        };
        let at = Millis(self.ended_at);
        let reason = EndReason::parse(&self.reason)?;
        Some(LateEnd {
            process: ProcessId(self.process),
            pid: Pid::new(self.pid)?,
            start_tick: self.start_tick,
            task: None,
            end: End { at: at.into(), status, core_dumped: self.core_dumped, reason, because },
            leak,
        })
    }
}

impl From<UnrecordedSpared> for SavedSpared {
    fn from(spared: UnrecordedSpared) -> Self {
        let UnrecordedSpared { root, pid, start_tick, leak } = spared;
        Self {
            root: root.0,
            pid: i64::from(pid.get()),
            start_tick,
            rule: leak.because.rule.clone(),
            evidence: leak.because.evidence.clone(),
            leak: SavedLeak::from(&leak),
        }
    }
}

impl SavedSpared {
    /// Parses a process; `None` for values that this program never writes.
    fn parse(self) -> Option<UnrecordedSpared> {
        if self.rule.len() > LONGEST_TEXT || self.evidence.len() > LONGEST_TEXT {
            return None;
        }
        let (rule, evidence) = (mask_text(&self.rule), mask_text(&self.evidence));
        let because = Justification::recorded((rule, None), (evidence, None));
        Some(UnrecordedSpared {
            root: ProcessId(self.root),
            pid: Pid::new(self.pid)?,
            start_tick: self.start_tick,
            leak: self.leak.parse(Some(&because))?,
        })
    }
}

/// Saves the ends that could not be written when the host stops, and logs that, with `why`.
pub(in crate::tracker) fn save_unrecorded_ends(
    store: &Store,
    pending: &PendingWrites,
    instance: InstanceId,
    why: &Error,
) {
    let ends = unrecorded_ends(store, pending);
    let spared = unrecorded_spared(store, pending);
    if ends.is_empty() && spared.is_empty() {
        return;
    }
    let left: Vec<Pid> = spared.iter().map(|spared| spared.pid).collect();
    let saved = saved_path(store, instance).and_then(|path| {
        let ends = ends.iter().map(SavedEnd::from).collect();
        let spared = spared.into_iter().map(SavedSpared::from).collect();
        let saved = Saved { version: VERSION, instance: instance.0, ends, spared };
        let bytes = serde_json::to_vec(&saved)
            .map_err(|error| Error::new(Kind::Other, "failed to save ends").with_source(error))?;
        spool::write(&path, store.owner_uid(), &bytes).map(|()| path)
    });
    let place = match &saved {
        Ok(path) => {
            format!("it is kept in `{}` for the next program that reaps", path.display())
        }
        Err(error) => format!("it is lost: {error}"),
    };
    for LateEnd { pid, task, end, .. } in &ends {
        tracing::error!(
            "the end of process {pid} for task {} ({}, {}) could not be recorded; {place}: {why}",
            task_text(task.as_ref()),
            end.reason.as_str(),
            end.status,
        );
    }
    for pid in left {
        tracing::error!(
            "process {pid}, which is left running on purpose, could not be recorded; {place}: {why}"
        );
    }
}

/// Returns the ends that wait in memory, joined with their rows; the ledger can be read even if it
/// cannot be written.
fn unrecorded_ends(store: &Store, pending: &PendingWrites) -> Vec<LateEnd> {
    let roots = pending.roots.map(|root| (root.process, root.end.clone(), None));
    let settled = pending.settled.map(|settled| match &settled.verdict {
        Verdict::Ended(end) => Some((settled.row.id()?, end.clone(), settled.leak.clone())),
        _ => None,
    });
    let all = roots.into_iter().chain(settled.into_iter().flatten());
    all.filter_map(|(row, end, leak)| store.late_end(row, end, leak).ok().flatten()).collect()
}

/// Returns the processes that were left running on purpose and wait in memory to be recorded, each
/// once: several attempts on a tree leave the same ones.
fn unrecorded_spared(store: &Store, pending: &PendingWrites) -> Vec<UnrecordedSpared> {
    let of_roots = pending.roots.map(|root| root.kept.clone());
    let settled = of_roots.into_iter().flatten().chain(pending.settled.map(Settled::clone));
    let kept = settled.filter(|settled| matches!(settled.verdict, Verdict::Kept(_)));
    let mut seen = HashSet::new();
    kept.filter_map(|settled| {
        let spec = match settled.row {
            Row::New(new) => new.spec,
            Row::Existing(row) => store.process(row).ok().flatten()?.spec,
        };
        let Identity { pid, start_tick, .. } = spec.identity;
        Some(UnrecordedSpared { root: spec.root?, pid, start_tick, leak: settled.leak? })
    })
    .filter(|spared| seen.insert((spared.pid, spared.start_tick)))
    .collect()
}

/// Returns the processes that former hosts have left running on purpose and could not record.
/// Files that cannot be used are logged by [`import_unrecorded_ends`].
///
/// # Errors
///
/// If a file cannot be read for lack of descriptors or memory. The processes that it names must not
/// be taken for orphans.
pub(in crate::tracker) fn spared_before(store: &Store) -> Result<Vec<UnrecordedSpared>> {
    let mut all = Vec::new();
    for (path, lock_name) in files(store, &store.names_beside()) {
        let saved = match read_file(store, &path) {
            Ok(Some(saved)) => saved,
            Err(error) if error.is_busy() => return Err(error),
            Ok(None) | Err(_) => continue,
        };
        let instance = store.instance(InstanceId(saved.instance))?;
        if instance.is_some_and(|instance| instance.lock_name == lock_name) {
            all.extend(parse_spared(saved.spared).unwrap_or_default());
        }
    }
    Ok(all)
}

/// Returns `None` if an entry is damaged.
fn parse_spared(spared: Vec<SavedSpared>) -> Option<Vec<UnrecordedSpared>> {
    spared.into_iter().map(SavedSpared::parse).collect()
}

fn saved_path(store: &Store, instance: InstanceId) -> Result<PathBuf> {
    let instance = store.instance(instance)?;
    let instance =
        instance.ok_or_else(|| Error::new(Kind::NotFound, "this instance has no row"))?;
    let ledger = store.path();
    let random = (instance.lock_name.strip_prefix(&lock_prefix(ledger)))
        .and_then(|rest| rest.strip_suffix(".lock"))
        .ok_or_else(|| {
            Error::new(Kind::Other, "the lock of this instance has an unexpected name")
        })?;
    Ok(store.beside(&format!("{INFIX}{random}.json")))
}

/// Adds the ends that former hosts have saved, after an orphan pass; `names` are those of the files
/// beside the ledger.
pub(in crate::tracker) fn import_unrecorded_ends(store: &Store, names: &[String]) {
    for (path, lock_name) in files(store, names) {
        match import_file(store, &path, &lock_name) {
            Ok(true) => {}
            Ok(false) => drop(std::fs::remove_file(&path)),
            Err(error) => tracing::warn!(
                "failed to import the ends that an instance has saved in `{}`: {error}; remove the file if it is not needed",
                path.display()
            ),
        }
    }
}

/// Returns the files among `names` that hosts have left, each with the name of its host's lock.
fn files(store: &Store, names: &[String]) -> Vec<(PathBuf, String)> {
    let ledger = store.path();
    let prefix = format!("{}{INFIX}", ledger.file_name().unwrap_or_default().to_string_lossy());
    let files = names.iter().filter_map(|name| {
        let random = name.strip_prefix(&prefix)?.strip_suffix(".json")?;
        let made = random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
        made.then(|| (ledger.with_file_name(name), format!("{}{random}.lock", lock_prefix(ledger))))
    });
    files.take(FILES).collect()
}

/// Reads a file; `None` if it does not exist any more.
fn read_file(store: &Store, path: &Path) -> Result<Option<Saved>> {
    let Some(bytes) = spool::read(path, store.owner_uid(), LIMIT_BYTES)? else {
        return Ok(None);
    };
    let saved: Saved = serde_json::from_slice(&bytes).map_err(|error| odd().with_source(error))?;
    if saved.version == VERSION { Ok(Some(saved)) } else { Err(odd()) }
}

fn odd() -> Error {
    Error::new(Kind::Unsupported, "it is of another version, or damaged")
}

/// Imports a file; returns whether it must stay.
fn import_file(store: &Store, path: &Path, lock_name: &str) -> Result<bool> {
    let Some(saved) = read_file(store, path)? else { return Ok(true) };
    let ends: Option<Vec<LateEnd>> = saved.ends.into_iter().map(SavedEnd::parse).collect();
    let ends = ends.ok_or_else(odd)?;
    // They are recorded by now, before the pass. A file with a damaged list is kept.
    parse_spared(saved.spared).ok_or_else(odd)?;
    let (added, waits) = store.add_late_ends(InstanceId(saved.instance), lock_name, &ends)?;
    if added > 0 {
        tracing::info!("recorded {added} ends that a former instance could not write");
    }
    Ok(waits)
}

/// The part of the file name between the name of the ledger and the part of the instance.
const INFIX: &str = "-ends-";
