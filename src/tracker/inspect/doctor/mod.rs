//! Checks ledger, machine and rows, and reports one line for each check.

mod finding;
mod shipments;
mod wal;

use std::{cmp::Ordering, path::Path};

use super::ledger::Ledger;
use crate::{
    error::{Error, Result},
    export::{Prospect, prospect},
    identity::Pid,
    model::Millis,
    store::{Schema, Store, check_path},
    sys::{
        PidFd, Proc, cgroup, current_pid_scope, file_lock, filesystem, keeper::Binary,
        kernel_features, proc_events,
    },
    tracker::{
        options::trusted_or_by_environment,
        runtime::{
            keepers::try_keeper,
            liveness::{Liveness, LivenessCheck},
        },
    },
};

use finding::finding;
pub use finding::{Finding, Level};

/// If the newest health pass is older than this while a process is running, no instance is making
/// passes. Four intervals of the former implementation.
const PASS_IS_LATE: std::time::Duration = std::time::Duration::from_mins(2);

/// Free space below which a warning is reported: the WAL may take 4 MiB, a checkpoint and an export
/// some more.
const SPACE_IS_SHORT: u64 = 16 << 20;

/// Advice for a damaged ledger.
const RESTORE: &str =
    "restore a backup made by `.backup`, or save what can be read with `sqlite3 LEDGER .recover`";

/// Returns an error with its cause, such as the errno or the message of SQLite, which often shows
/// what to do.
fn whole(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Checks ledger, machine, rows and, if one is given, the JSON export. It opens the ledger
/// read-only, and never fails: a check that is not possible is a finding. It temporarily creates
/// files beside the ledger and the export.
pub fn diagnose(ledger: &Path, export: Option<&Path>) -> Vec<Finding> {
    diagnose_trusting(ledger, export, None)
}

/// Checks like [`diagnose`], with a trusted folder: see
/// [`Builder::trust_folder`](crate::Builder::trust_folder).
pub fn diagnose_trusting(
    ledger: &Path,
    export: Option<&Path>,
    trust_folder: Option<&Path>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    machine(&mut findings);
    let mut owner = rustix::process::geteuid().as_raw();
    match Ledger::open(ledger) {
        Ok(open) => {
            owner = open.store().owner_uid();
            findings.push(finding(
                "ledger",
                Level::Ok,
                format!("`{}` can be read", open.path().display()),
                "",
            ));
            soundness(open.store(), &mut findings);
            findings.extend(second_name(ledger));
            findings.push(wal::state(open.store()));
            match shipments::states(open.store(), Millis::now()) {
                Ok(states) => findings.extend(states),
                Err(error) => {
                    let advice = "see the line `integrity`";
                    findings.push(finding("shipment", Level::Problem, whole(&error), advice));
                }
            }
            if let Err(error) = rows(open.store(), &mut findings) {
                findings.push(finding("rows", Level::Problem, whole(&error), "see the line above"));
            }
        }
        Err(error) => {
            let advice = if error.is_not_found() {
                "the first `run` creates it"
            } else if error.is_not_a_ledger() && std::error::Error::source(&error).is_some() {
                RESTORE
            } else {
                // All messages except those about damage found by SQLite say what to do.
                "see the message"
            };
            let level = if error.is_not_found() { Level::Warning } else { Level::Problem };
            findings.push(finding("ledger", level, whole(&error), advice));
        }
    }
    // A finding about the ledger is not reported twice.
    let known = findings.last().map(|finding| finding.detail.clone());
    findings.extend(
        trust(ledger, trust_folder).filter(|finding| Some(&finding.detail) != known.as_ref()),
    );
    if let Some(path) = export {
        findings.push(export_state(path, owner));
    }
    findings
}

/// Checks whether the ledger may be opened for writing; if not, reports which folder is the
/// obstacle, why, and what to do. Another user's ledger can be read nevertheless.
fn trust(ledger: &Path, trust_folder: Option<&Path>) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt;
    let own = rustix::process::geteuid();
    if !own.is_root() && std::fs::metadata(ledger).is_ok_and(|it| it.uid() != own.as_raw()) {
        return None;
    }
    let trusted = trusted_or_by_environment(trust_folder);
    match check_path(ledger, trusted.as_deref()) {
        Ok(folder) => Some(finding(
            "folders",
            Level::Ok,
            match &trusted {
                Some(trusted) => format!(
                    "only root and the owner can replace what is in `{}`, and users that can write `{}`, which are trusted",
                    folder.display(),
                    trusted.display()
                ),
                None => {
                    format!("only root and the owner can replace what is in `{}`", folder.display())
                }
            },
            "",
        )),
        Err(error) if error.is_not_found() || error.is_not_a_ledger() => None,
        Err(error) => Some(finding(
            "folders",
            Level::Problem,
            whole(&error),
            "until this is fixed no program can be started with this ledger; it can still be read",
        )),
    }
}

