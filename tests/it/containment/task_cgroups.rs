//! A task cgroup contains everything that a task starts, however it was started.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Tracker};

use crate::{
    cli::command::{PROCLEDGER, answer, clean},
    support::{Host, PidfdWatch, Place, canary, eventually, need, root, skipped, until},
};

/// Whether task cgroups can be used here.
pub(crate) fn can_use_cgroups() -> bool {
    let place = Place::new();
    let opened = Tracker::builder(place.ledger()).containment(ContainmentMode::Cgroup).open();
    if let Err(error) = &opened {
        skipped(&format!("no task cgroup: {error}"));
    }
    opened.is_ok()
}

/// A daemon that forks twice and has a session, an empty environment and a working directory of its
/// own; its pid is in `FILE`.
fn daemon(place: &Place, file: &str) -> String {
    let path = place.path().join(file);
    format!(
        "(setsid env -i /bin/sh -c 'cd /; echo $$ > {}; exec sleep 3600' {} > /dev/null 2>&1 &)",
        path.display(),
        place.marker()
    )
}

/// The folder of a task's cgroup, as its row names it.
fn cgroup_of(place: &Place, task: &str) -> PathBuf {
    let row = format!("SELECT cgroup FROM process WHERE task_id = '{task}' AND root IS NULL");
    PathBuf::from(place.sqlite3(&row))
}

fn no_cgroup_is_recorded(place: &Place) -> bool {
    place.sqlite3("SELECT count(*) FROM instance WHERE cgroup IS NOT NULL") == "0"
}

/// As an ordinary user without a delegated cgroup: the line said "Permission denied" alone.
#[test]
fn a_cgroup_that_may_not_be_created_is_refused_with_a_remedy() {
    need!("setpriv");
    if !root() || !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    std::os::unix::fs::chown(place.path(), Some(61234), Some(61234)).expect("given");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let mounted = mounts.lines().find(|line| line.contains(" cgroup2 ")).expect("a mount");
    let base = mounted.split(' ').nth(1).expect("a mount point");
    let found = ["--containment", "cgroup"];
    for (option, remedy) in [
        (found, "`systemd-run --user --scope -p Delegate=yes COMMAND`"),
        (["--cgroup", base], "that belongs to this user"),
    ] {
        let mut command = Command::new("setpriv");
        clean(&mut command, &place);
        command.args(["--reuid=61234", "--regid=61234", "--clear-groups", "--inh-caps=-all"]);
        command.arg(PROCLEDGER).arg("--db").arg(place.ledger()).arg("run").args(option);
        let refused = answer(command.args(["--", "true"])).expect(125);
        let line = refused.complaint();
        assert!(line.contains(remedy) && line.contains("another containment"), "{line}");
        assert!(line.contains("Permission denied"), "{line}");
    }
}

#[test]
fn a_row_names_its_task_cgroup_and_the_root_starts_in_it() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let tracker =
        Tracker::builder(place.ledger()).containment(ContainmentMode::Cgroup).open().expect("open");
    let script = "cat /proc/self/cgroup > first; exec sleep 3600";
    let process = tracker.spawn(place.job("task", script)).expect("spawned");
    let first = place.path().join("first");
    let first = eventually("its pid is written", || {
        fs::read_to_string(&first).ok().filter(|t| !t.is_empty())
    });
    let cgroup = cgroup_of(&place, "task");
    let row = &tracker.ledger().roots().expect("rows")[0];
    let recorded = row.spec.cgroup.as_ref().expect("a cgroup");
    assert_eq!((row.spec.containment.as_str(), &recorded.path), ("cgroup", &cgroup));
    assert_eq!(recorded.inode, fs::metadata(&cgroup).expect("the folder").ino());
    let name = cgroup.file_name().expect("a name").to_str().expect("text");
    assert!(first.trim_end().ends_with(name), "{first} is {name}");
    assert_eq!(place.sqlite3("SELECT containment FROM running"), "cgroup");
    drop(process);
    tracker.shutdown().expect("shut down");
    assert!(
        !cgroup.exists() && !cgroup.parent().expect("the instance's cgroup").exists(),
        "all is removed"
    );
    assert!(no_cgroup_is_recorded(&place));
}

