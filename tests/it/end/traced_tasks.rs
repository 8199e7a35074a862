//! A tracer is notified of a dead process first: its parent can wait for it only when the tracer
//! has detached. The exit status then comes later, and is not lost.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use procledger::Tracker;

use crate::{
    cli::command::Running,
    containment::task_cgroups::can_use_cgroups,
    end::obstacles::Tracer,
    support::{Guard, Host, Place, at_once, eventually, need, until},
};

/// Longer than the second that an end waits for a status, and far shorter than a hang.
const SOON: Duration = Duration::from_secs(10);

/// A shell without children, so that no signal stops it under a tracer: it ends with exit code
/// 7 once there is a line to read.
fn patient(place: &Place) -> String {
    let fifo = place.path().join("end");
    if !fifo.exists() {
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    }
    format!("echo ready; read x < {}; exit 7", fifo.display())
}

fn end(place: &Place) {
    fs::write(place.path().join("end"), "\n").expect("it reads");
}

fn is_traced(pid: u32) -> bool {
    crate::support::status(pid)
        .lines()
        .any(|line| line.starts_with("TracerPid:") && line != "TracerPid:\t0")
}

/// `strace -f -p`, attached.
fn strace(pid: u32) -> Guard {
    let mut command = Command::new("strace");
    command.args(["-f", "-q", "-o", "/dev/null", "-p", &pid.to_string()]);
    let strace = Guard(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace"));
    until("it is traced", || is_traced(pid));
    strace
}

fn row(ledger: &Path, task: &str) -> String {
    let row = format!(
        "SELECT state, end_reason, exit_code, exit_signal FROM process WHERE task_id = '{task}' AND root IS NULL"
    );
    crate::support::sqlite3(ledger, &row)
}

fn containments() -> Vec<&'static str> {
    let mut all = vec!["session", "keeper"];
    all.extend(can_use_cgroups().then_some("cgroup"));
    all
}

fn pid_of(place: &Place) -> u32 {
    let pid = place.sqlite3("SELECT pid FROM process WHERE state <> 'ended' AND root IS NULL");
    pid.parse().expect("a pid")
}

#[test]
fn the_exit_code_of_a_task_under_strace_is_kept() {
    need!("strace");
    at_once(containments(), |containment| {
        let place = Place::new();
        for round in 0..5 {
            let options = ["--containment", containment];
            let running = Running::start(&place, &format!("t{round}"), &options, &patient(&place));
            let _strace = strace(pid_of(&place));
            end(&place);
            running.finish().expect(7);
        }
        let codes = "SELECT count(*) FROM history WHERE exit_code = 7 AND end_reason = 'exited'";
        assert_eq!(place.sqlite3(codes), "5", "{containment}");
    });
}

#[test]
fn the_signal_that_ends_a_task_under_strace_is_kept() {
    need!("strace");
    at_once(containments(), |containment| {
        let place = Place::new();
        let mut host =
            Host::start(&place, &format!("containment={containment} keeper grace=20000"));
        for (task, ends) in [("terminated", "host"), ("killed", "command")] {
            let program = host.spawn(task, "exec sleep 3600");
            let _strace = strace(program.pid());
            if ends == "host" {
                assert_eq!(host.ask(&format!("terminate {task}")), "1");
            } else {
                assert!(place.procledger(&["kill", task]).status.success());
            }
            let exit = host.ask(&format!("wait {task}"));
            let why =
                if ends == "host" { "terminated: its owner asked" } else { "killed: asked by " };
            assert!(exit.starts_with(&format!("signal 15 ({why}")), "{containment}: {exit}");
            until("it is recorded", || row(&place.ledger(), task) == format!("ended|{task}||15"));
        }
        host.stop();
    });
}

#[test]
fn the_exit_codes_of_a_host_under_strace_are_kept() {
    need!("strace");
    for containment in ["session", "keeper"] {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("containment={containment} keeper"));
        let _strace = strace(host.pid());
        for round in 0..5 {
            host.spawn(&format!("t{round}"), "exit 7");
            assert_eq!(host.ask(&format!("wait t{round}")), "exit code 7", "{containment}");
        }
        until("they are recorded", || {
            place.sqlite3("SELECT count(*) FROM history WHERE exit_code = 7") == "5"
        });
        host.stop();
    }
}