fn machine(findings: &mut Vec<Finding>) {
    match Proc::open() {
        Ok(proc) if proc.hides_others() => findings.push(finding(
            "/proc",
            Level::Warning,
            "other users' processes are hidden (hidepid)",
            "descendants that changed their uid are not found: mount /proc without hidepid for this user",
        )),
        Ok(_) => findings.push(finding("/proc", Level::Ok, "belongs to this PID namespace", "")),
        Err(error) => findings.push(finding("/proc", Level::Problem, whole(&error), "processes cannot be tracked without it")),
    }
    containment(findings);
    findings.push(forks());
    findings.push(pidfds());
    findings.extend(kernel_features::probe().iter().map(feature));
    match current_pid_scope() {
        Ok(scope) if scope.machine_id.is_none() => findings.push(finding(
            "machine id",
            Level::Warning,
            "there is no /etc/machine-id",
            "after a reboot, rows of earlier boots stay unknown: create it, or close them with `procledger forget`",
        )),
        Ok(_) => findings.push(finding("machine id", Level::Ok, "present", "")),
        Err(error) => findings.push(finding(
            "machine id",
            Level::Problem,
            whole(&error),
            "processes cannot be identified without it",
        )),
    }
    let limit = crate::sys::fd_table::descriptor_limit();
    findings.push(finding(
        "descriptors",
        if limit < 1024 { Level::Warning } else { Level::Ok },
        format!(
            "soft limit {limit}: the kernel reports the deaths of up to {} processes",
            limit / 2
        ),
        if limit < 1024 {
            "the deaths of further processes are noticed by the health pass only: raise `ulimit -n`"
        } else {
            ""
        },
    ));
}

/// Reports the containment that `auto` would choose for a new tree, and the keeper, with one advice
/// for both. The check creates no cgroup, so only a spawn can determine whether joining one works;
/// the keeper is started once, to read its version.
fn containment(findings: &mut Vec<Finding>) {
    let base = cgroup::prospect();
    let keeper = Binary::found().and_then(|found| {
        let tried = found.as_ref().map_or(Ok(()), try_keeper);
        tried.map(|()| found)
    });
    let has_task_cgroups = matches!(base, Ok(Some(_)));
    let has_keeper = matches!(keeper, Ok(Some(_)));
    findings.push(match &base {
        Ok(Some(base)) => {
            let detail = format!("task cgroups can be created below `{}`", base.display());
            finding("containment", Level::Ok, detail, "")
        }
        _ if has_keeper => finding("containment", Level::Ok, "a keeper for each program", ""),
        Ok(None) => sessions_only("there is no writable cgroup v2 folder", keeper.is_err()),
        Err(error) => sessions_only(&error.to_string(), keeper.is_err()),
    });
    findings.push(match keeper {
        Ok(Some(binary)) => {
            let use_ = if has_task_cgroups {
                ": not needed while task cgroups can be created"
            } else {
                ""
            };
            let detail = format!("`{}` is of this version{use_}", binary.path().display());
            finding("keeper", Level::Ok, detail, "")
        }
        Ok(None) => {
            let detail = "there is no `procledger-keeper` beside this program or on PATH";
            let level = if has_task_cgroups { Level::Ok } else { Level::Warning };
            // If it is needed, the line above has the advice.
            finding("keeper", level, detail, "")
        }
        Err(error) => {
            let level = if has_task_cgroups { Level::Ok } else { Level::Warning };
            let advice = "install the `procledger-keeper` of this version beside the program";
            finding("keeper", level, whole(&error), advice)
        }
    });
}

/// Returns the finding for trees that only a session contains. `is_unusable`: there is a keeper
/// that cannot be used, and its own line has the advice.
fn sessions_only(why: &str, is_unusable: bool) -> Finding {
    let advice = "a daemon that leaves its session and clears its environment is found only if a pass has recorded it: \
                  install `procledger-keeper` beside the program, or delegate a cgroup v2 subtree (`Delegate=yes` in a \
                  systemd unit)";
    let advice = if is_unusable { "" } else { advice };
    finding("containment", Level::Warning, format!("sessions only: {why}"), advice)
}