#[test]
fn a_daemon_that_left_session_and_environment_is_ended_after_a_crash() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "containment=cgroup");
    let root = host.spawn("task", &format!("{}; exec sleep 3600", daemon(&place, "daemon")));
    let daemon = place.watch("daemon");
    let cgroup = cgroup_of(&place, "task");
    let unrelated = canary();
    host.crash();
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(root.is_dead() && daemon.is_dead());
    let evidence =
        format!("SELECT kind, task_id, evidence FROM leaks WHERE pid = {}", daemon.pid());
    assert_eq!(place.sqlite3(&evidence), "orphan|task|cgroup");
    assert!(!cgroup.exists() && no_cgroup_is_recorded(&place), "both cgroups are removed");
    drop(unrelated);
}

#[test]
fn a_daemon_left_by_a_root_that_exits_with_0_is_a_stray_of_its_task() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let tracker =
        Tracker::builder(place.ledger()).containment(ContainmentMode::Cgroup).open().expect("open");
    let script = format!("{}; until [ -s daemon ]; do sleep 0.01; done", daemon(&place, "daemon"));
    let mut process = tracker.spawn(place.job("task", &script)).expect("spawned");
    let daemon = place.watch("daemon");
    assert!(process.wait().expect("ended").success());
    let ended = Instant::now();
    until("the daemon is ended", || daemon.is_dead());
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    let leak = "SELECT task_id, kind, outcome, evidence FROM leaks";
    until("it is recorded", || place.sqlite3(leak) == "task|stray|term|cgroup");
    until("its cgroup is removed", || !cgroup_of(&place, "task").exists());
}

/// Members without an open pidfd die with the cgroup: programs that fork faster than any scan.
#[test]
fn a_tree_that_ignores_sigterm_and_forks_dies_with_its_cgroup() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let tracker =
        Tracker::builder(place.ledger()).containment(ContainmentMode::Cgroup).open().expect("open");
    let script = "trap '' TERM; n=0; while :; do n=$((n+1)); \
                  setsid env -i /bin/sh -c 'trap \"\" TERM; sleep 0.2' sleeper & \
                  [ $n -gt 20 ] && wait $!; touch started; done";
    tracker.spawn(place.job("task", script)).expect("spawned");
    place.wait_for("started");
    std::thread::sleep(Duration::from_millis(200));
    let cgroup = cgroup_of(&place, "task");
    let report = tracker.terminate("task").expect("terminated");
    assert_eq!(report.survived(), 0, "{report:?}");
    assert!(!cgroup.exists(), "it is empty");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
}

#[test]
fn a_cgroup_that_a_dead_reaper_left_frozen_is_thawed_so_that_sigterm_takes_effect() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "containment=cgroup grace=5000");
    let script = format!(
        "cd {}; trap 'touch obeyed; exit' TERM; touch up; while :; do sleep 0.05; done",
        place.path().display()
    );
    let root = host.spawn("task", &script);
    place.wait_for("up");
    let cgroup = cgroup_of(&place, "task");
    fs::write(cgroup.join("cgroup.freeze"), "1").expect("frozen");
    let events = cgroup.join("cgroup.events");
    until("it is frozen", || {
        fs::read_to_string(&events).is_ok_and(|text| text.contains("frozen 1"))
    });
    host.crash();
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(root.is_dead());
    assert!(place.path().join("obeyed").exists(), "it got SIGTERM before it was killed");
}

/// Another cgroup with the recorded name is not the cgroup of the task: no process in it is
/// signalled.
#[test]
fn invariant_02_a_cgroup_with_another_inode_is_not_touched() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "containment=cgroup no-monitor");
    let root = host.spawn("task", "exec sleep 3600");
    let cgroup = cgroup_of(&place, "task");
    root.kill();
    host.crash();
    until("it is empty", || fs::remove_dir(&cgroup).is_ok());
    fs::create_dir(&cgroup).expect("another one of its name");
    let unrelated = canary();
    fs::write(cgroup.join("cgroup.procs"), unrelated.pid().to_string()).expect("moved in");
    let watched = PidfdWatch::on(unrelated.pid());
    let reap = place.procledger(&["reap"]);
    assert!(!watched.is_dead(), "{reap:?}");
    drop(unrelated);
    until("it is empty", || fs::remove_dir(&cgroup).is_ok());
}

