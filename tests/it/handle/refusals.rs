//! Processes and jobs that the tracker must refuse.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::PathBuf,
    process::Command,
};

use procledger::{Error, Job, Tracker};

use crate::support::{
    Host, PidfdWatch, Place, copy_program, is_alive, is_only, need, root, status, tool, until,
};

fn nothing_is_recorded(place: &Place) {
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
}

#[test]
fn pids_that_cannot_be_registered_are_refused() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let register = |pid: i64| tracker.register("task", pid).expect_err("refused");
    let ancestor = i64::from(std::os::unix::process::parent_id());
    let own = i64::from(std::process::id());
    for pid in [0, 1, -1, i64::MIN, i64::MAX, i64::from(u32::MAX), own, ancestor, 2] {
        let error = register(pid);
        assert!(error.is_invalid_input(), "{pid}: {error}");
        assert!(error.to_string().contains(&pid.to_string()), "{pid}: {error}");
    }
    let mut dead = place.child("exit 0");
    until("it dies", || crate::support::state(dead.pid()) == Some('Z'));
    assert!(register(i64::from(dead.pid())).is_gone(), "a zombie is dead");
    dead.0.wait().expect("reaped");
    assert!(register(i64::from(dead.pid())).is_gone());
    nothing_is_recorded(&place);
}

#[test]
fn names_and_arguments_that_cannot_be_stored_or_started_are_refused() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let long = "x".repeat(procledger::TASK_ID_MAX + 1);
    let jobs = [
        Job::new("", "true"),
        Job::new("a\0b", "true"),
        Job::new(long.as_str(), "true"),
        Job::new("task", ""),
        Job::new("task", "tr\0ue"),
        Job::new("task", "true").arg("a\0b"),
        Job::new("task", "true").env("KEY", "a\0b"),
        Job::new("task", "true").env("K\0EY", "b"),
        Job::new("task", "true").current_dir("/tm\0p"),
    ];
    for job in jobs {
        let text = format!("{job:?}");
        let error = tracker.spawn(job).expect_err("refused");
        assert!(error.is_invalid_input(), "{text}: {error}");
    }
    let child = place.child("exec sleep 3600");
    for task in ["", "a\0b", &long] {
        assert!(tracker.register(task, child.pid()).is_err_and(|error| error.is_invalid_input()));
        assert!(tracker.terminate(task).is_err_and(|error| error.is_invalid_input()));
    }
    nothing_is_recorded(&place);
    tracker.spawn(Job::new("x".repeat(procledger::TASK_ID_MAX), "true")).expect("the longest");
}

#[test]
fn a_running_task_is_refused_and_can_run_again_after_its_end() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let first = PidfdWatch::on(
        tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned").pid().get(),
    );
    let error = tracker.spawn(place.job("task", "touch ran")).expect_err("it runs");
    assert!(error.is_already_running(), "{error}");
    let child = place.child("exec sleep 3600");
    assert!(tracker.register("task", child.pid()).is_err_and(|error| error.is_already_running()));
    // Another instance on the same ledger is refused too.
    let mut other = Host::start(&place, "");
    assert!(other.ask("spawn task exec sleep 3600").starts_with("error "));
    assert!(!first.is_dead() && !place.path().join("ran").exists(), "it never ran");

    tracker.terminate("task").expect("ended");
    assert!(first.is_dead());
    let again = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    assert!(is_alive(again.pid().get()));
    assert_eq!(place.sqlite3("SELECT state FROM process ORDER BY id"), "ended\nrunning");
    other.stop();
}

/// A ledger of uid 65534 in a folder of its own, and this binary where that user may run it; `None`
/// if the test cannot become that user.
pub(crate) fn grounds_of_nobody(place: &Place) -> Option<(PathBuf, PathBuf)> {
    if !root() {
        return None;
    }
    tool("setpriv")?;
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.path(), readable).expect("its mode");
    let folder = place.path().join("nobody");
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(65534), Some(65534)).expect("root may");
    let binary = place.path().join("host");
    copy_program(std::env::current_exe().expect("this binary"), &binary);
    Some((folder.join("ledger.db"), binary))
}

pub(crate) fn host_of_nobody(
    place: &Place,
    ledger: &std::path::Path,
    binary: &std::path::Path,
) -> Host {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(binary);
    let host = Host::launch_by(command, place, ledger, "");
    let open = host.answer();
    assert!(open.starts_with("open "), "{open}");
    host
}