/// Checks fork events by listening for a moment.
fn forks() -> Finding {
    match proc_events::Connector::open() {
        Ok(_) => finding(
            "forks",
            Level::Ok,
            "the kernel reports them: in session mode, a process that hides while its host is alive is recorded at once",
            "",
        ),
        Err(error) => finding(
            "forks",
            Level::Ok,
            format!(
                "fork events unavailable ({error}): in session mode, a process that leaves its session between two health passes is missed"
            ),
            "",
        ),
    }
}

fn feature(feature: &kernel_features::Feature) -> Finding {
    match (feature.there, feature.needed) {
        (true, _) => finding(feature.name, Level::Ok, "present", ""),
        (false, true) => finding(feature.name, Level::Problem, "missing", feature.cost),
        (false, false) => finding(feature.name, Level::Warning, "missing", feature.cost),
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
                "PID reuse within 10 ms cannot be detected",
            ),
            Err(error) => finding(
                "pidfd",
                Level::Problem,
                whole(&error),
                "processes cannot be signalled without it",
            ),
        },
        Some(Err(error)) => finding(
            "pidfd",
            Level::Problem,
            whole(&error),
            "requires Linux 5.9 or newer, with pidfd_open allowed",
        ),
        _ => finding(
            "pidfd",
            Level::Problem,
            "cannot open a pidfd of this process",
            "check seccomp and /proc",
        ),
    }
}

fn soundness(store: &Store, findings: &mut Vec<Finding>) {
    findings.push(match store.check_file_system() {
        Ok(()) => finding("file system", Level::Ok, "local", ""),
        Err(error) => finding(
            "file system",
            Level::Problem,
            whole(&error),
            "locks and shared memory are unreliable there: move the ledger to a local disk",
        ),
    });
    findings.push(space(store));
    findings.push(match store.check() {
        Ok(problems) if problems.is_empty() => {
            finding("integrity", Level::Ok, "pages and references are consistent", "")
        }
        Ok(problems) => finding("integrity", Level::Problem, problems.join("; "), RESTORE),
        Err(error) => {
            let advice =
                if error.is_not_a_ledger() { RESTORE } else { "the ledger cannot be read" };
            finding("integrity", Level::Problem, whole(&error), advice)
        }
    });
    findings.push(schema(store));
    findings.push(uuid(store));
    findings.push(if rustix::process::geteuid().as_raw() == store.owner_uid() {
        match file_lock::usable(&store.beside(&format!("-doctor-{}.lock", std::process::id()))) {
            Ok(()) => finding("locks", Level::Ok, "work beside the ledger", ""),
            Err(error) => finding(
                "locks",
                Level::Problem,
                whole(&error),
                "instances cannot determine whether others are alive: use a local folder that you may write",
            ),
        }
    } else {
        finding(
            "locks",
            Level::Ok,
            format!("not tested: the ledger belongs to uid {}", store.owner_uid()),
            "",
        )
    });
}

/// Reports a ledger that has a second name. Each name has its own `-wal` and locks, so writing by
/// both names damages the ledger (<https://www.sqlite.org/howtocorrupt.html>, section 2.5). This is
/// only a warning: a host that always uses one name is safe, and a backup made of hard links must
/// not stop it.
fn second_name(ledger: &Path) -> Option<Finding> {
    use std::os::unix::fs::MetadataExt;
    let links = std::fs::metadata(ledger).map_or(1, |found| found.nlink());
    let (detail, advice) = if links > 1 {
        (
            format!("the ledger has {links} names (hard links)"),
            "writing by a second name damages it: use one name, and back up with `.backup` of sqlite3",
        )
    } else if filesystem::is_mount_point(ledger) {
        (
            "the file of the ledger is mounted alone".to_owned(),
            "its `-wal` and locks are in another folder than those of its first name: mount the folder",
        )
    } else {
        return None;
    };
    Some(finding("name", Level::Warning, detail, advice))
}

/// Reports the schema. An older one is no problem: it lets an older program continue to use its
/// ledger.
fn schema(store: &Store) -> Finding {
    let (has, latest) = (store.schema(), Schema::latest());
    let (what, advice) = match has.cmp(&latest) {
        Ordering::Less => (
            format!("version {has}, this program creates {latest}"),
            "it works as it is; `run`, the program that owns it, or `--migrate` migrates it",
        ),
        Ordering::Equal => (format!("version {has}"), ""),
        Ordering::Greater => (
            format!("version {has}, this program knows {latest}"),
            "it works as it is; a newer version of this program shows more",
        ),
    };
    let detail = format!("{what}, SQLite {}", Store::sqlite_version());
    finding("schema", Level::Ok, detail, advice)
}