#[test]
fn a_host_in_a_task_cgroup_of_another_ledger_dies_with_all_its_processes() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let inner = place.path().join("inner.db");
    let tracker =
        Tracker::builder(place.ledger()).containment(ContainmentMode::Cgroup).open().expect("open");
    let script = format!(
        "exec {} --db {} run --task inner --containment cgroup -- /bin/sh -c 'echo $$ > up; {}; exec sleep 3600' {}",
        env!("CARGO_BIN_EXE_procledger"),
        inner.display(),
        daemon(&place, "daemon").replace('\'', "\""),
        place.marker()
    );
    tracker.spawn(place.job("outer", &script)).expect("spawned");
    let (program, daemon) = (place.watch("up"), place.watch("daemon"));
    let outer = cgroup_of(&place, "outer");
    let inside: PathBuf =
        crate::support::sqlite3(&inner, "SELECT cgroup FROM process WHERE root IS NULL").into();
    assert!(inside.starts_with(&outer), "{} is in {}", inside.display(), outer.display());
    let report = tracker.terminate("outer").expect("killed");
    assert_eq!(report.survived(), 0, "{report:?}");
    assert!(program.is_dead() && daemon.is_dead());
    assert!(!outer.exists(), "with what the inner one made in it");
}

/// A task has started a new host of the same ledger, which has lost its parents: it is in the
/// task's cgroup, and is a host of its own.
#[test]
fn invariant_07_a_health_pass_does_not_record_a_new_host_in_a_tasks_cgroup() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger())
        .containment(ContainmentMode::Cgroup)
        .monitor(false)
        .open()
        .expect("open");
    let folder = place.path().display();
    let script = format!(
        "(setsid /bin/sh -c 'echo $$ > {folder}/host; exec {} --db {} run --task inner --containment session -- \
            /bin/sh -c \"echo \\$\\$ > {folder}/up; exec sleep 3600\"' {} > /dev/null 2>&1 &); exec sleep 3600",
        env!("CARGO_BIN_EXE_procledger"),
        place.ledger().display(),
        place.marker(),
    );
    tracker.spawn(place.job("outer", &script)).expect("spawned");
    let (host, program) = (place.watch("host"), place.watch("up"));
    let listed = std::fs::read_to_string(cgroup_of(&place, "outer").join("cgroup.procs"));
    let listed = listed.expect("its processes");
    assert!(
        listed.lines().any(|pid| pid == host.pid().to_string()),
        "it is in the cgroup: {listed}"
    );
    tracker.health_pass().expect("a pass");
    let recorded = "SELECT count(*) FROM process WHERE origin = 'descendant' AND pid IN";
    let recorded = place.sqlite3(&format!("{recorded} ({}, {})", host.pid(), program.pid()));
    assert_eq!(recorded, "0", "they belong to the new host");
    tracker.terminate("outer").expect("ended");
    assert!(!host.is_dead() && !program.is_dead());
    let report = tracker.kill(&["inner"], "a test").expect("killed");
    assert_eq!(report.survived(), 0, "{report:?}");
}

#[test]
fn a_task_cgroup_remains_until_its_kept_stray_ends() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "containment=cgroup");
    let root = host.spawn_as("keep", "task", &format!("{}; sleep 0.2", daemon(&place, "daemon")));
    let daemon = place.watch("daemon");
    let cgroup = cgroup_of(&place, "task");
    until("the root ends", || root.is_dead());
    host.stop();
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success() && !daemon.is_dead() && cgroup.exists(), "{reap:?}");
    daemon.kill();
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(!cgroup.exists() && no_cgroup_is_recorded(&place));
}

/// A crash between the creation of a cgroup and the commit of the row that names it.
#[test]
fn a_task_cgroup_without_a_row_is_removed_with_the_cgroup_of_its_dead_instance() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "containment=cgroup");
    host.spawn("task", "exec sleep 3600");
    let instance = cgroup_of(&place, "task").parent().expect("the instance's cgroup").to_owned();
    let lost = instance.join("00000000000040008000000000000000");
    fs::create_dir_all(lost.join("deeper")).expect("a cgroup");
    host.crash();
    assert!(place.procledger(&["reap"]).status.success());
    assert!(!instance.exists() && no_cgroup_is_recorded(&place));
}

