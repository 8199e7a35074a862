//! An unrelated process that has taken the pid of a dead process survives every operation on that
//! dead process.
//!
//! The reuse is forced for real, in a PID namespace of the test's own where `ns_last_pid` sets the
//! next pid. If both were started within the same tick of 10 ms, pid and start tick agree, and only
//! the inode of the pidfd differs.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use procledger::{EndReason, Ledger, Tracker};

use crate::{
    spawn::gate_host::{self, Given, note, run_command},
    support::{Guard, Place, namespaced, namespaces, sampled},
};

/// Trials for each way, at most.
const TIMES: u32 = 25;

#[test]
fn an_unrelated_process_with_a_reused_pid_survives() {
    if !namespaces() {
        return;
    }
    let place = Place::new();
    let inner = gate_host::command(&place, "pid-reuse");
    let mut command = namespaced(inner.get_program());
    command.args(inner.get_args()).process_group(0);
    for (key, value) in inner.get_envs() {
        command.env(key, value.expect("set"));
    }
    run_command(command, &place, "pid-reuse", Duration::from_mins(3));
    assert_eq!(place.alive(), [0_u32; 0]);
}

/// The operation on the dead process.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Its owner is dead too; a new tracker opens.
    OrphanPass,
    /// The owner runs a pass over its rows, whose pidfds it holds.
    HealthPass,
    Terminate,
    Shutdown,
    /// Another instance, which knows only pid and identity.
    Kill,
    Reap,
    /// Its owner is dead too, and the row is adopted.
    OrphanOfACrash,
}

pub(crate) fn body(given: &Given) {
    use Way::{HealthPass, Kill, OrphanOfACrash, OrphanPass, Reap, Shutdown, Terminate};
    assert_eq!(std::process::id(), 1, "this must run in a PID namespace of its own");
    let times = sampled(8, TIMES);
    let mut same_tick = 0;
    for way in [OrphanPass, HealthPass, Terminate, Shutdown, Kill, Reap, OrphanOfACrash] {
        let (mut number, mut equal) = (0, 0);
        // A busy machine needs more of them for two starts in one tick.
        while number < times || number < TIMES && equal < 2 {
            equal += u32::from(try_way(given, way, number));
            number += 1;
        }
        note(&format!("{way:?}: {number} reused pids, {equal} of them within the same tick"));
        same_tick += equal;
        // A crash sometimes takes longer than a tick; the others leave no time in between.
        assert!(equal > 0 || matches!(way, OrphanOfACrash), "{way:?}: no two starts in one tick");
    }
    assert!(same_tick > times, "{same_tick}");
}

fn sleeper(given: &Given) -> Child {
    let mut command = Command::new("sleep");
    // Its own session: otherwise its session number would be that of the unrelated process too.
    command.arg("600").env("MARKER", &given.marker).stdin(Stdio::null()).stdout(Stdio::null());
    command.process_group(0).spawn().expect("sleep")
}

/// Starts sleepers until one has this pid.
fn unrelated_with(given: &Given, pid: u32) -> Guard {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("steered");
        let guard = Guard(sleeper(given));
        if guard.pid() == pid {
            return guard;
        }
        assert!(Instant::now() < deadline, "pid {pid} could not be reused");
    }
}

/// Returns whether both started in the same tick.
fn try_way(given: &Given, way: Way, number: u32) -> bool {
    let path = given.folder.join(format!("{way:?}-{number}.db"));
    let task = "task";
    if matches!(way, Way::OrphanOfACrash) {
        return crash(given, &path, task);
    }
    if matches!(way, Way::OrphanPass) {
        // The owner is a separate process: only then it can be dead.
        let mut host = Host::start(given, &path);
        crate::support::await_tick();
        let mut dead = sleeper(given);
        host.ask(&format!("register {task} {}", dead.id()));
        let pid = end(&mut dead);
        let unrelated = unrelated_with(given, pid);
        host.crash();
        let equal = same_tick(&path, pid);
        let tracker = Tracker::builder(&path).open().expect("opened");
        check(&tracker.ledger(), task, EndReason::Gone, unrelated);
        tracker.shutdown().expect("an orderly end");
        return equal;
    }
    let tracker = Tracker::builder(&path).monitor(false).open().expect("opened");
    crate::support::await_tick();
    let mut dead = sleeper(given);
    tracker.register(task, dead.id()).expect("registered");
    let pid = end(&mut dead);
    let unrelated = unrelated_with(given, pid);
    let equal = same_tick(&path, pid);
    let ledger = tracker.ledger();
    match way {
        Way::HealthPass => drop(tracker.health_pass().expect("a pass")),
        Way::Terminate => drop(tracker.terminate(task).expect("a report")),
        Way::Shutdown => drop(tracker.shutdown().expect("an orderly end")),
        Way::Kill => drop(command(&path, &["kill", task])),
        Way::Reap => {
            // The rows of a live owner are its own.
            drop(command(&path, &["reap"]));
            assert_eq!(ledger.processes().expect("rows").len(), 1, "the owner lives");
            drop(tracker.health_pass().expect("a pass"));
        }
        Way::OrphanPass | Way::OrphanOfACrash => unreachable!("above"),
    }
    // Where the owner holds the pidfd, the kernel reports how the process ended.
    check(&ledger, task, EndReason::Exited, unrelated);
    drop(tracker);
    equal
}

