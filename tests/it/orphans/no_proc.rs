//! `/proc` is missing, shows another namespace's processes, or is taken away while a host runs.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use procledger::Tracker;
use rusqlite::{Connection, MAIN_DB};

use crate::{
    cli::command::{PROCLEDGER, clean},
    docs::faults::run,
    support::{Host, PidfdWatch, Place, in_namespace, need, root, until},
};

#[test]
fn without_proc_no_ledger_is_opened_or_created() {
    need!("mount", "umount");
    if !in_namespace("orphans::no_proc::without_proc_no_ledger_is_opened_or_created") {
        return;
    }
    let place = Place::new();
    run("mount", &["-t", "tmpfs", "tmpfs"], "/proc".as_ref());
    let error = Tracker::builder(place.ledger()).open().expect_err("nothing can be seen");
    let doctor = place.procledger(&["doctor"]);
    let run_it = place.procledger(&["run", "--task", "t", "--", "true"]);
    run("umount", &[], "/proc".as_ref());
    // Without `/proc`, root of a user namespace cannot see that the owner of `/tmp` is not mapped,
    // and doctor ends in one line.
    let ends_early = doctor.stdout.is_empty();
    let text = String::from_utf8_lossy(if ends_early { &doctor.stderr } else { &doctor.stdout });
    assert!(error.is_unsupported(), "{error:?}");
    assert!(error.to_string().contains("/proc"), "{error}");
    assert!(!doctor.status.success(), "{text}");
    let line = if ends_early { "(`/proc` is missing: mount it)" } else { "problem  /proc: " };
    assert!(text.contains(line) && (!ends_early || text.lines().count() == 1), "{text}");
    assert_eq!(run_it.status.code(), Some(125));
    assert!(!place.ledger().exists());
    Tracker::builder(place.ledger()).open().expect("it can be seen again");
}

/// Subcommands that cannot do their work without all of `/proc`.
const NEED_PROC: [&[&str]; 15] = [
    &["run", "--task", "t", "--", "true"],
    &["run", "--containment", "keeper", "--task", "t", "--", "true"],
    &["run", "--die-with-parent", "--task", "t", "--", "true"],
    &["run", "--detach", "--task", "t", "--", "true"],
    &["kill", "t"],
    &["wait", "done"],
    &["forget", "t"],
    &["health"],
    &["reap"],
    &["reap", "--dry-run"],
    &["reap", "--dry-run", "--orphan-name", "no-such-name"],
    &["metrics"],
    &["prune", "--older-than", "1h"],
    &["demo"],
    &["scan"],
];

/// `run` named the inherited descriptors alone, and `subset=pid` looked like a `/proc` that is not
/// mounted.
#[test]
fn each_refusal_names_a_covered_or_partial_proc_in_one_line() {
    need!("mount", "umount");
    // Root of a user namespace cannot see without `/proc` that the owner of `/tmp` is not mapped,
    // and reports that instead.
    if !root()
        || !in_namespace(
            "orphans::no_proc::each_refusal_names_a_covered_or_partial_proc_in_one_line",
        )
    {
        return;
    }
    let place = Place::new();
    assert!(place.procledger(&["run", "--task", "done", "--", "true"]).status.success());
    for mount in [&["-t", "tmpfs", "tmpfs"][..], &["-t", "proc", "-o", "subset=pid", "proc"]] {
        let is_partial = mount.contains(&"proc");
        run("mount", mount, "/proc".as_ref());
        let outputs = NEED_PROC.map(|args| {
            let mut command = Command::new(PROCLEDGER);
            clean(&mut command, &place);
            if !["demo", "scan"].contains(&args[0]) {
                command.arg("--db").arg(place.ledger());
            }
            command.args(args).output().expect("procledger")
        });
        run("umount", &[], "/proc".as_ref());
        for (args, output) in NEED_PROC.iter().zip(outputs) {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{args:?}: {output:?}");
            let line = said.lines().next().unwrap_or_default();
            assert!(line.contains("`/proc") && line.contains("mount"), "{args:?}: {said}");
            assert_eq!(line.contains("subset=pid"), is_partial, "{args:?}: {said}");
            // The host of the demo has messages of its own.
            assert!(args[0] == "demo" || said.lines().count() == 1, "{args:?}: {said}");
        }
    }
}

