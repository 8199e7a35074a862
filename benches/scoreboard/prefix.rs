//! `procledger run` in front of a program, beside other prefixes.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use rusqlite::{Connection, config::DbConfig};

use super::{
    samples::{Samples, in_turns, timed},
    score::{Board, Line, Unit},
};

/// How many prefixes are started at the same time.
const AT_ONCE: usize = 100;
const TINI: &[&str] = &["tini", "-s", "--"];
const SETSID: &[&str] = &["setsid", "--wait"];

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(60, 300);
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("ledger.db");
    let run = |containment| ours(&ledger, containment);
    assert!(run("session").arg("true").status().expect("it runs").success());
    let table = "CREATE TABLE bare (id INTEGER PRIMARY KEY, command TEXT, ended INTEGER)";
    Connection::open(&ledger).and_then(|ledger| ledger.execute_batch(table)).expect("created");

    let (ours, bare) =
        in_turns(rounds, |_| once(run("session").arg("true")), |_| once(&mut bare(&ledger)));
    let line = Line::new("`run -- true`, beside its floor", &ours);
    board.add(line.beside("open, INSERT, spawn and wait, UPDATE", bare.median()));

    let (plain, _) = in_turns(rounds, |_| once(&mut Command::new("true")), |_| Duration::ZERO);
    for (prefix, target) in [(TINI, Some(2.5)), (SETSID, None)] {
        if other(prefix).arg("true").status().is_err() {
            eprintln!("{} is not installed: its lines are left out", prefix[0]);
            continue;
        }
        let (ours, theirs) = in_turns(
            rounds,
            |_| once(run("session").arg("true")),
            |_| once(other(prefix).arg("true")),
        );
        let shown = format!("`{} true`", prefix.join(" "));
        let line = Line::new("`run -- true`", &ours).beside(&shown, theirs.median());
        board.add(target.into_iter().fold(line, Line::at_most));
        let (ours, theirs) =
            in_turns(rounds / 20, |_| at_once(|| run("session")), |_| at_once(|| other(prefix)));
        let line = Line::new(format!("{AT_ONCE} times `run -- true` at once"), &ours);
        let line = line.beside(format!("{AT_ONCE} times {shown}"), theirs.median());
        board.add(target.into_iter().fold(line, Line::at_most));
    }
    for containment in ["keeper", "cgroup"] {
        if !run(containment).arg("true").status().expect("it runs").success() {
            continue;
        }
        let mut samples = Samples::default();
        (0..rounds).for_each(|_| samples.add(once(run(containment).arg("true"))));
        let line = Line::new(format!("`run --containment {containment} -- true`"), &samples);
        board.add(line.beside("plain `true`", plain.median()));
    }
    held(board, &ledger);
}

/// The minimum for a prefix that records, in a process of its own: it opens a ledger that was used
/// before, commits a row, runs `true`, and commits its end. It omits everything that makes it safe
/// to act on the record.
pub(crate) fn serve_bare(ledger: &str) -> ExitCode {
    let connection = Connection::open(ledger).expect("a ledger");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    connection.execute_batch("PRAGMA synchronous = NORMAL").expect("set");
    let insert = "INSERT INTO bare (command, ended) VALUES ('true', NULL)";
    connection.execute(insert, []).expect("inserted");
    let row = connection.last_insert_rowid();
    assert!(Command::new("true").status().expect("it runs").success());
    connection.execute("UPDATE bare SET ended = 1 WHERE id = ?1", [row]).expect("updated");
    ExitCode::SUCCESS
}

fn bare(ledger: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("bare-prefix").arg(ledger);
    command
}

/// Measures the memory that a `run` holds while its program runs.
fn held(board: &mut Board, ledger: &Path) {
    let mut command = ours(ledger, "session");
    command.args(["sh", "-c", "echo; exec sleep 100"]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut out = child.stdout.take().expect("a pipe");
    std::io::Read::read_exact(&mut out, &mut [0]).expect("its program runs");
    let pid = child.id();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").count();
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    // The program's text is clean, and shared with every other `run`.
    let dirty = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kib = dirty.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let bytes = kib.expect("a size") * 1024.0;
    board.add(Line::of("threads of a `run`", threads as f64, Unit::Count).within(2.0));
    let limit = f64::from(4 << 20);
    board.add(Line::of("memory of one more `run`", bytes, Unit::Bytes).within(limit));
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    child.wait().expect("it ends");
}

fn ours(ledger: &Path, containment: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_procledger"));
    command.args(["run", "--quiet", "--containment", containment, "--db"]).arg(ledger).arg("--");
    command
}

fn other(prefix: &[&str]) -> Command {
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]);
    command
}

/// Runs a program that succeeds.
pub(crate) fn once(command: &mut Command) -> Duration {
    let (took, status) = timed(|| command.stdout(Stdio::null()).status().expect("it runs"));
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn at_once(prefix: impl Fn() -> Command) -> Duration {
    let (took, ()) = timed(|| {
        let start = |_| prefix().arg("true").spawn().expect("it runs");
        let all: Vec<Child> = (0..AT_ONCE).map(start).collect();
        for mut child in all {
            assert!(child.wait().expect("it ends").success());
        }
    });
    took
}
