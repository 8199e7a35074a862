//! Ends in unusual circumstances, which must still be completed and recorded correctly.

use std::{fs, process::Command, time::Duration};

use procledger::{Job, Stdio, Tracker};

use crate::support::{Host, PidfdWatch, Place, canary, is_alive, need, until};

fn job(place: &Place, task: &str, script: &str) -> Job {
    Job::new(task, "/bin/sh")
        .args(["-c", script, place.marker()])
        .env("MARKER", place.marker())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
}

/// A root that ends once there is a file `go`, and leaves a child.
fn leaves_a_child(place: &Place) -> String {
    let folder = place.path().display();
    format!("sleep 3600 & echo $! > {folder}/child; until [ -e {folder}/go ]; do sleep 0.01; done")
}

/// That child, once a health pass has recorded it.
///
/// Identified by its pid: a pass may see any child between fork and exec, when its command is still
/// the shell's.
fn recorded_child(place: &Place, tracker: &Tracker) -> u32 {
    let child = place.watch("child").pid();
    let row = format!("SELECT count(*) FROM process WHERE root IS NOT NULL AND pid = {child}");
    until("the child is recorded", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3(&row) == "1"
    });
    child
}

/// A stray that a health pass had recorded before its root ended had two rows, and was counted as
/// two leaks.
#[test]
fn a_stray_that_was_recorded_before_is_one_leak() {
    let place = Place::new();
    let go = place.path().join("go");
    let tracker = Tracker::builder(place.ledger()).open().expect("open");
    let job = job(&place, "task", &leaves_a_child(&place));
    let mut process = tracker.spawn(job).expect("spawned");
    let child = recorded_child(&place, &tracker);
    fs::write(&go, "").expect("written");
    process.wait().expect("ended");
    until("nothing is left", || tracker.executing_count() == 0);
    let strays = format!(
        "SELECT count(*) FROM leak AS l JOIN process AS p ON p.id = l.process WHERE p.pid = {child}"
    );
    assert_eq!(place.sqlite3(&strays), "1");
    let rows = format!("SELECT count(*) FROM process WHERE pid = {child} AND root IS NOT NULL");
    assert_eq!(place.sqlite3(&rows), "1", "one row");
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
}

/// A process that a job was configured to keep was ended all the same, once a health pass had seen
/// it.
#[test]
fn kept_strays_run_on_after_a_health_pass() {
    let place = Place::new();
    let go = place.path().join("go");
    let tracker = Tracker::builder(place.ledger()).open().expect("open");
    let job = job(&place, "task", &leaves_a_child(&place));
    let mut process = tracker.spawn(job.keep_strays(true)).expect("spawned");
    let kept = recorded_child(&place, &tracker);
    fs::write(&go, "").expect("written");
    process.wait().expect("ended");
    until("the end is settled", || tracker.executing_count() == 0);
    tracker.shutdown().expect("shut down");
    drop(Tracker::builder(place.ledger()).open().expect("open"));
    assert!(is_alive(kept), "what was to be kept was ended");
}

/// Invariant 12: a process that a pass could not end, and that has no entry, is tried again by the
/// next one.
#[test]
fn a_survivor_of_an_orphan_pass_is_tried_again() {
    let place = Place::new();
    let mut left = canary();
    let mut host = Host::start(&place, "no-monitor");
    assert_eq!(host.ask(&format!("register task {}", left.pid())), "done");
    assert_eq!(host.ask("unregister task"), "true");
    let survived = "UPDATE process SET state = 'survived', ended_at = NULL, end_reason = NULL, last_error = 'x'";
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    assert_eq!(ledger.execute(survived, []), Ok(1));
    drop(ledger);
    host.ask("health");
    until("it is ended", || !left.is_running());
    assert_eq!(place.sqlite3("SELECT state FROM process"), "ended");
    host.stop();
}

