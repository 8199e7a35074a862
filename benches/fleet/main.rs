//! Measures what shipping a ledger to a fleet's database costs, beside bare COPY into a table of
//! the same rows, in one run.
//!
//! `cargo bench --bench fleet [-- --strict]`. It needs the programs of a PostgreSQL server, which
//! it starts in a temporary folder with its own defaults: `fsync` is on. With `--strict` it exits
//! with 1 if a limit is missed.
//!
//! `-- --reading` measures the reports instead, over 5 million ended rows, or over as many as
//! `--rows N` says, with a leak for every 20 of them, or as many as `--leaks N` says. `-- --beside`
//! measures only what a shipper costs the host beside it.
#![expect(clippy::disallowed_methods, reason = "it measures the command as a person runs it")]

mod beside;
mod reading;
mod server;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use postgres::{Client, NoTls};
use procledger::{
    Tracker,
    fleet::{Address, Init, ShipOptions, Shipper, Stream},
};
use rusqlite::Connection;

use server::Server;

/// Ledgers that catch up at the same time, and the processes that each ships.
const LEDGERS: usize = 3;
const ROWS: usize = 40_000;
/// Shippers that hold a connection and ship one row at a time.
const HOSTS: usize = 4;
const TURNS: usize = 100;
/// Processes that run in a ledger whose batch is read.
const LIVE: usize = 10_000;

fn main() -> ExitCode {
    let has = |option: &str| std::env::args().any(|argument| argument == option);
    let mut scores = Scores::default();
    let measured = if has("--reading") {
        reading::measure(&mut scores, &reading::Size::of_arguments())
    } else if has("--beside") {
        beside(&mut scores)
    } else {
        writing(&mut scores)
    };
    if measured.is_none() {
        println!("skipped: no PostgreSQL");
    }
    if has("--strict") && scores.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Measures what shipping costs; `None` if PostgreSQL is not installed.
fn writing(scores: &mut Scores) -> Option<()> {
    let server = Server::start(&[])?;
    let folder = tempfile::tempdir().expect("a folder");
    Init::default().run(&address(&server)).expect("a schema");
    let bare = copy(&server);
    println!("{:<44} {bare:>10.0} rows/s", "bare COPY, batches of 2,000, a commit each");
    let whole = whole_batches(&server, folder.path());
    scores.at_least("whole batches, of bare COPY", whole / bare, 0.25);
    scores.at_least("whole batches, rows/s (a day of 1,000 hosts)", whole, 11_000.0);
    scores.at_least("batches of one row/s", single_rows(&server, folder.path()), 150.0);
    let read = read_live(folder.path());
    scores.at_most("a batch beside 10,000 live rows, ms", read.as_secs_f64() * 1e3, 50.0);
    compare(scores, &server, &folder.path().join("whole-0.db"));
    Some(())
}

/// Measures what a shipper costs the host beside it; `None` if PostgreSQL is not installed.
fn beside(scores: &mut Scores) -> Option<()> {
    let server = Server::start(&[])?;
    let folder = tempfile::tempdir().expect("a folder");
    Init::default().run(&address(&server)).expect("a schema");
    let path = folder.path().join("whole.db");
    fill(&ledger(&path), ROWS, false);
    compare(scores, &server, &path);
    Some(())
}

fn compare(scores: &mut Scores, server: &Server, ledger: &Path) {
    let beside = beside::measure(server, ledger);
    scores.at_most("resident memory of a worker, MiB", beside.resident, 20.0);
    scores.at_most("spawn beside an idle shipper, of without", beside.idle, 1.05);
    scores.at_most("spawn beside one that hangs, of without", beside.hanging, 1.05);
    scores.at_most("spawn beside one that ships, of without", beside.shipping, 1.05);
}

/// Prints each line and records whether a limit was missed.
#[derive(Default)]
struct Scores {
    missed: bool,
}

impl Scores {
    fn at_least(&mut self, what: &str, found: f64, limit: f64) {
        self.judge(what, found, ">=", limit, found >= limit);
    }

    fn at_most(&mut self, what: &str, found: f64, limit: f64) {
        self.judge(what, found, "<=", limit, found <= limit);
    }

    fn judge(&mut self, what: &str, found: f64, relation: &str, limit: f64, met: bool) {
        self.missed |= !met;
        println!(
            "{what:<44} {found:>10.2} {relation} {limit:<9} {}",
            if met { "met" } else { "MISSED" }
        );
    }
}

fn address(server: &Server) -> Address {
    Address::parse(&server.url()).expect("valid")
}

fn shipper(server: &Server, ledger: &Path) -> Shipper {
    Shipper::open(ledger, None, address(server), ShipOptions::new("bench")).expect("opens")
}

/// Makes a ledger with this many processes.
fn ledger(path: &Path) -> Connection {
    Tracker::builder(path).monitor(false).open().expect("a ledger").shutdown().expect("closed");
    let connection = Connection::open(path).expect("opens");
    connection.busy_timeout(Duration::from_secs(30)).expect("set");
    connection
}

fn fill(connection: &Connection, rows: usize, is_live: bool) {
    let end =
        if is_live { "'running', NULL, NULL" } else { "'ended', 1795800000000 + i + 5, 'exited'" };
    let sql = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO process (task_id, owner, first_owner, origin, token, pid, start_tick, containment, command, uid, state,
           ended_at, end_reason, started_at, grace_ms)
         SELECT 'task-' || i, 1, 1, 'spawned', lower(hex(randomblob(16))), 1000 + i, i, 'cgroup',
           '[\"/usr/bin/worker\",\"--batch\",\"' || i || '\"]', 0, {end}, 1795800000000 + i, 5000 FROM n"
    );
    connection.execute_batch(&sql).expect("rows");
}

