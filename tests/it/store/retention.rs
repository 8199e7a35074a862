//! Years of history beside a busy host: it is pruned in time, no writer waits for that, and the
//! file shrinks.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use procledger::Tracker;
use rusqlite::{Connection, TransactionBehavior};

use crate::{
    cli::pty::Pty,
    support::{Guard, Host, Place, alone, sqlite3, until},
};

/// No writer waits longer for the lock.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
const DAY_MS: i64 = 86_400_000;

/// `rows` processes that ended a minute apart, the last of them `newest` days ago, each tenth with
/// a leak and a pass.
fn fill(ledger: &Path, rows: u32, newest: i64) {
    let mut connection = Connection::open(ledger).expect("opens");
    connection.busy_timeout(Duration::from_secs(10)).expect("set");
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).expect("begun");
    tx.execute(
        "INSERT INTO instance (program, version, boot_id, pid_namespace, boottime_offset, pid, start_tick, uid, lock_name,
           ledger_device, ledger_inode, started_at, stopped_at, stopped_how)
         VALUES ('old', '0', '00', 1, 0, 1, 1, 0, 'x', 1, 1, 1, 2, 'clean')",
        [],
    )
    .expect("an instance");
    let owner = tx.last_insert_rowid();
    let last: i64 = tx
        .query_row(
            "SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000 - ?1",
            [newest * DAY_MS],
            |row| row.get(0),
        )
        .expect("a time");
    tx.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO process (task_id, owner, first_owner, origin, token, pid, start_tick, containment, command, uid, state,
           started_at, ended_at, exit_code, end_reason, grace_ms)
         SELECT 'task-' || i, ?2, ?2, 'spawned', lower(hex(randomblob(16))), 1000 + i % 30000, i, 'session',
           '[\"/usr/bin/worker\",\"--batch\",\"' || i || '\"]', 0, 'ended', ?3 - (?1 - i + 1) * 60000, ?3 - (?1 - i) * 60000,
           0, 'exited', 100
         FROM n",
        (rows, owner, last),
    )
    .expect("processes");
    tx.execute(
        "INSERT INTO pass (instance, kind, started_at, duration_us, checked, found, ended, survived, unknown)
         SELECT owner, 'orphan', ended_at, 1, 1, 1, 1, 0, 0 FROM process WHERE id % 10 = 0 AND state = 'ended'",
        [],
    )
    .expect("passes");
    tx.execute(
        "INSERT INTO leak (process, kind, rule, evidence, found_at, age_ms, outcome)
         SELECT id, 'stray', 'its root had ended', 'session', ended_at, 1, 'term' FROM process
         WHERE id % 10 = 0 AND state = 'ended'",
        [],
    )
    .expect("leaks");
    tx.commit().expect("committed");
}

/// A writer in another process: one small transaction after the other, with how long each waited
/// for the lock.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Writer {
    fn start(ledger: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, ledger) = (Arc::clone(&stop), ledger.to_owned());
        let thread = thread::spawn(move || {
            let mut connection = Connection::open(ledger).expect("opens");
            connection.busy_timeout(Duration::from_secs(10)).expect("set");
            let mut waits = Vec::new();
            while !theirs.load(Ordering::Relaxed) {
                let began = Instant::now();
                let tx = connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .expect("the lock");
                waits.push(began.elapsed());
                tx.execute("UPDATE instance SET started_at = started_at + 1 WHERE id = 1", [])
                    .expect("written");
                tx.commit().expect("committed");
                thread::sleep(Duration::from_millis(1));
            }
            waits
        });
        Self { stop, thread }
    }

    fn finish(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut waits = self.thread.join().expect("no error");
        waits.sort();
        waits
    }
}