#[test]
fn a_hanging_tracer_blocks_nothing_and_the_status_arrives_when_it_detaches() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("containment={containment} keeper"));
        let traced = host.spawn("traced", &format!("sleep 3600 & {}", patient(&place)));
        let Some(debugger) = Tracer::that_hangs(&place, traced.pid()) else { return };
        end(&place);
        until("it is dead", || traced.is_dead());
        // Other tasks are waited for and recorded as usual.
        let began = Instant::now();
        host.spawn("other", "exit 3");
        assert_eq!(host.ask("wait other"), "exit code 3");
        assert!(began.elapsed() < SOON, "{containment}: {:?}", began.elapsed());
        // Its end is recorded without the status, and the processes that it left are ended.
        until("its end is recorded", || row(&place.ledger(), "traced") == "ended|exited||");
        until("its stray is ended", || place.sqlite3("SELECT count(*) FROM running") == "0");
        drop(debugger);
        assert_eq!(host.ask("wait traced"), "exit code 7", "{containment}");
        until("its status is recorded", || row(&place.ledger(), "traced") == "ended|exited|7|");
        host.stop();
    });
}

#[test]
fn neither_terminate_nor_shutdown_hangs_with_a_tracer() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("containment={containment} keeper"));
        let tasks = ["later", "never"];
        let mut programs: Vec<_> =
            tasks.iter().map(|task| host.spawn(task, "exec sleep 3600")).collect();
        let (never, later) = (programs.pop().expect("two"), programs.pop().expect("two"));
        let Some(debugger) = Tracer::of(&place, later.pid(), 0) else { return };
        let began = Instant::now();
        assert_eq!(host.ask("terminate later"), "1");
        assert!(began.elapsed() < SOON, "{containment}: {:?}", began.elapsed());
        assert_eq!(row(&place.ledger(), "later"), "ended|terminated||", "{containment}");
        drop(debugger);
        until("its status is recorded", || row(&place.ledger(), "later") == "ended|terminated||9");
        let _tracer = Tracer::of(&place, never.pid(), 0).expect("as before");
        let began = Instant::now();
        host.stop();
        assert!(began.elapsed() < SOON, "{containment}: {:?}", began.elapsed());
        assert!(never.is_dead());
        assert!(row(&place.ledger(), "never").starts_with("ended|shutdown|"), "{containment}");
    });
}

/// Its parent reaps it; the kernel then reports the status by the pidfd (`PIDFD_GET_INFO`, Linux
/// 6.15).
#[test]
fn the_exit_code_of_a_registered_process_that_is_reaped_late_is_kept() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    for (task, traced) in [("traced", true), ("slow", false)] {
        if traced && crate::support::tool("strace").is_none() {
            continue;
        }
        let mut child = place.child(&patient(&place));
        tracker.register(task, child.pid()).expect("registered");
        let strace = traced.then(|| strace(child.pid()));
        end(&place);
        // A parent that reaps late.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(child.0.wait().expect("waited").code(), Some(7));
        drop(strace);
        let code = eventually("it is recorded", || {
            let row = row(&place.ledger(), task);
            (row == "ended|exited|7|" || !kernel_tells() && row == "ended|exited||").then_some(row)
        });
        println!("{task}: {code}");
    }
}

/// Whether this kernel reports the status of a reaped process by its pidfd.
fn kernel_tells() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

#[test]
fn a_future_waits_for_the_status_of_a_traced_program() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    runtime.block_on(async {
        for containment in ["session", "keeper"] {
            let place = Place::new();
            let builder =
                Tracker::builder(place.ledger()).keeper(crate::containment::keepers::KEEPER);
            let mode = procledger::ContainmentMode::parse(containment).expect("a containment");
            let tracker = builder.containment(mode).open().expect("a ledger");
            let process = tracker.spawn(place.job("traced", &patient(&place))).expect("spawned");
            let pid = process.pid().get();
            let mut process = process.into_async().expect("registered");
            let Some(debugger) = Tracer::that_hangs(&place, pid) else { return };
            end(&place);
            let early = tokio::time::timeout(Duration::from_secs(2), process.wait()).await;
            assert!(early.is_err(), "it is not reported too early: {early:?}");
            drop(debugger);
            assert_eq!(process.wait().await.expect("waited").code(), Some(7), "{containment}");
            until("its status is recorded", || row(&place.ledger(), "traced") == "ended|exited|7|");
            tracker.shutdown().expect("an end");
        }
    });
}