#[test]
fn no_row_is_ended_while_proc_is_covered_and_the_host_continues_afterwards() {
    need!("mount", "umount");
    if !in_namespace(
        "orphans::no_proc::no_row_is_ended_while_proc_is_covered_and_the_host_continues_afterwards",
    ) {
        return;
    }
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let left = tracker.spawn(place.job("left", "exec sleep 3600")).expect("spawned");
    let left = PidfdWatch::on(left.pid().get());
    run("mount", &["-t", "tmpfs", "tmpfs"], "/proc".as_ref());
    // Its open descriptors still show what they showed.
    let pass = tracker.health_pass().expect("a pass");
    let spawned = tracker.spawn(place.job("more", "exec sleep 3600"));
    let other = place.procledger(&["reap"]);
    run("umount", &[], "/proc".as_ref());
    assert!(pass.endings.is_empty(), "{pass:?}");
    assert!(!left.is_dead() && !other.status.success());
    let spawned = spawned.expect("spawned");
    tracker.health_pass().expect("a pass");
    tracker.terminate("left").expect("ended");
    tracker.terminate("more").expect("ended");
    drop(spawned);
    assert!(left.is_dead());
    tracker.shutdown().expect("an orderly end");
}

/// Returns the command as an ordinary user starts it.
fn of_a_user() -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=61234", "--regid=61234", "--clear-groups", "--inh-caps=-all"])
        .arg(env!("CARGO_BIN_EXE_procledger"));
    command
}

/// Runs the command as an ordinary user.
fn as_a_user(place: &Place, args: &[&str]) -> (Option<i32>, String, String) {
    let output = of_a_user().arg("--db").arg(place.ledger()).args(args).output().expect("setpriv");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// As `hidepid=2` shows it to an ordinary user: processes of other users are missing.
#[test]
fn under_hidepid_own_processes_are_tracked_and_doctor_reports_what_is_hidden() {
    need!("mount", "setpriv");
    if !root() {
        return;
    }
    if !in_namespace(
        "orphans::no_proc::under_hidepid_own_processes_are_tracked_and_doctor_reports_what_is_hidden",
    ) {
        return;
    }
    let place = Place::new();
    std::os::unix::fs::chown(place.path(), Some(61234), Some(61234)).expect("given");
    run("mount", &["-o", "remount,hidepid=2"], "/proc".as_ref());
    let as_a_user = |args: &[&str]| as_a_user(&place, args);
    let ran = as_a_user(&["run", "--task", "t", "--", "sh", "-c", "sleep 3600 & exit 7"]);
    assert_eq!(ran.0, Some(7));
    let doctor = as_a_user(&["doctor"]);
    assert!(doctor.1.contains("warning  /proc: other users' processes are hidden (hidepid)"));
    let leaks = as_a_user(&["report", "--format", "json"]);
    assert!(leaks.1.contains("stray"), "{leaks:?}");
    let (health, running) = (as_a_user(&["health"]), as_a_user(&["ps", "--json"]));
    assert_eq!((health.0, running.0), (Some(0), Some(0)), "{health:?} {running:?}");
    until("the stray is dead", || {
        !fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
            fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x003600\0")
        })
    });
}