fn print(what: &str, waits: &[Duration]) {
    let at = |part: usize| waits[(waits.len() - 1) * part / 1000];
    println!(
        "{what}: {} transactions waited p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
        waits.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
}

fn files(place: &Place) -> u64 {
    fs::metadata(place.ledger()).expect("there").len()
}

/// Whether processes wait for a processor here (`proc_pressure_cpu(5)`): then the longest of
/// thousands of waits is the scheduler's, which may suspend the holder of a lock like any other
/// process.
fn is_contended() -> bool {
    let text = fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let share =
        text.split("avg10=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    share.is_some_and(|percent| percent > 10.0)
}

#[test]
fn a_writer_beside_a_prune_of_300_000_rows_waits_less_than_50_ms() {
    let _alone = alone();
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 300_000, 100);
    let full = files(&place);
    let writer = Writer::start(&place.ledger());
    let contended = is_contended();
    let began = Instant::now();
    let answer = place.procledger(&["prune", "--older-than", "90days"]);
    println!("{} in {:?}", String::from_utf8_lossy(&answer.stdout).trim(), began.elapsed());
    let contended = contended || is_contended();
    let waits = writer.finish();
    print(if contended { "on a busy machine" } else { "on a quiet machine" }, &waits);
    assert!(answer.status.success(), "{answer:?}");
    // The last one stays, so that its row number is not reused.
    assert_eq!(sqlite3(&place.ledger(), "SELECT count(*) FROM process"), "1");
    assert_eq!(sqlite3(&place.ledger(), "PRAGMA integrity_check"), "ok");
    assert!(files(&place) < full / 20, "{} of {full} bytes are left", files(&place));
    assert!(waits.len() > 100, "{} waits prove nothing", waits.len());
    let judged = if contended { (waits.len() - 1) * 99 / 100 } else { waits.len() - 1 };
    assert!(waits[judged] < LONGEST_WAIT, "a writer waited {:?}", waits[judged]);
}

#[test]
fn the_monitor_deletes_old_history_and_keeps_live_rows() {
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 2_000, 30);
    fill(&place.ledger(), 10, 0);
    let mut host = Host::start(&place, "interval=300 keep-history=86400000");
    let living = host.spawn("living", "sleep 3600 & exec sleep 3600");
    until("its child is recorded", || {
        sqlite3(&place.ledger(), "SELECT count(*) FROM process WHERE task_id = 'living'") == "2"
    });
    let ended = "SELECT count(*) FROM process WHERE state = 'ended'";
    until("the old ones are gone", || sqlite3(&place.ledger(), ended) == "10");
    until("with their leaks", || sqlite3(&place.ledger(), "SELECT count(*) FROM leak") == "1");
    until("and their instance", || {
        sqlite3(&place.ledger(), "SELECT count(*) FROM instance WHERE program = 'old'") == "1"
    });
    until("the pages are given back", || sqlite3(&place.ledger(), "PRAGMA freelist_count") == "0");
    assert_eq!(
        sqlite3(&place.ledger(), "SELECT count(*) FROM process WHERE task_id = 'living'"),
        "2"
    );
    assert_ne!(sqlite3(&place.ledger(), "SELECT count(*) FROM pass WHERE kind = 'health'"), "0");
    assert!(!living.is_dead());
    host.stop();
}

/// By the command: one `run` that lives for seconds, as long as there is no pass, and a `watch`
/// with a worker.
#[test]
fn run_and_watch_keep_as_much_history_as_configured() {
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 1_000, 30);
    // The last process, and the one with the last leak, stay so that their row numbers are not
    // reused.
    let old = || {
        sqlite3(
            &place.ledger(),
            "SELECT count(*) FROM process WHERE task_id GLOB 'task-*' AND id < (SELECT max(id) FROM process)
               AND id IS NOT (SELECT process FROM leak ORDER BY id DESC LIMIT 1)",
        )
    };
    let start = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_procledger"));
        command.args(args).env("PROCLEDGER_DB", place.ledger());
        command.env("PROCLEDGER_IT_MARKER", place.marker());
        Guard(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the command"))
    };
    let ledger = place.ledger();
    let ledger = ledger.to_str().expect("a path");
    // 90 days by default: these are younger.
    let mut run = start(&["run", "--task", "short", "--limit-size", "1G", "--", "sleep", "2.5"]);
    until("it has ended", || run.0.try_wait().expect("a status").is_some());
    assert_eq!(old(), "999");
    let run = start(&["run", "--task", "long", "--keep-history", "10days", "--", "sleep", "60"]);
    until("they are gone", || old() == "0");
    drop(run);
    fill(&place.ledger(), 1_000, 30);
    let _watch = start(&["watch", "--keep-history", "10days", ledger]);
    until("they are gone again", || old() == "0");
}

