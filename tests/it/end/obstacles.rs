//! Processes that cannot be ended at once: each obstacle is reported in one line that says what to
//! do, the row stays, and the end follows when the obstacle is gone.

#![expect(unsafe_code, reason = "a tracer")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{ChildStdin, Stdio},
    time::Duration,
};

use procledger::{Outcome, Report, Tracker};

use crate::{
    end::many_at_once::zombie_leader,
    handle::refusals::{grounds_of_nobody, host_of_nobody},
    spawn::gate_host,
    support::{
        Guard, PidfdWatch, Place, children, is_only, procledger, root, skipped, sqlite3, state,
        until,
    },
};

/// The line about a survivor.
#[track_caller]
fn obstacle(report: &Report) -> &str {
    let survivor = report.endings.iter().find(|ending| ending.outcome == Outcome::Survived);
    let survivor = survivor.unwrap_or_else(|| panic!("no survivor: {report:?}"));
    let line = survivor.obstacle.as_deref().expect("why it survived");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// What `procledger kill` prints about a task, with its exit code 3.
#[track_caller]
fn kill(ledger: &std::path::Path, task: &str) -> String {
    let output = procledger(ledger, &["kill", task]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(3), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A cgroup of the v1 freezer, thawed and removed at the end: SIGKILL stays pending in it.
struct Freezer(PathBuf);

impl Freezer {
    fn make(place: &Place) -> Option<Self> {
        if !root() {
            return None;
        }
        let path = PathBuf::from("/sys/fs/cgroup/freezer").join(place.marker());
        if fs::create_dir(&path).is_err() {
            skipped("no v1 freezer is mounted");
            return None;
        }
        Some(Self(path))
    }

    fn freeze(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("moved");
        fs::write(self.0.join("freezer.state"), "FROZEN").expect("frozen");
        until("it is frozen", || self.state() == "FROZEN" && state(pid) == Some('D'));
    }

    fn state(&self) -> String {
        fs::read_to_string(self.0.join("freezer.state")).expect("a state").trim().to_owned()
    }

    fn thaw(&self) {
        fs::write(self.0.join("freezer.state"), "THAWED").expect("thawed");
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("freezer.state"), "THAWED");
        until("its cgroup is removed", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_frozen_process_is_a_survivor_and_ends_when_it_is_thawed() {
    let place = Place::new();
    let Some(freezer) = Freezer::make(&place) else { return };
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("frozen", "exec sleep 3600")).expect("spawned");
    let watched = PidfdWatch::on(process.pid().get());
    freezer.freeze(watched.pid());
    let line = format!(
        "process {} is frozen in the cgroup `/{}` of the freezer: write THAWED to its freezer.state",
        watched.pid(),
        place.marker()
    );
    let report = process.terminate().expect("tried");
    assert_eq!(obstacle(&report), line);
    assert_eq!(
        place.sqlite3("SELECT task_id, last_error FROM survivors"),
        format!("frozen|{line}")
    );
    let printed = kill(&place.ledger(), "frozen");
    assert!(printed.contains("survived") && printed.trim_end().ends_with(&line), "{printed}");
    assert_eq!(tracker.health_pass().expect("a pass").survived(), 1, "it is tried again");
    assert!(
        tracker.spawn(place.job("frozen", "true")).expect_err("it is there").is_already_running()
    );

    freezer.thaw();
    until("it ends", || watched.is_dead());
    assert!(process.wait().expect("waited").signal().is_some());
    until("its end is recorded", || place.sqlite3("SELECT count(*) FROM running") == "0");
    // It was ended, however long that took; it did not end by itself.
    let row = "SELECT end_reason, exit_signal IN (9, 15), end_rule IS NOT NULL FROM history";
    assert_eq!(place.sqlite3(row), "terminated|1|1");
}

#[test]
fn a_frozen_orphan_is_a_survivor_of_the_reap_and_tried_again_by_the_next() {
    let place = Place::new();
    let Some(freezer) = Freezer::make(&place) else { return };
    let mut host = crate::support::Host::start(&place, "");
    let watched = host.spawn("frozen", "exec sleep 3600");
    freezer.freeze(watched.pid());
    host.crash();
    for _ in 0..2 {
        let output = place.procledger(&["reap"]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("survived 1") && text.contains("is frozen in the cgroup"), "{text}");
    }
    assert_eq!(place.sqlite3("SELECT outcome FROM leaks"), "survived", "one leak, not two");
    let printed = String::from_utf8(place.procledger(&["ps"]).stderr).expect("text");
    let line = format!("frozen ({}) could not be ended: process ", watched.pid());
    assert!(printed.starts_with(&line) && printed.contains("is frozen in the cgroup"), "{printed}");
    freezer.thaw();
    until("it ends", || watched.is_dead());
    assert_eq!(place.procledger(&["reap"]).status.code(), Some(0));
    assert_eq!(place.sqlite3("SELECT count(*) FROM survivors"), "0");
    assert_eq!(place.sqlite3("SELECT outcome FROM leaks"), "gone", "it survives no more");
}

/// A descendant with another uid was not treated as a member: it was neither ended nor reported,
/// and its root's row was closed.
#[test]
fn a_descendant_of_another_uid_is_reported_as_a_survivor() {
    let place = Place::new();
    let Some((ledger, binary)) = grounds_of_nobody(&place) else { return };
    let elevated = place.elevated();
    let mut host = host_of_nobody(&place, &ledger, &binary);
    let script =
        format!("{} --reuid 0 --regid 0 --clear-groups sleep 3600 & wait", elevated.display());
    let root = host.spawn("denied", &script);
    let query = |query: &str| sqlite3(&ledger, query);
    let child = crate::support::eventually("its child is root's", || {
        let child = children(root.pid()).pop()?;
        is_only(child, 0).then(|| PidfdWatch::on(child))
    });
    host.ask("terminate denied");
    assert!(root.is_dead() && !child.is_dead());
    let line = format!(
        "no permission to signal process {}: it belongs to uid 0; end it as that user or as root",
        child.pid()
    );
    let row = "SELECT task_id, pid, last_error FROM survivors";
    assert_eq!(query(row), format!("denied|{}|{line}", child.pid()));
    // The command becomes the ledger's owner, which may no longer signal the process.
    let printed = kill(&ledger, "denied");
    assert!(printed.trim_end().ends_with(&line), "{printed}");
    child.kill();
    until("its end is recorded", || {
        host.ask("health");
        query("SELECT count(*) FROM running") == "0"
    });
    host.stop();
}

/// A stopped process keeps SIGTERM pending: without SIGCONT it would be killed without cleaning up.
#[test]
fn a_stopped_tree_obeys_sigterm() {
    let place = Place::new();
    let tracker =
        Tracker::builder(place.ledger()).grace(Duration::from_secs(20)).open().expect("a ledger");
    let script = "trap 'touch obeyed; exit 0' TERM; touch up; while :; do sleep 0.05; done";
    let process = tracker.spawn(place.job("stopped", script)).expect("spawned");
    place.wait_for("up");
    process.signal(libc::SIGSTOP).expect("sent");
    until("it is stopped", || state(process.pid().get()) == Some('T'));
    let report = tracker.terminate("stopped").expect("ended");
    assert_eq!((report.survived(), report.count(Outcome::Kill)), (0, 0), "{report:?}");
    assert!(place.path().join("obeyed").exists());
}

/// Its state letter says that it is dead, but it is not.
#[test]
fn a_zombie_leader_with_live_threads_is_ended_by_kill() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let leader: Guard = zombie_leader(&place);
    let watched = PidfdWatch::on(leader.pid());
    tracker.register("leader", leader.pid()).expect("registered");
    let output = place.procledger(&["kill", "leader"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("ended by TERM"), "{text}");
    assert!(watched.is_dead());
}

/// A process that traces another one until its input ends; libtest's last output is not waited for.
pub(crate) struct Tracer {
    guard: Guard,
    _stdin: ChildStdin,
}

impl Tracer {
    pub(crate) fn of(place: &Place, pid: u32, options: i32) -> Option<Self> {
        let tracer = Self::seize(place, pid, options, true)?;
        until("it is held", || state(pid) == Some('t'));
        Some(tracer)
    }

    /// One that lets the process run, and never waits for it: its zombie stays until this is
    /// dropped.
    pub(crate) fn that_hangs(place: &Place, pid: u32) -> Option<Self> {
        Self::seize(place, pid, 0, false)
    }

    fn seize(place: &Place, pid: u32, options: i32, stop: bool) -> Option<Self> {
        let mut child = gate_host::command(place, "tracer")
            .env("PROCLEDGER_IT_STOP", stop.to_string())
            .env("PROCLEDGER_IT_TRACEE", pid.to_string())
            .env("PROCLEDGER_IT_TRACE", options.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take());
        let guard = Guard(child);
        let mut lines = BufReader::new(stdout.expect("piped")).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("trace> ")).expect("a line");
        if line.contains("refused") {
            skipped("nothing may be traced here");
            return None;
        }
        Some(Self { guard, _stdin: stdin })
    }
}

/// The process that [`Tracer`] starts.
pub(crate) fn trace() -> ! {
    let number =
        |name: &str| -> i32 { std::env::var(name).expect("given").parse().expect("a number") };
    let (pid, options) = (number("PROCLEDGER_IT_TRACEE"), number("PROCLEDGER_IT_TRACE"));
    let stop = std::env::var_os("PROCLEDGER_IT_STOP").is_some_and(|word| word == "true");
    // SAFETY: requests of ptrace(2) that touch no memory of ours.
    let held = unsafe {
        let none = std::ptr::null_mut::<libc::c_void>();
        libc::ptrace(
            libc::PTRACE_SEIZE,
            pid,
            none,
            usize::try_from(options).unwrap_or(0) as *mut libc::c_void,
        ) == 0
            && (!stop || libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none) == 0)
    };
    println!("\ntrace> {}", if held { "held" } else { "refused" });
    std::io::stdout().flush().expect("a reader");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // SAFETY: a debugger that ends releases everything that it traces.
    unsafe { libc::_exit(0) }
}

/// A tracer that is not part of the tree: SIGTERM stops at it, SIGKILL does not.
#[test]
fn a_process_held_by_a_debugger_is_killed_and_leaves_no_zombie() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("traced", "exec sleep 3600")).expect("spawned");
    let watched = PidfdWatch::on(process.pid().get());
    let Some(debugger) = Tracer::of(&place, watched.pid(), 0) else { return };
    let report = process.terminate().expect("ended");
    assert_eq!(report.count(Outcome::Kill), 1, "{report:?}");
    assert!(watched.is_dead());
    assert_eq!(place.sqlite3("SELECT task_id, end_reason FROM history"), "traced|terminated");
    // The tracer is notified of a zombie first; we, as the parent, are second.
    drop(debugger);
    until("the zombie is reaped", || {
        tracker.health_pass().expect("a pass");
        state(watched.pid()).is_none()
    });
}

/// A tracer that requested exit stops holds even a killed process.
#[test]
fn a_process_held_by_a_debugger_at_its_exit_is_reported_with_its_tracer() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("traced", "exec sleep 3600")).expect("spawned");
    let watched = PidfdWatch::on(process.pid().get());
    let Some(debugger) = Tracer::of(&place, watched.pid(), libc::PTRACE_O_TRACEEXIT) else {
        return;
    };
    let report = process.terminate().expect("tried");
    let line = format!(
        "process {} is being traced by process {}: detach the tracer or end it",
        watched.pid(),
        debugger.guard.pid()
    );
    assert_eq!(obstacle(&report), line);
    let printed = kill(&place.ledger(), "traced");
    assert!(printed.trim_end().ends_with(&line), "{printed}");
    drop(debugger);
    until("it ends", || watched.is_dead());
    until("its end is recorded", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3("SELECT count(*) FROM running") == "0" && state(watched.pid()).is_none()
    });
}
