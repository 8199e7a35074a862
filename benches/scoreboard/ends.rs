//! Ending many trees at once.

use std::{os::fd::OwnedFd, time::Duration};

use procledger::{Outcome, Process};
use rustix::process::{Signal, pidfd_send_signal};

use super::{
    bare::Bare,
    fixture::{Fixture, GRACE},
    former::{self, Former},
    namespace::raise_descriptors,
    samples::{Samples, timed},
    score::{Board, Line},
    sleepers::{Program, Raw, wait_all},
};

const OBEDIENT: [&str; 2] = ["/bin/sleep", "600"];
/// Ignores SIGTERM, whatever dispositions it inherited.
const STUBBORN: [&str; 4] = ["/usr/bin/env", "--ignore-signal=TERM", "/bin/sleep", "600"];
/// The former implementation takes 100 ms for each, so only this many are measured.
const FORMER_ENDS: usize = 5;

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let sizes: &[(usize, usize)] =
        board.scale().pick(&[(100, 4), (1000, 2), (5000, 1)], &[(100, 15), (1000, 7), (5000, 3)]);
    let former = former_end();
    for &(count, rounds) in sizes {
        end(board, count, rounds, &OBEDIENT, former);
    }
    for &(count, rounds) in sizes {
        end(board, count, rounds, &STUBBORN, former);
    }
}

fn end(board: &mut Board, count: usize, rounds: usize, words: &[&str], former: f64) {
    let stubborn = words.len() > 2;
    let [mut ours, mut limit, mut floor] = <[Samples; 3]>::default();
    let mut forced = 0;
    for round in 0..rounds {
        let (took, killed) = shut_down(count, words);
        ours.add(took);
        forced += killed;
        // For programs that ignore SIGTERM the limit includes at least the grace period.
        let wait = if stubborn { GRACE } else { Duration::ZERO };
        limit.add(kill(count, words) + wait);
        floor.add(record_and_end(count, words, stubborn));
        eprintln!("    {count} {}: round {round}", words[0]);
    }
    let what = if stubborn { "that ignore SIGTERM" } else { "obedient" };
    let line = Line::new(format!("end {count} programs {what}"), &ours)
        .former_scaled(former * count as f64, format!("{FORMER_ENDS} measured, one after another"));
    let is = if stubborn {
        "100 ms, `stat` three times, SIGTERM, SIGKILL, UPDATE of all twice"
    } else {
        "`stat` twice, SIGTERM, UPDATE of all twice"
    };
    let name = format!("end {count} programs {what}, beside their floor");
    board.add(Line::new(name, &ours).beside(is, floor.median()));
    board.add(if stubborn {
        line.beside("100 ms + SIGKILL alone", limit.median()).at_most(1.5)
    } else {
        line.beside("SIGKILL alone", limit.median())
            .at_most(1.6)
            .and(format!("forced kills: {forced} of 0"), forced == 0)
    });
}

/// Ends this many trees with the tracker; returns how many of them had to be killed.
fn shut_down(count: usize, words: &[&str]) -> (Duration, u64) {
    let fixture = Fixture::quiet();
    let processes: Vec<Process> =
        (0..count).map(|task| fixture.spawn(&format!("task-{task}"), words)).collect();
    for process in &processes {
        wait_settled(process.pid().get());
    }
    let (took, report) = timed(|| fixture.tracker.shutdown().expect("an orderly end"));
    assert_eq!(report.endings.len(), count, "{:?}", report.errors);
    (took, report.count(Outcome::Kill))
}

/// The limit: SIGKILL to each, until all are dead and reaped.
fn kill(count: usize, words: &[&str]) -> Duration {
    let mut program = Program::new(words);
    let children: Vec<Raw> = (0..count).map(|_| program.vfork()).collect();
    let pidfds: Vec<OwnedFd> = children.iter().map(Raw::pidfd).collect();
    for child in &children {
        wait_settled(child.0.cast_unsigned());
    }
    timed(|| {
        for pidfd in &pidfds {
            pidfd_send_signal(pidfd, Signal::KILL).expect("sent");
        }
        wait_all(&pidfds);
        children.into_iter().for_each(Raw::wait);
    })
    .0
}

/// The minimum for a recorded end: the identity of each process is read, all rows are claimed, each
/// process gets SIGTERM and is waited for, its absence is verified, and all ends are recorded. A
/// stubborn process is read again after its grace, and gets SIGKILL.
fn record_and_end(count: usize, words: &[&str], stubborn: bool) -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    let mut ledger = Bare::at(&folder.path().join("bare.db"));
    let mut program = Program::new(words);
    let children: Vec<Raw> = (0..count).map(|_| program.vfork()).collect();
    let pidfds: Vec<OwnedFd> = children.iter().map(Raw::pidfd).collect();
    let stats: Vec<String> =
        children.iter().map(|child| format!("/proc/{}/stat", child.0)).collect();
    for child in &children {
        ledger.insert("floor", child.0.cast_unsigned());
        wait_settled(child.0.cast_unsigned());
    }
    let read_all = || {
        for stat in &stats {
            std::fs::read(stat).expect("it lives");
        }
    };
    let signal_all = |signal| {
        for pidfd in &pidfds {
            pidfd_send_signal(pidfd, signal).expect("sent");
        }
    };
    timed(|| {
        read_all();
        ledger.claim_all();
        signal_all(Signal::TERM);
        if stubborn {
            std::thread::sleep(GRACE);
            read_all();
            signal_all(Signal::KILL);
        }
        wait_all(&pidfds);
        children.into_iter().for_each(Raw::wait);
        for stat in &stats {
            std::fs::read(stat).expect_err("it is gone");
        }
        ledger.end_all();
    })
    .0
}

/// Waits until the program sleeps; before that it may not ignore SIGTERM yet.
fn wait_settled(pid: u32) {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        if stat.contains(" (sleep) S ") {
            return;
        }
        std::thread::yield_now();
    }
}

fn former_end() -> f64 {
    let mut former = Former::tracking(&[]);
    let mut children: Vec<_> =
        (0..FORMER_ENDS).map(|task| former.spawn(format!("task-{task}"), &OBEDIENT)).collect();
    let took = timed(|| {
        for child in &mut children {
            former::end(child);
            former.unregister(child.id());
        }
    });
    took.0.as_nanos() as f64 / FORMER_ENDS as f64
}