#[test]
fn another_users_process_is_refused() {
    let place = Place::new();
    let Some((ledger, binary)) = grounds_of_nobody(&place) else { return };
    let mut host = host_of_nobody(&place, &ledger, &binary);
    let roots = place.child("exec sleep 3600");
    let answer = host.ask(&format!("register task {}", roots.pid()));
    assert!(answer.contains("belongs to uid 0"), "{answer}");
    let own = host.spawn("own", "exec sleep 3600");
    assert!(is_alive(own.pid()) && is_alive(roots.pid()));
    host.stop();
    assert!(own.is_dead() && is_alive(roots.pid()));
}

/// The ledger's user may name it in a row, but could not signal it: its real and its saved uid are
/// root's (kill(2)).
#[test]
fn root_killed_its_own_daemon_that_had_assumed_the_uid_of_the_ledgers_user() {
    need!("python3");
    let place = Place::new();
    let Some((ledger, binary)) = grounds_of_nobody(&place) else { return };
    let uid = fs::metadata(ledger.parent().expect("a folder")).expect("it").uid();
    let lent = place.child(&format!(
        "exec python3 -c 'import os, time; os.seteuid({uid}); time.sleep(3600)' \"$0\""
    ));
    until("it has lent itself", || status(lent.pid()).contains(&format!("Uid:\t0\t{uid}\t0")));
    let mut host = host_of_nobody(&place, &ledger, &binary);
    assert_eq!(host.ask(&format!("register task {}", lent.pid())), "done");
    host.crash();
    let tracker = procledger::Tracker::builder(&ledger).open().expect("root may");
    assert!(is_alive(lent.pid()));
    assert_eq!(tracker.startup_report().survived(), 1, "{:?}", tracker.startup_report());
    tracker.shutdown().expect("an orderly end");
    assert!(is_alive(lent.pid()));
}

#[test]
fn invariant_12_a_process_that_cannot_be_killed_stays_in_the_ledger_and_is_tried_again() {
    let place = Place::new();
    let Some((ledger, binary)) = grounds_of_nobody(&place) else { return };
    // A program of root that every user may start: the user `nobody` cannot signal it after it has
    // changed its uid.
    let elevated = place.elevated();
    let mut host = host_of_nobody(&place, &ledger, &binary);
    let script =
        format!("exec {} --reuid 0 --regid 0 --clear-groups sleep 3600", elevated.display());
    let stubborn = host.spawn("stubborn", &script);
    until("it is root's", || is_only(stubborn.pid(), 0));
    assert_eq!(host.ask("terminate stubborn"), "0");
    assert!(!stubborn.is_dead());
    let query = |query: &str| crate::support::sqlite3(&ledger, query);
    assert_eq!(query("SELECT task_id, last_error IS NOT NULL FROM survivors"), "stubborn|1");
    assert!(host.ask("spawn stubborn true").starts_with("error "), "its task still runs");
    host.crash();

    let mut next = host_of_nobody(&place, &ledger, &binary);
    assert!(!stubborn.is_dead());
    assert_eq!(query("SELECT count(*) FROM survivors"), "1", "still there, and still known");
    let owner =
        "SELECT owner = (SELECT max(id) FROM instance) FROM process WHERE state = 'survived'";
    assert_eq!(query(owner), "1", "the next host has taken it over");
    stubborn.kill();
    until("its end is recorded", || {
        next.ask("health");
        query("SELECT count(*) FROM survivors") == "0"
    });
    assert_eq!(query("SELECT state FROM process WHERE task_id = 'stubborn'"), "ended");
    next.stop();
}

#[test]
fn nothing_is_spawned_before_the_first_reap_nor_after_shutdown() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let orphan = host.spawn("left", "exec sleep 3600");
    host.crash();
    let tracker = Tracker::builder(place.ledger()).reap_on_open(false).open().expect("a ledger");
    assert!(!tracker.is_clean() && !orphan.is_dead());
    let refused = tracker.spawn(place.job("new", "touch ran")).expect_err("not clean yet");
    assert!(refused.is_busy(), "{refused}");
    tracker.reap_orphans().expect("reaped");
    assert!(orphan.is_dead() && tracker.is_clean());
    tracker.spawn(place.job("new", "exec sleep 3600")).expect("clean now");
    tracker.shutdown().expect("shut down");
    let closed = |what: &str, result: Result<(), Error>| {
        assert!(result.is_err_and(|error| error.is_closed()), "{what}");
    };
    closed("spawn", tracker.spawn(place.job("late", "touch ran")).map(drop));
    closed("register", tracker.register("late", place.child("exec sleep 9").pid()).map(drop));
    closed("terminate", tracker.terminate("new").map(drop));
    closed("reap", tracker.reap_orphans().map(drop));
    tracker.shutdown().expect("a second one does nothing");
    assert!(!place.path().join("ran").exists());
}