/// Reports the UUID, which identifies the ledger even after it was moved.
fn uuid(store: &Store) -> Finding {
    match store.uuid() {
        Ok(Some(uuid)) => finding("uuid", Level::Ok, uuid, ""),
        Ok(None) => finding("uuid", Level::Ok, "none before schema version 4", ""),
        Err(error) => finding("uuid", Level::Problem, whole(&error), "the ledger cannot be read"),
    }
}

/// Reports free space: no program can be started while the disk is full.
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
    let advice = if level == Level::Ok {
        ""
    } else {
        "no program can be started without free space: free some"
    };
    finding("space", level, format!("{} MiB are free", free / MIB), advice)
}

fn rows(store: &Store, findings: &mut Vec<Finding>) -> Result<()> {
    let proc = Proc::open()?;
    let here = current_pid_scope()?;
    let live = store.live()?;
    let (mut orphaned, mut unknown) = (0, 0);
    let all = store.instances_to_check()?;
    let liveness = LivenessCheck::new(store, &proc, here);
    for instance in &all {
        let left =
            live.iter().filter(|row| row.owner == instance.id && !row.spec.limits.survive).count();
        match liveness.of(instance, &all) {
            Liveness::Alive | Liveness::LockOutlives => {}
            Liveness::Dead(_) => orphaned += left,
            Liveness::Unknown(_) => unknown += left,
        }
    }
    let survivors =
        live.iter().filter(|row| row.life.state() == crate::model::State::Survived).count();
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
        "`procledger ps` shows why",
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
        return Ok(finding("last pass", Level::Ok, "none yet", ""));
    };
    let ago = Millis::now().since(newest.started_at);
    let detail = format!(
        "{} at {}, {} s ago",
        newest.kind,
        Millis::from(newest.started_at).to_rfc3339(),
        ago.as_secs()
    );
    Ok(if anything_runs && ago > PASS_IS_LATE {
        finding(
            "last pass",
            Level::Warning,
            detail,
            "processes are running, but no health pass is made: check whether the host is stuck, or runs without the monitor",
        )
    } else {
        finding("last pass", Level::Ok, detail, "")
    })
}

/// Tests an export without changing the list. `owner` is the owner of the ledger and of the list.
fn export_state(path: &Path, owner: u32) -> Finding {
    let shown = path.display();
    let there = std::fs::symlink_metadata(path).ok();
    let user = rustix::process::geteuid().as_raw();
    if user != owner && user != 0 {
        let detail =
            format!("{}; not tested: the ledger belongs to uid {owner}", now(path, there.as_ref()));
        return finding("export", Level::Ok, detail, "");
    }
    match prospect(path, owner) {
        Ok(Prospect::Replaced) => {
            let detail = format!(
                "{}; tested by writing a new list beside it, which was not renamed to it, since a host may be using it",
                now(path, there.as_ref())
            );
            finding("export", Level::Ok, detail, "")
        }
        Ok(Prospect::InPlace { mounted: true }) => finding(
            "export",
            Level::Warning,
            format!(
                "`{shown}` is a mount point: it is written in place (tested by opening it, without writing), and a reader may see a partial list"
            ),
            "mount its folder instead of the file, or let readers take flock(2) with LOCK_SH",
        ),
        Ok(Prospect::InPlace { mounted: false }) => finding(
            "export",
            Level::Warning,
            format!(
                "no file can be renamed to `{shown}`: it is written in place (tested by opening it, without writing), and a reader may see a partial list"
            ),
            "let its owner write to the folder",
        ),
        // The message contains the advice; a second one might contradict it.
        Ok(Prospect::Fails(error)) | Err(error) => {
            finding("export", Level::Problem, whole(&error), "")
        }
    }
}

fn now(path: &Path, there: Option<&std::fs::Metadata>) -> String {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    match there {
        None => format!("`{shown}` does not exist: no process writes it now"),
        Some(file) if file.is_file() => format!("`{shown}` exists, owned by uid {}", file.uid()),
        Some(_) => format!("`{shown}` is not a regular file, and will be replaced"),
    }
}
