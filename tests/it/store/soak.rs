//! Resources that could grow without bound: descriptors, threads, memory, the WAL, temporary files,
//! cgroups. Compared after a warm-up and at the end of a condensed long day.
//!
//! `PROCLEDGER_LONG=1 cargo test --test it -- soak --nocapture` makes 100,000 spawns and ends, and
//! 10,000 openings and closings; otherwise it is a sample of each. What was measured is printed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use procledger::{Job, Stdio, Tracker};

use crate::{
    spawn::gate_host::{Given, children, command, descriptors, note, run_command},
    support::{Guard, Place, alone, long, sampled, until},
};

/// The growth allowed for a few more pages. Less than a hundred bytes a spawn, over 100,000 of
/// them.
const MEMORY_KIB: u64 = 8 << 10;
/// The WAL is cut to 4 MiB whenever it restarts; readers may delay that for a moment.
const WAL_BYTES: u64 = 16 << 20;
/// One that writes, four that read, one of the housekeeper; each has the ledger and its WAL open.
const CONNECTIONS: usize = 6;
/// Three seconds of history, and the pages of the busiest three seconds that were not released yet.
const LEDGER_BYTES: u64 = 64 << 20;

fn play(place: &Place, role: &str) {
    fs::create_dir(place.path().join("tmp")).expect("a folder");
    let mut host = command(place, role);
    host.env("TMPDIR", place.path().join("tmp"));
    run_command(host, place, role, Duration::from_mins(if long() { 120 } else { 5 }));
    assert_eq!(place.alive(), [0_u32; 0]);
    let open = "SELECT count(*) FROM process WHERE state <> 'ended'";
    assert_eq!(place.sqlite3(open), "0");
    let clean = "SELECT count(*) FROM instance WHERE stopped_how IS NOT 'clean'";
    assert_eq!(place.sqlite3(clean), "0");
}

#[test]
fn a_hundred_thousand_spawns_leave_nothing_that_grows() {
    let _alone = alone();
    play(&Place::new(), "soak");
}

#[test]
fn ten_thousand_openings_leave_no_thread_and_no_descriptor() {
    let _alone = alone();
    play(&Place::new(), "open-close");
}

/// What must not grow.
#[derive(Debug)]
struct Figures {
    descriptors: Vec<String>,
    /// Those on the ledger and its WAL are separate: connections for reading are opened when they
    /// are first needed.
    of_ledger: usize,
    threads: Vec<String>,
    memory_kib: u64,
    wal: u64,
    ledger: u64,
    files: BTreeSet<String>,
    cgroups: usize,
}

impl Figures {
    fn now(given: &Given) -> Self {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |found| found.len());
        let (of_ledger, descriptors): (Vec<_>, Vec<_>) = descriptors()
            .into_iter()
            .partition(|line| line.ends_with("/ledger.db") || line.ends_with("/ledger.db-wal"));
        Self {
            descriptors,
            of_ledger: of_ledger.len(),
            threads: threads(),
            memory_kib: memory_kib(),
            wal: size(given.folder.join("ledger.db-wal")),
            ledger: size(given.ledger()),
            files: files(&given.folder),
            cgroups: cgroups(&given.ledger()),
        }
    }

    /// Waits until everything is back to what it was before; returns what is not.
    fn is_back(given: &Given, before: &Self) {
        let is_back = |now: &Self| {
            now.descriptors.len() <= before.descriptors.len()
                && now.of_ledger <= CONNECTIONS * 2
                && now.threads.len() <= before.threads.len()
                && now.memory_kib <= before.memory_kib + MEMORY_KIB
                && now.wal <= WAL_BYTES
                && now.ledger <= LEDGER_BYTES
                && now.files.is_subset(&before.files)
                && now.cgroups <= before.cgroups
                && children().is_empty()
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut now = Self::now(given);
        while !is_back(&now) {
            assert!(
                Instant::now() < deadline,
                "before: {before:#?}\nnow: {now:#?}\n{:?}",
                children()
            );
            thread::sleep(Duration::from_millis(20));
            now = Self::now(given);
        }
        note(&format!(
            "descriptors {} then {} and {} of the ledger, threads {} then {}, memory {} then {} KiB, WAL {} KiB, ledger {} KiB, cgroups {}",
            before.descriptors.len(),
            now.descriptors.len(),
            now.of_ledger,
            before.threads.len(),
            now.threads.len(),
            before.memory_kib,
            now.memory_kib,
            now.wal >> 10,
            now.ledger >> 10,
            now.cgroups,
        ));
    }
}

/// By name.
fn threads() -> Vec<String> {
    let mut names = crate::support::threads(std::process::id());
    names.sort();
    names
}

/// Its own memory; pages of the program itself come and go as the machine decides.
fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// All files below the folder, by name; the export's temporary files have random names, and exist
/// for a moment. Without the WAL and its index, which are there or not, as the last close has left
/// them; the size of the WAL is a figure.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut names = all_files(folder);
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names
}

fn all_files(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder").map_while(Result::ok) {
        if entry.path().is_dir() {
            names.extend(all_files(&entry.path()));
        }
        names.insert(entry.file_name().to_string_lossy().into_owned());
    }
    names
}