/// Rows per second that COPY writes, in a transaction for each 2,000.
fn copy(server: &Server) -> f64 {
    let mut client = Client::connect(&server.url(), NoTls).expect("connects");
    client.batch_execute("CREATE TABLE bare (LIKE fleet.ended INCLUDING ALL)").expect("a table");
    let began = Instant::now();
    for batch in 0..ROWS / 2_000 {
        let mut transaction = client.transaction().expect("begun");
        let columns = "stream, id, print, task_id, pid, origin, containment, owner, uid, program, command, started_at, ended_at, end_reason";
        let sql = format!("COPY bare ({columns}) FROM STDIN");
        let mut writer = transaction.copy_in(&sql).expect("begun");
        for row in 0..2_000 {
            let id = batch * 2_000 + row;
            let line = format!(
                "1\t{id}\t7\ttask-{id}\t{row}\tspawned\tcgroup\tapi\t0\tworker\t[\"/usr/bin/worker\",\"--batch\",\"{id}\"]\t2026-11-27 12:00:00+00\t2026-11-27 12:00:01+00\texited\n"
            );
            writer.write_all(line.as_bytes()).expect("written");
        }
        writer.finish().expect("finished");
        transaction.commit().expect("committed");
    }
    rate(ROWS, began)
}

fn rate(count: usize, began: Instant) -> f64 {
    f64::from(u32::try_from(count).expect("small")) / began.elapsed().as_secs_f64()
}

/// Rows per second of several hosts that catch up. Each pauses for half of the time of its last
/// batch.
fn whole_batches(server: &Server, folder: &Path) -> f64 {
    let paths: Vec<PathBuf> = (0..LEDGERS).map(|n| folder.join(format!("whole-{n}.db"))).collect();
    for path in &paths {
        fill(&ledger(path), ROWS, false);
    }
    let began = Instant::now();
    thread::scope(|scope| {
        for path in &paths {
            scope.spawn(|| {
                let mut shipper = shipper(server, path);
                while shipper.ship().expect("shipped").has_more {}
            });
        }
    });
    let rate = rate(LEDGERS * ROWS, began);
    let mut client = Client::connect(&server.url(), NoTls).expect("connects");
    let found: i64 =
        client.query_one("SELECT count(*) FROM fleet.ended", &[]).expect("read").get(0);
    assert_eq!(usize::try_from(found).expect("small"), LEDGERS * ROWS);
    rate
}

/// Batches per second of several hosts that hold their connections and add one process each time.
fn single_rows(server: &Server, folder: &Path) -> f64 {
    let hosts: Vec<_> = (0..HOSTS)
        .map(|n| {
            let path = folder.join(format!("single-{n}.db"));
            let ledger = ledger(&path);
            let mut shipper = shipper(server, &path);
            shipper.ship().expect("shipped");
            (ledger, shipper)
        })
        .collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for (ledger, mut shipper) in hosts {
            scope.spawn(move || {
                for _ in 0..TURNS {
                    fill(&ledger, 1, false);
                    assert_eq!(shipper.ship().expect("shipped").rows, 1);
                }
            });
        }
    });
    rate(HOSTS * TURNS, began)
}

/// Measures how long it takes to check a ledger with many live processes of which none has changed.
fn read_live(folder: &Path) -> Duration {
    let path = folder.join("live.db");
    fill(&ledger(&path), LIVE, true);
    let stream = Stream::open(&path).expect("opens");
    let mut position = stream.start().clone();
    loop {
        let batch = stream.next(&position).expect("read");
        position = position.after(&batch);
        if !batch.more {
            break;
        }
    }
    let took = (0..15).map(|_| {
        let began = Instant::now();
        assert!(stream.next(&position).expect("read").is_empty());
        began.elapsed()
    });
    median(took.collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