/// A spawned row this time: with session and token.
fn crash(given: &Given, path: &Path, task: &str) -> bool {
    let mut host = Host::start(given, path);
    crate::support::await_tick();
    let pid: u32 = host
        .ask(&format!("spawn {task} exec sleep 600"))
        .strip_prefix("pid ")
        .and_then(|pid| pid.parse().ok())
        .expect("a pid");
    host.crash();
    // Its host is dead, so it is a child of this first process of the namespace.
    let fd = crate::support::pidfd(pid).expect("alive");
    rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL).expect("killed");
    let number = rustix::process::Pid::from_raw(pid.cast_signed());
    while rustix::process::waitpid(number, rustix::process::WaitOptions::empty())
        .expect("reaped")
        .is_none()
    {}
    let unrelated = unrelated_with(given, pid);
    let equal = same_tick(path, pid);
    let tracker = Tracker::builder(path).open().expect("opened");
    check(&tracker.ledger(), task, EndReason::Gone, unrelated);
    tracker.shutdown().expect("an orderly end");
    equal
}

fn end(child: &mut Child) -> u32 {
    let pid = child.id();
    child.kill().expect("killed");
    child.wait().expect("reaped");
    pid
}

fn same_tick(path: &Path, pid: u32) -> bool {
    let rows = Ledger::open(path).expect("a ledger").processes().expect("rows");
    let row = rows.iter().find(|row| row.pid().get() == pid).expect("its row is live");
    Some(row.spec.identity.start_tick) == crate::support::start_tick(pid)
}

fn check(ledger: &Ledger, task: &str, reason: EndReason, mut unrelated: Guard) {
    assert!(unrelated.is_running(), "an unrelated process was ended");
    let rows = crate::support::sqlite3(
        ledger.path(),
        &format!("SELECT state, end_reason FROM process WHERE task_id = '{task}'"),
    );
    let gone = ["ended|gone", "ended|exited"];
    let right = if reason == EndReason::Gone { &gone[..1] } else { &gone[..] };
    assert!(right.contains(&rows.as_str()), "{rows}");
    let leaks = crate::support::sqlite3(ledger.path(), "SELECT count(*) FROM leak");
    assert_eq!(leaks, "0", "what was gone is no leak");
    assert!(unrelated.is_running(), "an unrelated process was ended");
}

fn command(path: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_procledger"))
        .arg("--db")
        .arg(path)
        .args(args)
        .output()
        .expect("the command");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{args:?}: {:?} {text}", output.status);
    text
}

/// `support::Host` for a place that belongs to another process.
struct Host {
    child: Guard,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Host {
    fn start(given: &Given, ledger: &Path) -> Self {
        use std::io::BufRead;
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "handle::as_a_host::as_a_host", "--nocapture", "--test-threads=1"])
            .env("PROCLEDGER_IT_HOST", ledger)
            .env("PROCLEDGER_IT_OPTIONS", "no-monitor")
            .env("PROCLEDGER_IT_MARKER", &given.marker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a host");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut host = Self { child: Guard(child), lines };
        assert!(host.answer().starts_with("open "));
        host
    }

    fn answer(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("the host answers").expect("text");
            if let Some((_, answer)) = line.split_once("host> ") {
                assert!(!answer.starts_with("error"), "{answer}");
                return answer.to_owned();
            }
        }
    }

    fn ask(&mut self, line: &str) -> String {
        use std::io::Write;
        writeln!(self.child.0.stdin.as_mut().expect("piped"), "{line}").expect("it listens");
        self.answer()
    }

    fn crash(mut self) {
        self.child.0.kill().expect("killed");
        self.child.0.wait().expect("reaped");
    }
}
