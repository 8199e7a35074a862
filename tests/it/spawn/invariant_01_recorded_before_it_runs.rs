//! Invariant 1: no instruction of a spawned program runs before its row is committed.
//!
//! Hosts are killed at random instants while they do nothing but spawn. The program checks nothing:
//! its first action is to report that it runs. Afterwards `sqlite3` is used to check that every
//! program that reported itself has a row.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::Write,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use procledger::{Job, Tracker};

use crate::{
    spawn::gate_host::{self, Given, kill_at_random},
    support::{Place, pids, processes_with, sampled, sqlite3, until},
};

/// Two cores.
const WORKERS: u32 = 2;
const TRIAL: &str = "PROCLEDGER_IT_TRIAL";

/// Spawns until it is killed; reports its progress by single letters.
pub(crate) fn host(given: &Given) {
    let trial = std::env::var(TRIAL).expect("a number");
    let ledger = given.folder.join(format!("ledger-{trial}.db"));
    let runs = given.folder.join(format!("runs-{trial}"));
    let tracker = Tracker::builder(ledger).open().expect("a ledger");
    let say = |letter: &str| {
        let mut out = std::io::stdout().lock();
        out.write_all(letter.as_bytes()).and_then(|()| out.flush()).expect("a reader");
    };
    say("\n>>");
    for number in 0_u32.. {
        // The program's very first action: appends pid and token in one write.
        let script = r#"echo "$$ $PROCLEDGER_TOKEN" >>"$1"; exec sleep 600"#;
        let job = Job::new(format!("task-{number}"), "/bin/sh")
            .args(["-c", script, &given.marker])
            .arg(&runs)
            .env("PROCLEDGER_IT_TRIAL", format!("{}-trial-{trial}-", given.marker))
            .stdin(procledger::Stdio::null())
            .stdout(procledger::Stdio::null())
            .stderr(procledger::Stdio::null());
        say("b");
        tracker.spawn(job).expect("a program");
        say("r");
    }
}

/// Where the kill took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Struck {
    /// Before the first spawn, or between two.
    Outside,
    /// In a spawn, before its row was committed.
    BeforeCommit,
    /// The row was committed, the program had not run.
    BeforeExec,
    /// The program ran, the host did not know it yet.
    BeforeReturn,
}

#[test]
fn invariant_01_recorded_before_it_runs() {
    let place = Place::new();
    // Kills; each is one host.
    let trials = sampled(80, 500);
    let next = AtomicU32::new(0);
    let mut histogram = BTreeMap::new();
    let mut programs = 0;
    thread::scope(|scope| {
        let work = || {
            let mut seen = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= trials {
                    return seen;
                }
                seen.push(trial(&place, number));
            }
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (struck, ran) in worker.join().expect("all trials hold") {
                *histogram.entry(struck).or_insert(0_u32) += 1;
                programs += ran;
            }
        }
    });
    eprintln!("{trials} kills struck {histogram:?}; {programs} programs ran");
    let outside = histogram.get(&Struck::Outside).copied().unwrap_or(0);
    assert!(outside < trials / 2, "too few kills hit a spawn: {histogram:?}");
    assert!(programs >= trials as usize / 2, "too few programs ran: {programs}");
    assert_eq!(place.alive(), [0_u32; 0], "nothing of the test is alive");
}

fn trial(place: &Place, number: u32) -> (Struck, usize) {
    // Every second host has one program running, on however slow a machine.
    let is_time = |steps: &[u8]| number.is_multiple_of(2) || steps.contains(&b'r');
    let mut host = gate_host::command(place, "invariant-01");
    let said = kill_at_random(host.env(TRIAL, number.to_string()), 6_000, is_time);
    let ledger = place.path().join(format!("ledger-{number}.db"));
    let trial_marker = format!("{}-trial-{number}-", place.marker());
    let begun = said.matches('b').count();
    let returned = said.matches('r').count();
    // A gated child of a dead host must be dead within a tick; a program that had its row may still
    // be on its way to its first action. Both are over when every live process is in the ledger and
    // has reported itself.
    let runs = place.path().join(format!("runs-{number}"));
    let rows = || {
        let text = sqlite3(&ledger, "SELECT pid || ' ' || token FROM process");
        text.lines().map(str::to_owned).collect::<HashSet<_>>()
    };
    until("no child stays at the gate", || {
        let said = said_so(&runs);
        processes_with(&trial_marker)
            .iter()
            .chain(&comrades(number))
            .all(|pid| said.iter().any(|line| line.starts_with(&format!("{pid} "))))
    });
    let rows = rows();
    let ran = said_so(&runs);
    for line in &ran {
        assert!(rows.contains(line), "trial {number}: {line} ran without a row: {rows:?}");
    }
    assert!(rows.len() >= returned && rows.len() <= begun, "{rows:?}: {said}");
    until("the trial's programs are reaped", || {
        // A child of the gate that is exiting still holds the lock of its host, which seems to live
        // until then.
        reap(&ledger);
        let live = sqlite3(&ledger, "SELECT count(*) FROM process WHERE state <> 'ended'");
        live == "0" && processes_with(&trial_marker).is_empty()
    });
    let struck = match (begun > returned, rows.len() > returned, ran.len() > returned) {
        (false, ..) => Struck::Outside,
        (true, false, _) => Struck::BeforeCommit,
        (true, true, false) => Struck::BeforeExec,
        (true, true, true) => Struck::BeforeReturn,
    };
    for file in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(place.path().join(format!("ledger-{number}.db{file}")));
    }
    (struck, ran.len())
}

fn said_so(runs: &Path) -> HashSet<String> {
    let text = fs::read_to_string(runs).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Gated children of the trial's host: they still have the arguments and the environment of the
/// host.
fn comrades(number: u32) -> Vec<u32> {
    let wanted = format!("{TRIAL}={number}");
    let carries = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut elements = environ.split(|&byte| byte == 0);
        elements.any(|element| element == wanted.as_bytes())
    };
    pids().into_iter().filter(carries).filter(|&pid| crate::support::is_alive(pid)).collect()
}

fn reap(ledger: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_procledger"))
        .arg("--db")
        .arg(ledger)
        .arg("reap")
        .output()
        .expect("the command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
