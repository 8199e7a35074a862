//! Is everything in place? Ledger, machine and rows, a line each.

use std::path::Path;

use serde::Serialize;

use super::{
    ledger::Ledger,
    liveness::{Judge, Life},
};
use crate::{
    error::{Error, Result},
    identity::Pid,
    os::{PidFd, Proc, cgroup, connector, current_place, features, lock},
    record::Millis,
    store::Store,
};

/// A health pass that is older than this, while something runs, means that nobody looks: four of the seed's intervals.
const PASS_IS_LATE: std::time::Duration = std::time::Duration::from_mins(2);

/// The WAL may take 4 MiB, a checkpoint and an export some more.
const SPACE_IS_SHORT: u64 = 16 << 20;

/// What to do about a damaged ledger.
const RESTORE: &str =
    "restore a backup made by `.backup`, or save what can be read with `sqlite3 LEDGER .recover`";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but something is lost by it.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was checked, in a word or two.
    pub check: String,
    /// How it stands.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

fn finding(
    check: &str,
    level: Level,
    detail: impl Into<String>,
    advice: impl Into<String>,
) -> Finding {
    Finding { check: check.into(), level, detail: detail.into(), advice: advice.into() }
}

/// An error with its cause, which often says what to do: the errno, or what SQLite found.
fn whole(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Checks ledger, machine and rows. It opens read-only, and never fails: what cannot be checked is a finding.
pub fn diagnose(ledger: &Path, export: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    machine(&mut findings);
    match Ledger::open(ledger) {
        Ok(open) => {
            findings.push(finding(
                "ledger",
                Level::Ok,
                format!("`{}` can be read", open.path().display()),
                "",
            ));
            soundness(open.store(), &mut findings);
            findings.push(super::wal::state(open.store()));
            if let Err(error) = rows(open.store(), &mut findings) {
                findings.push(finding(
                    "rows",
                    Level::Problem,
                    whole(&error),
                    "look at the line above it",
                ));
            }
        }
        Err(error) => {
            let advice = if error.is_not_found() {
                "it is made by the first `run`"
            } else if error.is_not_a_ledger() {
                RESTORE
            } else {
                "see the message"
            };
            let level = if error.is_not_found() { Level::Warning } else { Level::Problem };
            findings.push(finding("ledger", level, whole(&error), advice));
        }
    }
    if let Some(path) = export {
        findings.push(export_state(path));
    }
    findings
}

fn machine(findings: &mut Vec<Finding>) {
    match Proc::open() {
        Ok(proc) if proc.hides_others() => findings.push(finding(
            "/proc",
            Level::Warning,
            "other users' processes are hidden (hidepid)",
            "descendants that changed their uid are not found: mount /proc without hidepid for this user",
        )),
        Ok(_) => findings.push(finding("/proc", Level::Ok, "is this namespace's own", "")),
        Err(error) => findings.push(finding("/proc", Level::Problem, whole(&error), "nothing can be tracked without it")),
    }
    findings.push(containment());
    findings.push(forks());
    findings.push(pidfds());
    findings.extend(features::probe().iter().map(feature));
    match current_place() {
        Ok(place) if place.machine_id.is_none() => findings.push(finding(
            "machine id",
            Level::Warning,
            "there is no /etc/machine-id",
            "after a reboot, rows of earlier boots stay unknown: create it, or close them with `procledger forget`",
        )),
        Ok(_) => findings.push(finding("machine id", Level::Ok, "is there", "")),
        Err(error) => findings.push(finding("machine id", Level::Problem, whole(&error), "mount /proc")),
    }
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    findings.push(finding(
        "descriptors",
        if limit < 1024 { Level::Warning } else { Level::Ok },
        format!("soft limit {limit}: up to {} processes are watched by the kernel", limit / 2),
        if limit < 1024 {
            "more than that are noticed by the health pass alone: raise `ulimit -n`"
        } else {
            ""
        },
    ));
}

/// What would keep a new tree together. Looking makes no cgroup, so that joining works is not known before a spawn.
fn containment() -> Finding {
    let advice = "a daemon that leaves its session and wipes its environment is found only where a pass has recorded it: \
                  delegate a cgroup v2 subtree (`Delegate=yes` in a systemd unit)";
    match cgroup::prospect() {
        Ok(Some(base)) => {
            let detail = format!("cgroup leaves can be made below `{}`", base.display());
            finding("containment", Level::Ok, detail, "")
        }
        Ok(None) => {
            let detail = "sessions only: no cgroup v2 folder here may be written to";
            finding("containment", Level::Warning, detail, advice)
        }
        Err(error) => {
            finding("containment", Level::Warning, format!("sessions only: {error}"), advice)
        }
    }
}

/// Asked by listening for a moment.
fn forks() -> Finding {
    match connector::Connector::open() {
        Ok(_) => finding(
            "forks",
            Level::Ok,
            "the kernel tells them: with sessions alone, what hides from a live host is recorded at once",
            "",
        ),
        Err(error) => finding(
            "forks",
            Level::Ok,
            format!(
                "not told: {error}; with sessions alone, what hides between two health passes is known to nobody"
            ),
            "",
        ),
    }
}

fn feature(feature: &features::Feature) -> Finding {
    match (feature.there, feature.needed) {
        (true, _) => finding(feature.name, Level::Ok, "is there", ""),
        (false, true) => finding(feature.name, Level::Problem, "is missing", feature.cost),
        (false, false) => finding(feature.name, Level::Warning, "is missing", feature.cost),
    }
}

fn pidfds() -> Finding {
    let own = Pid::new(i64::from(std::process::id()));
    let opened = own.map(PidFd::open);
    match opened {
        Some(Ok(Some(fd))) => match fd.inode() {
            Ok(Some(_)) => finding("pidfd", Level::Ok, "with a unique inode (pidfs)", ""),
            Ok(None) => finding(
                "pidfd",
                Level::Warning,
                "without pidfs (before Linux 6.9)",
                "a pid that is reused within 10 ms cannot be told from the one before",
            ),
            Err(error) => finding(
                "pidfd",
                Level::Problem,
                whole(&error),
                "nothing can be signalled without it",
            ),
        },
        Some(Err(error)) => finding(
            "pidfd",
            Level::Problem,
            whole(&error),
            "Linux 5.9 or newer is needed, and pidfd_open allowed",
        ),
        _ => finding(
            "pidfd",
            Level::Problem,
            "this process cannot open itself",
            "look at seccomp and /proc",
        ),
    }
}

fn soundness(store: &Store, findings: &mut Vec<Finding>) {
    findings.push(match store.check_file_system() {
        Ok(()) => finding("file system", Level::Ok, "is a local one", ""),
        Err(error) => finding(
            "file system",
            Level::Problem,
            whole(&error),
            "locks and shared memory do not hold there: move the ledger to a local disk",
        ),
    });
    findings.push(space(store));
    findings.push(match store.check() {
        Ok(problems) if problems.is_empty() => {
            finding("integrity", Level::Ok, "pages and references are sound", "")
        }
        Ok(problems) => finding("integrity", Level::Problem, problems.join("; "), RESTORE),
        Err(error) => {
            let advice =
                if error.is_not_a_ledger() { RESTORE } else { "the ledger cannot be read" };
            finding("integrity", Level::Problem, whole(&error), advice)
        }
    });
    findings.push(match store.schema_version() {
        Ok(version) => finding(
            "schema",
            Level::Ok,
            format!("version {version}, SQLite {}", Store::sqlite_version()),
            "",
        ),
        Err(error) => finding("schema", Level::Problem, whole(&error), "the ledger cannot be read"),
    });
    findings.push(if rustix::process::geteuid().as_raw() == store.owner_uid() {
        match lock::usable(&store.beside(&format!("-doctor-{}.lock", std::process::id()))) {
            Ok(()) => finding("locks", Level::Ok, "hold beside the ledger", ""),
            Err(error) => finding(
                "locks",
                Level::Problem,
                whole(&error),
                "instances cannot tell whether others live: use a local folder that you may write",
            ),
        }
    } else {
        finding(
            "locks",
            Level::Ok,
            format!("not tried: the ledger belongs to uid {}", store.owner_uid()),
            "",
        )
    });
}

/// A full disk lets nothing start.
fn space(store: &Store) -> Finding {
    const MIB: u64 = 1 << 20;
    let free = match store.free_bytes() {
        Ok(free) => free,
        Err(error) => return finding("space", Level::Warning, whole(&error), ""),
    };
    let level = match free {
        0..MIB => Level::Problem,
        MIB..SPACE_IS_SHORT => Level::Warning,
        _ => Level::Ok,
    };
    let advice =
        if level == Level::Ok { "" } else { "without space nothing can be started: free some" };
    finding("space", level, format!("{} MiB are free", free / MIB), advice)
}

fn rows(store: &Store, findings: &mut Vec<Finding>) -> Result<()> {
    let proc = Proc::open()?;
    let here = current_place()?;
    let live = store.live()?;
    let (mut orphaned, mut unknown) = (0, 0);
    let all = store.instances_to_judge()?;
    let judge = Judge::new(store, &proc, here);
    for instance in &all {
        let left =
            live.iter().filter(|row| row.owner == instance.id && !row.limits.survive).count();
        match judge.judge(instance, &all) {
            Life::Alive => {}
            Life::Dead(_) => orphaned += left,
            Life::Unknown(_) => unknown += left,
        }
    }
    let survivors = live.iter().filter(|row| row.state == crate::state::State::Survived).count();
    findings.push(count("running", live.len(), Level::Ok, "processes are tracked", ""));
    findings.push(count(
        "orphans",
        orphaned,
        Level::Warning,
        "rows of dead instances",
        "`procledger reap` ends them",
    ));
    findings.push(count(
        "unknown",
        unknown,
        Level::Warning,
        "rows cannot be judged from here",
        "`procledger forget TASK` closes them",
    ));
    findings.push(count(
        "survivors",
        survivors,
        Level::Warning,
        "processes could not be ended",
        "`procledger ps` says why",
    ));
    findings.push(last_pass(store, !live.is_empty())?);
    Ok(())
}

fn count(check: &str, number: usize, level: Level, what: &str, advice: &str) -> Finding {
    if number == 0 {
        return finding(check, Level::Ok, format!("0 {what}"), "");
    }
    finding(check, level, format!("{number} {what}"), advice)
}

fn last_pass(store: &Store, anything_runs: bool) -> Result<Finding> {
    let passes = store.last_passes()?;
    let Some(newest) = passes.iter().max_by_key(|pass| pass.started_at) else {
        return Ok(finding("last pass", Level::Ok, "there was none yet", ""));
    };
    let ago = Millis::now().since(newest.started_at);
    let detail =
        format!("{} at {}, {} s ago", newest.kind, newest.started_at.to_rfc3339(), ago.as_secs());
    Ok(if anything_runs && ago > PASS_IS_LATE {
        finding(
            "last pass",
            Level::Warning,
            detail,
            "something runs and nobody looks: is its host stuck, or run without the monitor?",
        )
    } else {
        finding("last pass", Level::Ok, detail, "")
    })
}

fn export_state(path: &Path) -> Finding {
    use std::os::unix::fs::MetadataExt;
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.is_file() => finding(
            "export",
            Level::Problem,
            format!("`{}` is not a regular file", path.display()),
            "remove it, or choose another path with --export",
        ),
        Ok(file) if file.uid() != rustix::process::geteuid().as_raw() => finding(
            "export",
            Level::Warning,
            format!("`{}` belongs to uid {}", path.display(), file.uid()),
            "in a sticky folder it cannot be replaced: choose another path with --export",
        ),
        Ok(_) => finding("export", Level::Ok, format!("`{}` is there", path.display()), ""),
        Err(_) => finding(
            "export",
            Level::Ok,
            format!("`{}` is not there: nothing writes it now", path.display()),
            "",
        ),
    }
}