/// Hosts are killed while they spawn, again and again: every created cgroup is known, and one reap
/// removes it.
#[test]
fn every_cgroup_of_hosts_that_die_while_they_spawn_is_removed() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut instances = Vec::new();
    for round in 0..40_u64 {
        let mut host = Host::start(&place, "containment=cgroup no-reap");
        // Refused before the orphan pass; nothing is spawned by then.
        host.ask("reap");
        for task in 0..3 {
            host.send(&format!("spawn t{round}-{task} exec sleep 3600"));
        }
        std::thread::sleep(Duration::from_micros(round * 150));
        host.crash();
        let recorded = place.sqlite3("SELECT cgroup FROM instance WHERE cgroup IS NOT NULL");
        instances.extend(recorded.lines().map(PathBuf::from));
    }
    assert!(place.procledger(&["reap"]).status.success());
    assert!(!instances.is_empty(), "none came as far as its first cgroup");
    until("the cgroups of the instances are removed", || {
        instances.iter().all(|instance| !instance.exists())
    });
    assert!(no_cgroup_is_recorded(&place));
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn an_unavailable_containment_is_refused_in_one_line() {
    let place = Place::new();
    let run = |arguments: &[&str], variable: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_procledger"));
        command.arg("--db").arg(place.ledger()).args(["run", "--task", "t"]).args(arguments);
        command.args(["--", "true"]).env("PROCLEDGER_CONTAINMENT", variable);
        let output = command.output().expect("the command runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let folder = place.path().to_str().expect("text");
    let (code, error) = run(&["--containment", "cgroup", "--cgroup", folder], "");
    assert_eq!((code, error.lines().count()), (Some(125), 1), "{error}");
    assert!(error.contains(folder) && error.contains("not on a cgroup v2 file system"), "{error}");
    // It reports the reason, not only the failure.
    let (code, error) = run(&["--containment", "cgroup", "--cgroup", "/nowhere"], "");
    assert_eq!((code, error.lines().count()), (Some(125), 1), "{error}");
    assert!(error.contains("/nowhere") && error.contains("No such file or directory"), "{error}");
    let (code, error) = run(&["--containment", "wood"], "");
    assert_eq!(code, Some(2));
    assert!(error.contains("give auto, cgroup, keeper or session"), "{error}");
    let (code, error) = run(&[], "wood");
    assert_eq!((code, error.lines().count()), (Some(125), 1), "{error}");
    assert!(error.contains("PROCLEDGER_CONTAINMENT"), "{error}");
    // A requested folder is not replaced by another containment, not even if the environment names
    // one.
    for (arguments, variable) in [
        (&["--cgroup", folder][..], ""),
        (&["--cgroup", folder, "--containment", "auto"], ""),
        (&["--cgroup", folder], "session"),
    ] {
        let (code, error) = run(arguments, variable);
        assert_eq!((code, error.lines().count()), (Some(125), 1), "{error}");
        assert!(error.contains("not on a cgroup v2 file system"), "{error}");
    }
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
}

#[test]
fn the_operator_can_turn_task_cgroups_off() {
    let place = Place::new();
    let output = Command::new(env!("CARGO_BIN_EXE_procledger"))
        .arg("--db")
        .arg(place.ledger())
        .args(["run", "--task", "t", "--", "true"])
        .env("PROCLEDGER_CONTAINMENT", "session")
        .output()
        .expect("the command runs");
    assert!(output.status.success());
    assert_eq!(place.sqlite3("SELECT containment, cgroup FROM process"), "session|");
}

#[test]
fn doctor_reports_where_task_cgroups_can_be_created() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let output = place.procledger(&["doctor", "--json"]);
    let text = String::from_utf8(output.stdout).expect("text");
    let findings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let all = findings.as_array().or_else(|| findings["findings"].as_array()).expect("a list");
    let found = all.iter().find(|finding| finding["check"] == "containment").expect("a finding");
    let detail = found["detail"].as_str().expect("text");
    let folder = detail.split('`').nth(1).expect("a folder");
    assert!(Path::new(folder).join("cgroup.procs").exists(), "{detail}");
}
