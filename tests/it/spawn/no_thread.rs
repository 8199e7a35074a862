//! The kernel creates no thread: `ulimit -u`, or a cgroup's `pids.max`, is used up.

use std::{
    process::{Command, Output, Stdio},
    thread,
};

use procledger::Tracker;

use crate::{
    spawn::clone2_fallback::refuse,
    support::{Place, in_namespace, in_namespace_as_a_user, need},
};

/// The command, with a limit on the number of processes and threads of its user.
fn with_room_for(processes: u32, place: &Place, args: &[&str]) -> Output {
    Command::new("prlimit")
        .arg(format!("--nproc={processes}:{processes}"))
        .arg(env!("CARGO_BIN_EXE_procledger"))
        .arg("--db")
        .arg(place.ledger())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("prlimit runs it")
}

/// One line that names the cause, and never that of a panic.
fn is_clear(output: &Output, what: &str) {
    let err = String::from_utf8_lossy(&output.stderr);
    // What can be done without is a warning before it.
    let lines: Vec<&str> = err.lines().filter(|line| !line.starts_with("WARN: ")).collect();
    assert!(matches!(lines[..], [line] if line.starts_with("procledger: ")), "{what}: {err}");
    assert!(lines[0].contains("(os error 11)"), "{what}: {err}");
}

#[test]
fn a_command_that_could_start_no_thread_panicked() {
    need!("prlimit");
    if !in_namespace_as_a_user("spawn::no_thread::a_command_that_could_start_no_thread_panicked") {
        return;
    }
    let place = Place::new();
    let first = place.procledger(&["run", "--task", "first", "--", "true"]);
    assert!(first.status.success(), "{first:?}");
    for mode in ["session", "keeper"] {
        // The processes of the test are of this user as well. At the last numbers there is room for
        // all.
        let mut codes = Vec::new();
        for room in 0..12 {
            let args = ["run", "--task", "t", "--containment", mode, "--", "sh", "-c", "exit 7"];
            let output = with_room_for(room, &place, &args);
            let code = output.status.code().expect("it exits");
            if code != 7 {
                is_clear(&output, &format!("{mode}, room for {room}"));
            }
            codes.push(code);
        }
        assert!(codes.iter().all(|code| matches!(code, 7 | 125)), "{mode}: {codes:?}");
        assert_eq!((codes.first(), codes.last()), (Some(&125), Some(&7)), "{mode}: {codes:?}");
    }
    for verb in [&["ps"][..], &["kill", "first"], &["report"], &["watch"]] {
        let output = with_room_for(0, &place, verb);
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {output:?}");
        is_clear(&output, &format!("{verb:?}"));
    }
    // It has one connection, which it opens itself.
    let output = with_room_for(0, &place, &["reap"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn an_open_that_could_start_no_thread_panicked_in_its_host() {
    let place = Place::new();
    let test = "spawn::no_thread::an_open_that_could_start_no_thread_panicked_in_its_host";
    // In a process of its own, which has opened no ledger yet.
    if !in_namespace(test) {
        return;
    }
    let ledger = place.ledger();
    for errno in [libc::EAGAIN, libc::EPERM] {
        let refused = without_threads(errno, || Tracker::builder(&ledger).open().map(drop));
        let error = refused.expect_err("no thread");
        assert_eq!(error.raw_os_error(), Some(errno), "{error:?}");
        assert_eq!(error.is_busy(), errno == libc::EAGAIN, "{error:?}");
    }
    // Nothing of it is left: the same process opens the ledger, and runs a program.
    let tracker = Tracker::builder(&ledger).open().expect("there are threads again");
    let mut process = tracker.spawn(place.job("task", "exit 7")).expect("spawned");
    assert_eq!(process.wait().expect("waited for").code(), Some(7));
    tracker.shutdown().expect("an orderly end");
}

fn without_threads<T: Send>(errno: i32, act: impl FnOnce() -> T + Send) -> T {
    let run = || {
        refuse(libc::SYS_clone3, errno);
        refuse(libc::SYS_clone, errno);
        act()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("it comes back"))
}

/// What a profile refuses to the child before the exec is not a fault of the program, as exit code
/// 126 would mean.
#[test]
fn a_refused_step_before_the_exec_was_reported_as_a_program_that_is_not_executable() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    for (call, step) in [
        (libc::SYS_setsid, "session of its own"),
        (libc::SYS_close_range, "close_range is refused"),
        (libc::SYS_prctl, "PR_SET_PDEATHSIG is refused"),
    ] {
        let spawn = || {
            refuse(call, libc::EPERM);
            tracker.spawn(place.job("task", ": > ran")).expect_err("refused")
        };
        // prctl(2) itself installs a filter: it is refused last.
        let error = thread::scope(|scope| scope.spawn(spawn).join().expect("it comes back"));
        assert!(error.is_denied() && !error.is_not_started(), "{error:?}");
        assert!(error.to_string().contains(step), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error:?}");
    }
    assert!(!place.path().join("ran").exists());
    tracker.shutdown().expect("an orderly end");
}
