//! The cost of the individual verbs, each next to the limit that it is measured against.
//!
//! `cargo bench --bench parts`. Compare within one run: absolute times depend on the machine.
#![expect(
    clippy::disallowed_methods,
    reason = "the limits are what other ways of starting a program cost"
)]

use std::{
    hint::black_box,
    process::{Child, Command},
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use procledger::{ContainmentMode, Job, Process, Stdio, Tracker};
use tempfile::TempDir;

/// Rows and processes that a pass scans.
const TRACKED: usize = 200;

struct Bench {
    tracker: Tracker,
    _folder: TempDir,
}

impl Bench {
    fn new(containment: ContainmentMode) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Without the monitor, so that nothing else runs while a verb is measured.
        let tracker = Tracker::builder(folder.path().join("ledger.db"))
            .monitor(false)
            .containment(containment)
            .open()
            .expect("a ledger");
        Self { tracker, _folder: folder }
    }

    fn spawn(&self, task: String, program: &str, args: &[&str]) -> Process {
        let job = Job::new(task, program)
            .args(args.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.tracker.spawn(job).expect("it runs")
    }
}

/// Time from the call until the program's first instruction; waiting for its end is not counted.
fn spawn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spawn");
    group.bench_function("limit: std Command, no gate, no row", |bencher| {
        bencher.iter_custom(|rounds| {
            timed(
                rounds,
                |_| Command::new("/bin/true").spawn().expect("it runs"),
                |mut child: Child| {
                    child.wait().expect("it ends");
                },
            )
        });
    });
    for mode in [ContainmentMode::Session, ContainmentMode::Auto] {
        let bench = Bench::new(mode);
        group.bench_function(format!("ours: recorded before exec, {mode}"), |bencher| {
            bencher.iter_custom(|rounds| {
                timed(
                    rounds,
                    |round| bench.spawn(format!("spawn-{round}"), "/bin/true", &[]),
                    |mut process| {
                        process.wait().expect("it ends");
                    },
                )
            });
        });
    }
    group.finish();
}

fn timed<T>(rounds: u64, mut measured: impl FnMut(u64) -> T, mut after: impl FnMut(T)) -> Duration {
    let mut total = Duration::ZERO;
    for round in 0..rounds {
        let start = Instant::now();
        let value = measured(round);
        total += start.elapsed();
        after(value);
    }
    total
}

fn passes(criterion: &mut Criterion) {
    let bench = Bench::new(ContainmentMode::Auto);
    let processes: Vec<Process> = (0..TRACKED)
        .map(|task| bench.spawn(format!("pass-{task}"), "/bin/sleep", &["600"]))
        .collect();
    let mut group = criterion.benchmark_group(format!("{TRACKED} processes"));
    group.bench_function("limit: read each stat", |bencher| {
        bencher.iter(|| {
            for process in &processes {
                black_box(
                    std::fs::read(format!("/proc/{}/stat", process.pid())).expect("it lives"),
                );
            }
        });
    });
    group.bench_function("ours: health pass", |bencher| {
        bencher.iter(|| bench.tracker.health_pass().expect("a pass"));
    });
    group.finish();
    bench.tracker.shutdown().expect("an orderly end");
}

criterion_group!(parts, spawn, passes);
criterion_main!(parts);