#[test]
fn a_ledger_that_is_larger_than_its_limit_loses_its_oldest_history() {
    const LIMIT: u64 = 2 << 20;
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 20_000, 1);
    assert!(files(&place) > 2 * LIMIT, "{}", files(&place));
    let host = Host::start(&place, &format!("interval=50 limit-size={LIMIT}"));
    until("it fits", || files(&place) <= LIMIT);
    let left = sqlite3(
        &place.ledger(),
        "SELECT count(*), max(task_id = 'task-20000'), max(task_id = 'task-1') FROM process",
    );
    let fields: Vec<u32> = left.split('|').map(|field| field.parse().expect("a number")).collect();
    assert!(fields[0] > 1_000, "no more than was needed: {left}");
    assert_eq!(fields[1..], [1, 0], "the oldest first");
    host.stop();
}

/// While a fleet has no rows of the ledger, no history is pruned by age; the size limit is still
/// enforced.
#[test]
fn the_size_limit_prunes_unshipped_history() {
    const LIMIT: u64 = 2 << 20;
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 20_000, 1);
    let ledger = Connection::open(place.ledger()).expect("opens");
    let shipment =
        "INSERT INTO shipment (fleet, mark, process, leak, acked_at, shipped_at, give_up_ms)
         VALUES (lower(hex(randomblob(16))), lower(hex(randomblob(16))), 0, 0,
           (CAST(strftime('%s', 'now') AS INTEGER) - 20 * 86400) * 1000, 0, 30 * 86400000)";
    ledger.execute(shipment, []).expect("written");
    drop(ledger);
    let left = || sqlite3(&place.ledger(), "SELECT count(*) FROM process");
    for words in
        [&["prune", "--older-than", "1h", "--dry-run"][..], &["prune", "--older-than", "1h"]]
    {
        let answer = place.procledger(words);
        let printed = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(printed.contains(" 0 rows"), "{words:?}: {printed}");
    }
    assert_eq!(left(), "20000");
    let host = Host::start(&place, &format!("interval=50 limit-size={LIMIT}"));
    until("it fits", || files(&place) <= LIMIT);
    host.stop();
    assert!(left().parse::<u32>().expect("a number") > 1_000, "no more than was needed");
}

#[test]
fn a_size_limit_that_leaves_no_room_is_refused() {
    let place = Place::new();
    let error = Tracker::builder(place.ledger()).limit_size(4096).open().expect_err("refused");
    assert!(error.is_invalid_input() && error.to_string().contains("1048576"), "{error}");
    assert!(!place.ledger().exists());
}

#[test]
fn a_shutdown_does_not_wait_for_history_to_be_pruned() {
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 100_000, 100);
    let host = Host::start(&place, "interval=50");
    let left = || {
        sqlite3(&place.ledger(), "SELECT count(*) FROM process").parse::<u32>().expect("a number")
    };
    until("it has begun", || left() < 100_000);
    let began = Instant::now();
    host.stop();
    assert!(left() > 0, "it was faster than the test");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(sqlite3(&place.ledger(), "PRAGMA integrity_check"), "ok");
}

#[test]
fn a_prune_shows_its_progress_only_on_a_terminal() {
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    for on_a_terminal in [true, false] {
        fill(&place.ledger(), 30_000, 100);
        let mut command = Command::new(env!("CARGO_BIN_EXE_procledger"));
        command.arg("--db").arg(place.ledger()).args(["prune", "--older-than", "90days"]);
        if !on_a_terminal {
            let answer = command.output().expect("the command");
            assert!(answer.stderr.is_empty(), "{answer:?}");
            continue;
        }
        let pty = Pty::new();
        let mut child = pty.spawn(&mut command);
        // Processes, and a pass for each tenth.
        pty.wait_for("/33000", 1);
        pty.wait_for("rows, the ledger is ", 1);
        assert!(child.0.wait().expect("a child").success());
        // The progress bar is gone: the last line contains the answer.
        let seen = pty.seen();
        let last = seen.trim_end().rsplit(['\r', '\n']).next().unwrap_or_default();
        assert!(last.contains("deleted ") && !last.contains("/33000"), "{seen:?}");
    }
}

