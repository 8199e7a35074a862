//! A limit on the size of files (`ulimit -f`) cuts a write short, and refuses the rest.

use std::{fs, process::Command};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Host, Place, until};

/// The soft limit of a process; `None` for none.
fn limit(pid: u32, bytes: Option<u64>) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("set");
}

#[test]
fn a_truncated_write_damages_nothing_and_its_rows_are_recorded_later() {
    let place = Place::new();
    let mut host = Host::start(&place, "interval=100 sigxfsz-ignored");
    let left = host.spawn("left", "exec sleep 3600");
    let wal = fs::metadata(place.path().join("ledger.db-wal")).expect("a WAL").len();
    // In the middle of the next page.
    limit(host.pid(), Some(wal + 1000));
    let ran = place.path().join("ran");
    let refused = host.ask(&format!("spawn new : > {}; exec sleep 3600", ran.display()));
    assert!(refused.starts_with("error the program was not started: "), "{refused}");
    assert_eq!(host.ask("terminate left"), "1");
    assert!(left.is_dead() && !ran.exists());

    limit(host.pid(), None);
    let row = "SELECT end_reason, exit_signal FROM history WHERE task_id = 'left'";
    until("its end is recorded", || place.sqlite3(row) == "terminated|15");
    host.spawn("new", "exec sleep 3600");
    host.stop();
    assert_eq!(place.sqlite3("PRAGMA integrity_check"), "ok");
}

/// The default action of the signal ends a process: `run` would leave its program without an owner.
#[test]
fn the_command_ignores_sigxfsz_and_its_program_does_not() {
    let place = Place::new();
    let script = "grep -E '^Sig(Blk|Ign):' /proc/self/status";
    let run = |limit: &str| {
        let line = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
        Command::new("/bin/bash")
            .args(["-c", &line, env!("CARGO_BIN_EXE_procledger"), "--db"])
            .arg(place.ledger())
            .args(["run", "--task", "task", "--", "/bin/sh", "-c", script])
            .output()
            .expect("bash")
    };
    let refused = run("1");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{:?} {text}", refused.status);
    assert!(text.starts_with("procledger: ") && text.lines().count() == 1, "{text}");
    let allowed = run("unlimited");
    let text = String::from_utf8_lossy(&allowed.stdout);
    let plain = Command::new("/bin/sh").args(["-c", script]).output().expect("a shell");
    assert_eq!(text, String::from_utf8_lossy(&plain.stdout));
}

#[test]
fn a_limit_on_the_size_of_files_was_reported_as_an_error_of_the_disk() {
    let place = Place::new();
    let limited = |limit: u32, args: &[&str]| {
        let line = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
        let mut command = Command::new("/bin/bash");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_procledger"), "--db"]);
        command.arg(place.ledger()).args(args).output().expect("bash")
    };
    let run = ["run", "--task", "task", "--", "true"];
    for (limit, args) in
        [(0, &run[..]), (1, &run), (40, &run), (1, &["reap"]), (40, &["reap"]), (1, &["health"])]
    {
        let refused = limited(limit, args);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{limit} {args:?}");
        assert_eq!(text.lines().count(), 1, "{limit} {args:?}: {text}");
        assert!(text.contains("raise it (`ulimit -f`)"), "{limit} {args:?}: {text}");
        assert!(!text.contains("kernel log"), "{limit} {args:?}: {text}");
    }
    let allowed = limited(1000, &run);
    assert!(allowed.status.success(), "{}", String::from_utf8_lossy(&allowed.stderr));
}
