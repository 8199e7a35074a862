//! The cost of a keeper: the time it adds to a spawn, and the memory it holds while its program
//! runs.
//!
//! `cargo bench --bench keeper`. Session and keeper alternate in one run; the figures are medians.

use std::{
    fs,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};

const ROUNDS: usize = 300;

fn tracker(folder: &tempfile::TempDir, mode: ContainmentMode) -> Tracker {
    Tracker::builder(folder.path().join("ledger.db"))
        .monitor(false)
        .containment(mode)
        .keeper(env!("CARGO_BIN_EXE_procledger-keeper"))
        .open()
        .expect("a ledger")
}

fn job(task: String, program: &str) -> Job {
    Job::new(task, program)
        .arg("60")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// Times until `spawn` returns, and until the program has ended and its end is in the ledger.
fn measure(tracker: &Tracker, round: usize) -> (Duration, Duration) {
    let began = Instant::now();
    let mut process = tracker.spawn(job(format!("task-{round}"), "/bin/true")).expect("it runs");
    let spawned = began.elapsed();
    process.wait().expect("it ends");
    (spawned, began.elapsed())
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

fn main() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let modes = [ContainmentMode::Session, ContainmentMode::Keeper];
    let trackers = [tracker(&folders[0], modes[0]), tracker(&folders[1], modes[1])];
    let mut spawns = [Vec::new(), Vec::new()];
    let mut runs = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for which in 0..2 {
            let (spawned, ended) = measure(&trackers[which], round);
            spawns[which].push(spawned);
            runs[which].push(ended);
        }
    }
    for (which, mode) in modes.iter().enumerate() {
        let (spawned, ended) = (median(spawns[which].clone()), median(runs[which].clone()));
        println!("{mode}: spawn {spawned:?}, spawn to recorded end {ended:?}");
    }
    memory(&trackers[1]);
}

/// Memory of one keeper, and of the last of ten: shared pages are counted proportionally.
fn memory(tracker: &Tracker) {
    let mut keeper = 0;
    for round in 0..10 {
        let process = tracker.spawn(job(format!("sleep-{round}"), "/bin/sleep")).expect("it runs");
        keeper = procledger_testing::parent(process.pid().get()).expect("it lives");
        if round == 0 {
            println!("one keeper: {}", rollup(keeper));
        }
    }
    println!("the last of ten: {}", rollup(keeper));
}

fn rollup(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
    let wanted = ["Rss:", "Pss:", "Private_Dirty:"];
    let lines = text.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}