/// A prune that is killed loses one step; the rest is complete.
#[test]
fn a_killed_prune_leaves_a_sound_ledger() {
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    fill(&place.ledger(), 50_000, 100);
    let mut prune = Guard(
        Command::new(env!("CARGO_BIN_EXE_procledger"))
            .arg("--db")
            .arg(place.ledger())
            .args(["prune", "--older-than", "90days"])
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the command"),
    );
    let left = || {
        sqlite3(&place.ledger(), "SELECT count(*) FROM process").parse::<u32>().expect("a number")
    };
    until("it has begun", || left() < 50_000);
    prune.0.kill().expect("killed");
    prune.0.wait().expect("reaped");
    assert!(left() > 0, "it was faster than the test");
    assert_eq!(sqlite3(&place.ledger(), "PRAGMA integrity_check; PRAGMA foreign_key_check"), "ok");
    let answer = place.procledger(&["prune", "--older-than", "90days"]);
    assert!(String::from_utf8_lossy(&answer.stdout).contains("smaller"), "{answer:?}");
    assert_eq!(left(), 1, "the last one stays, for the sake of its number");
}

/// By the command and by the monitor, with leaks and without: the number of a row is never reused.
#[test]
fn a_pruned_row_number_was_reused_for_the_next_task() {
    let place = Place::new();
    let numbers = |table: &str| -> (i64, i64) {
        let seen = sqlite3(&place.ledger(), &format!("SELECT count(*), max(id) FROM {table}"));
        let (rows, last) = seen.split_once('|').expect("two");
        (rows.parse().expect("a number"), last.parse().unwrap_or(0))
    };
    let tables = ["process", "leak", "pass", "instance"];
    let task = |name: &str, script: &str| {
        let answer = place.procledger(&["run", "--task", name, "--", "sh", "-c", script]);
        assert!(answer.status.success(), "{answer:?}");
    };
    let mut before = [0; 4];
    for round in 1..=3 {
        for number in 1..=3 {
            task(&format!("task-{number}"), "true");
            task("leaks", "sleep 1000 & true");
        }
        let made = tables.map(|table| numbers(table).1);
        // Three tasks, three that leak one process each.
        assert!(made[0] >= before[0] + 9 && made[1] >= before[1] + 3, "round {round}: {made:?}");
        for _ in 0..2 {
            let answer = place.procledger(&["prune", "--older-than", "0s"]);
            assert!(answer.status.success(), "{answer:?}");
        }
        let left = tables.map(numbers);
        for (table, (made, left)) in tables.iter().zip(made.iter().zip(left)) {
            assert!(left.1 >= *made && left.0 <= 4, "{table}, round {round}: {left:?} of {made}");
        }
        before = left.map(|(_, last)| last);
        // The remaining rows are shown unchanged.
        let json = |args: &[&str]| -> Vec<serde_json::Value> {
            serde_json::from_slice(&place.procledger(args).stdout).expect("JSON")
        };
        let shown = json(&["ps", "--all", "--json"]);
        assert_eq!(
            shown.len().to_string(),
            sqlite3(&place.ledger(), "SELECT count(*) FROM process")
        );
        assert_eq!(json(&["report", "--format", "json"]).len(), 1);
        assert_eq!(sqlite3(&place.ledger(), "PRAGMA foreign_key_check"), "");
    }
    // The same by a host that treats all history as too old and every ledger as too large.
    let mut host = Host::start(&place, "interval=50 keep-history=1 limit-size=1048576");
    host.spawn("of-a-host", "exec sleep 3600");
    host.ask("health");
    let row = "SELECT id FROM process WHERE task_id = 'of-a-host'";
    let id: i64 = sqlite3(&place.ledger(), row).parse().expect("a number");
    assert!(id > before[0], "{id} after {before:?}");
    until("the tasks before it are pruned", || {
        sqlite3(&place.ledger(), "SELECT count(*) FROM process WHERE task_id GLOB 'task-*'") == "0"
    });
    host.stop();
    task("last", "true");
    let last: i64 = sqlite3(&place.ledger(), "SELECT id FROM process WHERE task_id = 'last'")
        .parse()
        .expect("a number");
    assert!(last > id, "{last} after {id}");
    assert!(place.alive().is_empty());
}