/// Cgroups of trees that still exist, below those of live instances.
fn cgroups(ledger: &Path) -> usize {
    // Another connection of this process would drop SQLite's locks when it is closed, so the
    // command reads.
    let instances = crate::support::sqlite3(
        ledger,
        "SELECT cgroup FROM instance WHERE cgroup IS NOT NULL AND stopped_at IS NULL",
    );
    let below = |instance: &str| fs::read_dir(instance).into_iter().flatten().flatten();
    instances.lines().flat_map(below).filter(|entry| entry.path().is_dir()).count()
}

fn open(given: &Given) -> Tracker {
    let builder = given.builder().export(given.folder.join("export.json"));
    let builder = builder.health_interval(Duration::from_millis(200));
    let builder = builder.keep_history(Duration::from_secs(3)).grace(Duration::from_millis(50));
    builder.open().expect("a ledger")
}

fn quiet(job: Job) -> Job {
    job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// The host of the soak.
pub(crate) fn body(given: &Given) {
    let spawns: u32 = if long() { 100_000 } else { sampled(500, 1_500) };
    let tracker = open(given);
    work(&tracker, given, spawns / 10);
    settle(&tracker);
    let before = Figures::now(given);
    let began = Instant::now();
    work(&tracker, given, spawns);
    settle(&tracker);
    note(&format!("{spawns} spawns and ends in {:.1?}", began.elapsed()));
    Figures::is_back(given, &before);
    tracker.shutdown().expect("an orderly end");
    drop(tracker);
    let mut left = files(&given.folder);
    // A small WAL is left to the next opening.
    left.retain(|name| !["ledger.db-wal", "ledger.db-shm"].contains(&name.as_str()));
    let left: Vec<String> = left.into_iter().collect();
    assert_eq!(left, ["ledger.db", "ledger.db-setup.lock", "soak.log", "tmp"]);
}

fn settle(tracker: &Tracker) {
    until("nothing runs", || tracker.executing_count() == 0);
    until("nothing is left", || tracker.ledger().processes().expect("rows").is_empty());
}

fn work(tracker: &Tracker, given: &Given, spawns: u32) {
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        let one = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= spawns {
                    return;
                }
                live_and_die(tracker, given, number);
            }
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        for thread in threads {
            thread.join().expect("all right");
        }
    });
}

/// Most end by themselves; some leave a daemon, are terminated, are registered, or never start.
fn live_and_die(tracker: &Tracker, given: &Given, number: u32) {
    let task = format!("task-{number}");
    let shell =
        |script: &str| quiet(Job::new(&task, "/bin/sh").args(["-c", script, &given.marker]));
    match number % 25 {
        0 => {
            let left = tracker.spawn(shell("setsid sleep 60 & exit 0")).expect("spawned").wait();
            assert!(left.expect("waited").success());
        }
        1 => {
            let process = tracker.spawn(shell("sleep 60 & wait")).expect("spawned");
            drop(process);
            tracker.terminate(&task).expect("ended");
        }
        2 => {
            let mut sleep = Command::new("sleep");
            let mut own =
                Guard(sleep.arg("60").stdin(std::process::Stdio::null()).spawn().expect("sleep"));
            tracker.register(&task, own.pid()).expect("registered");
            own.0.kill().expect("killed");
            own.0.wait().expect("reaped");
        }
        3 => {
            let missing = Job::new(&task, given.folder.join("missing").into_os_string());
            assert!(tracker.spawn(missing).expect_err("no such program").is_not_started());
        }
        _ => {
            let code = number % 2;
            let program = ["/bin/true", "/bin/false"][code as usize];
            let mut process = tracker.spawn(quiet(Job::new(&task, program))).expect("spawned");
            let status = process.wait().expect("waited");
            assert_eq!(status.code(), Some(code.cast_signed()), "{task}");
        }
    }
}

/// The host of the openings.
pub(crate) fn open_and_close(given: &Given) {
    let cycles: u32 = if long() { 10_000 } else { sampled(100, 300) };
    for number in 0..20 {
        cycle(given, number);
    }
    let before = Figures::now(given);
    let began = Instant::now();
    for number in 0..cycles {
        cycle(given, number);
    }
    note(&format!("{cycles} openings and closings in {:.1?}", began.elapsed()));
    Figures::is_back(given, &before);
}

/// One tracker, closed in turn by its last handle, by a call, and by a call while other threads use
/// it.
fn cycle(given: &Given, number: u32) {
    let tracker = open(given);
    let job = || quiet(Job::new(format!("task-{number}"), "sleep").args(["60", &given.marker]));
    match number % 4 {
        0 => drop(tracker),
        1 => drop(tracker.shutdown().expect("an orderly end")),
        2 => {
            tracker.spawn(job()).expect("spawned");
            tracker.shutdown().expect("an orderly end");
        }
        _ => thread::scope(|scope| {
            for turn in 0..2 {
                let tracker = tracker.clone();
                scope.spawn(move || {
                    let used = match turn {
                        0 => tracker.spawn(job()).map(drop),
                        _ => tracker.health_pass().map(drop),
                    };
                    assert!(used.is_ok() || used.is_err_and(|error| error.is_closed()));
                });
            }
            tracker.shutdown().expect("an orderly end");
        }),
    }
}
