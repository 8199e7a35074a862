//! Measures whether a million rows of history slow anything down: the same verbs on an empty ledger
//! and on one with a history, interleaved in one run.
//!
//! `cargo bench --bench history [-- --strict]`. Compare within one run: absolute times depend on
//! the machine. With `--strict` it exits with 1 if a limit is missed; `--make FILE` creates the
//! ledger with the history and measures nothing.
#![expect(clippy::disallowed_methods, reason = "it measures the command as a person runs it")]

mod ledger;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio as Standard},
    time::{Duration, Instant},
};

use procledger::{Job, Stdio, Tracker};
use rusqlite::{Connection, OpenFlags};

/// The default of `Builder::keep_history`: 90 days, with a pass every 30 seconds.
const A_BUSY_QUARTER: ledger::Past = ledger::Past {
    processes: 1_000_000,
    leaks: 50_000,
    passes: 260_000,
    tasks: 10_000,
    instances: 400,
    days: 90,
};

/// A verb on a ledger with a long history may take at most this many times as long as on one
/// without.
const RATIO: f64 = 1.2;
/// The limit for a report of a month, in any format.
const REPORT: Duration = Duration::from_millis(300);
/// Processes that run in both ledgers during the measurement.
const RUNNING: usize = 20;

/// One of the two ledgers.
struct Side {
    path: PathBuf,
    tracker: Tracker,
    reader: Connection,
}

impl Side {
    fn open(path: PathBuf) -> Self {
        // Without the monitor, so that nothing else runs while a verb is measured.
        let tracker = Tracker::builder(&path).monitor(false).open().expect("a ledger");
        for task in 0..RUNNING {
            let job = Job::new(format!("running-{task}"), "/bin/sleep").arg("3600");
            tracker.spawn(quiet(job)).expect("it runs");
        }
        let reader = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY);
        Self { path, tracker, reader: reader.expect("a ledger") }
    }

    /// Time from the call until the row is committed and the program runs; its end is not measured.
    fn spawn(&self, round: usize) -> Duration {
        let job = quiet(Job::new(format!("task-{round}"), "/bin/true"));
        let start = Instant::now();
        let mut process = self.tracker.spawn(job).expect("it runs");
        let took = start.elapsed();
        process.wait().expect("it ends");
        took
    }

    fn running(&self) -> Duration {
        timed(|| assert_eq!(self.tracker.ledger().roots().expect("read").len(), RUNNING))
    }

    /// Reads the view, like `sqlite3`.
    fn view(&self, view: &str, least: usize) -> Duration {
        timed(|| {
            let mut query = self.reader.prepare(&format!("SELECT * FROM {view}")).expect("a view");
            let mut rows = query.raw_query();
            let mut count = 0;
            while rows.next().expect("a row").is_some() {
                count += 1;
            }
            assert!(count >= least, "{view} has {count} rows");
        })
    }

    fn command(&self, words: &[&str]) -> Duration {
        timed(|| {
            let done = Command::new(env!("CARGO_BIN_EXE_procledger"))
                .arg("--db")
                .arg(&self.path)
                .args(words)
                .stdin(Standard::null())
                .stdout(Standard::null())
                .status();
            assert!(done.expect("it runs").success(), "{words:?}");
        })
    }
}

fn quiet(job: Job) -> Job {
    job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Prints each line and records whether a limit was missed.
#[derive(Default)]
struct Scores {
    missed: bool,
}

impl Scores {
    /// Measures the same on both sides, interleaved, so that other load on the machine affects
    /// both.
    fn compare(
        &mut self,
        what: &str,
        rounds: usize,
        sides: [&Side; 2],
        verb: impl Fn(&Side, usize) -> Duration,
    ) {
        let (mut empty, mut full) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            empty.push(verb(sides[0], round));
            full.push(verb(sides[1], round));
        }
        let (empty, full) = (median(empty), median(full));
        let ratio = full.as_secs_f64() / empty.as_secs_f64();
        let met = self.judge(ratio <= RATIO);
        println!("{what:<34} {empty:>12.1?} {full:>12.1?} {ratio:>8.2}   <= {RATIO:<7} {met}");
    }

    fn limit(&mut self, what: &str, rounds: usize, verb: impl Fn() -> Duration) {
        let took = median((0..rounds).map(|_| verb()).collect());
        let met = self.judge(took < REPORT);
        let limit = format!("< {REPORT:?}");
        println!("{what:<34} {:>12} {took:>12.1?} {:>8}   {limit:<10} {met}", "", "");
    }

    fn judge(&mut self, met: bool) -> &'static str {
        self.missed |= !met;
        if met { "met" } else { "MISSED" }
    }
}

fn main() -> ExitCode {
    let past = A_BUSY_QUARTER;
    let mut arguments = std::env::args().skip_while(|argument| argument != "--make").skip(1);
    if let Some(file) = arguments.next() {
        ledger::make(Path::new(&file), past).expect("a past");
        return ExitCode::SUCCESS;
    }
    let strict = std::env::args().any(|argument| argument == "--strict");
    let folder = tempfile::tempdir().expect("a folder");
    let full = folder.path().join("full.db");
    let made = timed(|| ledger::make(&full, past).expect("a past"));
    println!("{past:?}\nmade in {made:.1?}, {} MiB\n", size(&full) >> 20);
    let empty = Side::open(folder.path().join("empty.db"));
    let full = Side::open(full);

    let header = ["", "empty", "with a past", "ratio", "limit"];
    let [what, a, b, ratio, limit] = header;
    println!("{what:<34} {a:>12} {b:>12} {ratio:>8}   {limit:<10}");
    let mut scores = Scores::default();
    let both = [&empty, &full];
    scores.compare("spawn", 400, both, Side::spawn);
    scores.compare("Tracker::running", 400, both, |side, _| side.running());
    scores.compare("the view running", 400, both, |side, _| side.view("running", RUNNING));
    scores.compare("procledger ps", 60, both, |side, _| side.command(&["ps"]));
    for words in [
        // The window of a year holds every leak.
        &["report", "--since", "365d"][..],
        &["report", "--since", "365d", "--format", "json"],
        &["report", "--since", "365d", "--format", "csv"],
        &["report", "--since", "365d", "--format", "html"],
        &["report", "--since", "30d"],
        &["report", "--since", "30d", "--format", "json"],
        &["report", "--since", "30d", "--format", "csv"],
        &["report", "--since", "30d", "--by", "day"],
        &["report", "--since", "30d", "--by", "task"],
        &["report", "--since", "30d", "--by", "rule"],
        &["ps", "--all"],
    ] {
        scores.limit(&words.join(" "), 5, || full.command(words));
    }
    for view in
        ["history LIMIT 20", "leaks LIMIT 20", "leaks_by_day", "leaks_by_task", "passes LIMIT 20"]
    {
        scores.limit(&format!("the view {view}"), 9, || full.view(view, 10));
    }
    empty.tracker.shutdown().expect("an orderly end");
    full.tracker.shutdown().expect("an orderly end");
    if strict && scores.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).expect("there").len()
}