/// Beyond the share of the descriptor limit no pidfd is held; a child is reaped all the same, with
/// its exit code.
#[test]
fn l17_a_child_beyond_the_descriptor_limit_leaves_no_zombie() {
    const NAME: &str =
        "end::unusual_ends::l17_a_child_beyond_the_descriptor_limit_leaves_no_zombie";
    let Ok(ledger) = std::env::var("PROCLEDGER_IT_FEW") else {
        let place = Place::new();
        let status = Command::new("/bin/sh")
            .args(["-c", "ulimit -n 48; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--exact", NAME])
            .env("PROCLEDGER_IT_FEW", place.ledger())
            .status()
            .expect("sh");
        assert!(status.success());
        return;
    };
    let place = Place::new();
    let tracker = Tracker::builder(ledger).open().expect("open");
    for number in 0..25 {
        drop(tracker.spawn(job(&place, &number.to_string(), "exec sleep 3600")).expect("spawned"));
    }
    let mut process = tracker.spawn(job(&place, "short", "exit 7")).expect("spawned");
    let pid = process.pid().get();
    assert!(tracker.unwatched() > 0, "the test reaches the limit");
    assert_eq!(process.wait().expect("ended").code(), Some(7));
    until("the zombie is reaped", || crate::support::state(pid).is_none());
    let ended = tracker.spawn(job(&place, "long", "exec sleep 3600")).expect("spawned");
    let pid = ended.pid().get();
    drop(ended);
    tracker.terminate("long").expect("terminated");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(crate::support::state(pid), None);
    // A task cgroup takes one more descriptor: too many trees at once were left running because
    // descriptors ran out.
    let report = tracker.shutdown().expect("shut down");
    assert!(report.suspects.is_empty(), "{report:?}");
    assert_eq!(place.alive(), [0_u32; 0]);
}

/// Beyond the share of the descriptor limit, in a host that reaps any of its children: the row was
/// closed, and with it everything that led to the daemon was lost.
#[test]
fn strays_of_an_unwatched_root_ran_on_if_the_host_had_reaped_the_root() {
    const NAME: &str =
        "end::unusual_ends::strays_of_an_unwatched_root_ran_on_if_the_host_had_reaped_the_root";
    let Ok(folder) = std::env::var("PROCLEDGER_IT_FEW") else {
        let place = Place::new();
        let status = Command::new("/bin/sh")
            .args(["-c", "ulimit -n 128; exec \"$@\"", "sh"])
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--exact", NAME])
            .env("PROCLEDGER_IT_FEW", place.path())
            .status()
            .expect("sh");
        assert!(status.success());
        return;
    };
    let place = Place::new();
    let builder = Tracker::builder(std::path::Path::new(&folder).join("ledger.db"));
    let tracker = builder.containment(procledger::ContainmentMode::Session).open().expect("open");
    for number in 0..128 {
        if tracker.unwatched() == 0 {
            let sleep = job(&place, &number.to_string(), "exec sleep 3600");
            drop(tracker.spawn(sleep).expect("spawned"));
        }
    }
    let script = format!("setsid sleep 3600 & echo $! > {}/daemon; wait", place.path().display());
    let watched = tracker.unwatched();
    let process = tracker.spawn(job(&place, "leaver", &script)).expect("spawned");
    assert!(tracker.unwatched() > watched, "it is not watched");
    let (root, daemon) = (PidfdWatch::on(process.pid().get()), place.watch("daemon"));
    drop(process);
    // A pass opens pidfds on all live processes, and must have the descriptors for that.
    let others: Vec<String> = (0..tracker.executing_count() - 1).map(|n| n.to_string()).collect();
    for some in others.chunks(16) {
        tracker
            .kill(&some.iter().map(String::as_str).collect::<Vec<_>>(), "a test")
            .expect("ended");
    }
    root.kill();
    let pid = nix::unistd::Pid::from_raw(root.pid().cast_signed());
    let _ = nix::sys::wait::waitpid(pid, None);
    let report = tracker.health_pass().expect("a pass");
    assert!(daemon.is_dead(), "{report:?}");
    let leaks = tracker.ledger().leaks(procledger::Query::new()).expect("leaks");
    assert!(leaks.iter().any(|leak| leak.pid.get() == daemon.pid()), "{leaks:?}");
    tracker.shutdown().expect("shut down");
    assert_eq!(place.alive(), [0_u32; 0]);
}

