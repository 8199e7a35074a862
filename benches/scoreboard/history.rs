//! How each cost grows with the history.

#[path = "../history/ledger.rs"]
mod ledger;

use std::path::{Path, PathBuf};

use procledger::{ContainmentMode, Tracker};
use tempfile::TempDir;

use super::{
    fixture::Fixture,
    opening::beside_bare,
    passes::{health_pass, orphan_scan},
    samples::{Samples, timed},
    score::{Board, Line},
    sleepers::Sleepers,
    spawns::spawn,
};

/// A cost with a long history is at most this many times the cost without one.
const SAME: f64 = 1.2;
/// Rows that are running during the measurement.
const RUNNING: usize = 100;
const LONGEST: usize = 10_000_000;

/// A ledger with a history, and what is measured in it.
struct Past {
    rows: usize,
    fixture: Fixture,
    costs: [(&'static str, Samples); 5],
}

pub(crate) fn measure(board: &mut Board) {
    let sizes: &[usize] = board.scale().pick(&[0, 100_000], &[0, 100_000, 1_000_000, LONGEST]);
    let folders: Vec<(usize, TempDir, PathBuf)> = sizes.iter().map(|&rows| made(rows)).collect();
    for (rows, _, path) in &folders {
        let (ours, limit) = beside_bare(path, board.scale().pick(30, 100));
        board.point("open", "history", *rows, ours.median());
        if *rows == sizes[sizes.len() - 1] {
            board.add(
                Line::new(format!("open with {rows} rows of history"), &ours)
                    .beside("bare open", limit.median())
                    .at_most(2.0),
            );
        }
    }
    let sleepers = Sleepers::new(RUNNING);
    let mut pasts: Vec<Past> = folders
        .into_iter()
        .map(|(rows, folder, path)| open(rows, folder, &path, &sleepers))
        .collect();
    let rounds = board.scale().pick(200, 1000);
    for round in 0..rounds {
        for past in &mut pasts {
            past.take_turn(round);
        }
    }
    report(board, &pasts);
    for past in pasts {
        // Its processes are the sleepers.
        std::mem::forget(past.fixture.tracker);
    }
}

fn made(length: usize) -> (usize, TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    if length > 0 {
        let rows = i64::try_from(length).expect("a count");
        let past = ledger::Past {
            processes: rows,
            leaks: rows / 20,
            passes: 260_000.min(rows),
            tasks: rows / 100,
            instances: 400,
            days: 90,
        };
        let (took, made) = timed(|| ledger::make(&path, past));
        made.expect("a past");
        eprintln!("  {rows} rows of history made in {took:.1?}");
    }
    (length, folder, path)
}

fn open(rows: usize, folder: TempDir, path: &Path, sleepers: &Sleepers) -> Past {
    let tracker = Tracker::builder(path)
        .monitor(false)
        .containment(ContainmentMode::Session)
        .open()
        .expect("a ledger");
    for pid in &sleepers.pids {
        tracker.register(format!("sleepers-{pid}"), *pid).expect("it is there");
    }
    let names = ["spawn", "end recorded", "running", "health pass", "orphan pass"];
    let costs = names.map(|name| (name, Samples::default()));
    Past { rows, fixture: Fixture { tracker, folder }, costs }
}

impl Past {
    fn take_turn(&mut self, round: usize) {
        let fixture = &self.fixture;
        let mut process = fixture.spawn(&format!("end-{round}"), &["/bin/true"]);
        super::rows::wait_dead(process.pid().get());
        let mut times = vec![
            spawn(fixture, round),
            timed(|| process.wait().expect("it ends")).0,
            timed(|| assert_eq!(fixture.tracker.ledger().roots().expect("read").len(), RUNNING)).0,
        ];
        // Rare enough that most of the time is spent idle.
        if round.is_multiple_of(10) {
            times.extend([health_pass(fixture), orphan_scan(fixture)]);
        }
        for ((_, samples), time) in self.costs.iter_mut().zip(times) {
            samples.add(time);
        }
    }
}

fn report(board: &mut Board, pasts: &[Past]) {
    for past in pasts {
        for (cost, samples) in &past.costs {
            board.point(cost, "history", past.rows, samples.median());
        }
    }
    let [none, .., long] = pasts else { return };
    for ((cost, samples), (_, beside)) in long.costs.iter().zip(&none.costs) {
        board.add(
            Line::new(format!("{cost} with {} rows of history", long.rows), samples)
                .beside("the same with none", beside.median())
                .at_most(SAME),
        );
    }
}