/// A ledger that was copied for another user leads to processes that this user cannot see.
#[test]
fn neither_a_kill_nor_a_scan_claims_success_where_hidepid_hides_processes() {
    need!("mount", "setpriv");
    if !root() {
        return;
    }
    if !in_namespace(
        "orphans::no_proc::neither_a_kill_nor_a_scan_claims_success_where_hidepid_hides_processes",
    ) {
        return;
    }
    let (place, theirs) = (Place::new(), Place::new());
    let mut host = Host::start(&place, "no-monitor containment=session");
    let task = host.spawn("t", "exec sleep 3600");
    let from = Connection::open(place.ledger()).expect("a ledger");
    from.backup(MAIN_DB, theirs.ledger(), None).expect("copied");
    drop(from);
    for path in [theirs.path(), &theirs.ledger()] {
        std::os::unix::fs::chown(path, Some(61234), Some(61234)).expect("given");
    }
    run("mount", &["-o", "remount,hidepid=2"], "/proc".as_ref());
    for args in [&["kill", "t"][..], &["kill", "--all"], &["kill", "t", "--json"]] {
        let (code, out, err) = as_a_user(&theirs, args);
        assert_eq!(code, Some(3), "{args:?}: {out} {err}");
        let why = "1 process could not be examined and may still run: ";
        assert_eq!(err.lines().filter(|line| line.contains(why)).count(), 1, "{args:?}: {err}");
        assert!(!err.contains("no task is running"), "{args:?}: {err}");
    }
    // It tried again for ever.
    let replace = ["run", "--task", "t", "--if-running", "replace", "--", "true"];
    let (code, _, err) = as_a_user(&theirs, &replace);
    assert_eq!(code, Some(75), "{err}");
    assert!(err.contains("it is unknown whether task t has ended"), "{err}");
    let scanned = of_a_user().arg("scan").output().expect("setpriv");
    let why = String::from_utf8_lossy(&scanned.stderr);
    assert_eq!(scanned.status.code(), Some(1), "{scanned:?}");
    assert!(why.contains("(hidepid)") && why.lines().count() == 1, "{why}");
    assert!(!task.is_dead());
    assert_eq!(theirs.sqlite3("SELECT state FROM process"), "running");
    host.stop();
    assert!(task.is_dead());
}

/// A set-user-ID program of a user's task belongs to root.
#[test]
fn a_reap_succeeded_though_hidepid_hid_a_program_of_another_user() {
    need!("mount", "setpriv");
    if !root() {
        return;
    }
    if !in_namespace(
        "orphans::no_proc::a_reap_succeeded_though_hidepid_hid_a_program_of_another_user",
    ) {
        return;
    }
    let place = Place::new();
    // The folder of a test may be on a file system that ignores the bit.
    run("mount", &["-t", "tmpfs", "-o", "suid,exec,mode=755", "tmpfs"], place.path());
    std::os::unix::fs::chown(place.path(), Some(61234), Some(61234)).expect("given");
    let program = place.path().join("sleep");
    fs::copy("/bin/sleep", &program).expect("copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("set");
    run("mount", &["-o", "remount,hidepid=2"], "/proc".as_ref());
    let mut host = of_a_user()
        .arg("--db")
        .arg(place.ledger())
        .args(["run", "--containment", "session", "--task", "t", "--"])
        .args([program.as_os_str(), "3600".as_ref()])
        .spawn()
        .expect("setpriv");
    until("the program runs", || {
        let mut processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes.any(|it| fs::read_link(it.path().join("exe")).is_ok_and(|exe| exe == program))
    });
    host.kill().expect("killed");
    host.wait().expect("it ends");
    let (code, out, err) = as_a_user(&place, &["reap"]);
    assert_eq!(code, Some(3), "{out} {err}");
    assert!(err.contains("1 process could not be examined and may still run: "), "{err}");
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");
    // Root acts as the owner of the ledger, and sees no more: the remedy is another one.
    assert!(err.contains("(mounted without hidepid, or in their PID namespace)"), "{err}");
    assert_eq!(place.procledger(&["reap"]).status.code(), Some(3));
    run("mount", &["-o", "remount,hidepid=0"], "/proc".as_ref());
    let reaped = place.procledger(&["reap"]);
    assert_eq!(reaped.status.code(), Some(0), "{reaped:?}");
    assert_eq!(place.sqlite3("SELECT state FROM process"), "ended");
}