/// A process that the caller has registered is a task of its own, and not a stray of the program
/// that started it.
#[test]
fn a_registered_process_is_not_a_stray_of_its_starter() {
    let place = Place::new();
    let (go, child) = (place.path().join("go"), place.path().join("child"));
    let script = format!(
        "sleep 3600 & echo $! > {}; until [ -e {} ]; do sleep 0.01; done",
        child.display(),
        go.display()
    );
    let tracker = Tracker::builder(place.ledger()).open().expect("open");
    let job = job(&place, "starter", &script);
    let mut process = tracker.spawn(job).expect("spawned");
    let pid: u32 = crate::support::eventually("the child is named", || {
        fs::read_to_string(&child).ok()?.trim().parse().ok()
    });
    tracker.register("daemon", pid).expect("registered");
    fs::write(&go, "").expect("written");
    process.wait().expect("ended");
    until("the end is settled", || tracker.executing_count() == 1);
    std::thread::sleep(Duration::from_millis(300));
    assert!(is_alive(pid), "a task of its own was ended as a stray");
    tracker.terminate("daemon").expect("terminated");
    assert!(!is_alive(pid));
}

/// A requested health pass before the root was reaped closed the row whose token identifies the
/// daemon.
#[test]
fn a_health_pass_before_the_root_is_reaped_hides_no_daemon() {
    let place = Place::new();
    let mut host = Host::start(&place, "no-monitor");
    let root = host.spawn("task", "setsid sleep 3600 >/dev/null 2>&1 & sleep 0.2").pid();
    until("the root has ended", || crate::support::state(root) == Some('Z'));
    host.crash();
    until("the root is reaped", || crate::support::state(root).is_none());
    let own = std::process::id();
    let daemons = || {
        let token =
            place.sqlite3("SELECT token FROM process WHERE task_id = 'task' AND root IS NULL");
        crate::support::processes_with(&token).into_iter().filter(|pid| *pid != own).count()
    };
    assert_eq!(daemons(), 1);
    let tracker = Tracker::builder(place.ledger()).reap_on_open(false).open().expect("open");
    tracker.health_pass().expect("a pass");
    tracker.reap_orphans().expect("a pass");
    assert_eq!(daemons(), 0);
}

/// A daemon that was about to leave its root's session when the root ended was seen there, but when
/// its pidfd was opened it could not be attributed to the root any more, or it was calling exec and
/// showed no token: two to nine of 120 lived on.
#[test]
fn a_daemon_that_left_the_session_while_its_root_ended_was_missed() {
    need!("unshare");
    if !crate::support::namespaces() {
        return;
    }
    let place = Place::new();
    // `$0` is the command; any process that sleeps this long in the namespace is a daemon of one of
    // the roots.
    let script = "for round in 1 2 3 4 5 6 7 8 9 10 11 12; do
          for lane in a b c d; do
            \"$0\" run --containment session --task $round$lane -- sh -c 'setsid sleep 3611 & exit 0' || echo failed &
          done
          wait
        done
        grep --files-with-matches --null-data --line-regexp 3611 /proc/[0-9]*/cmdline";
    let mut command = crate::support::namespaced("sh");
    crate::cli::command::clean(&mut command, &place);
    command
        .args(["-c", script, crate::cli::command::PROCLEDGER])
        .env("PROCLEDGER_DB", place.ledger());
    let answer = command.output().expect("a shell");
    let (out, err) =
        (String::from_utf8_lossy(&answer.stdout), String::from_utf8_lossy(&answer.stderr));
    assert_eq!(out, "", "daemons live: {err}");
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE root IS NULL"), "48", "{err}");
}
