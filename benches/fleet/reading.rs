//! How long each report takes over the history of 1,000 hosts.
//!
//! The rows are written by the server itself, hour after hour of 30 days; the sums are made by the
//! statements of the shipper. No two leaks share a task: nothing makes the sums by task larger.

use std::{
    process::{Command, Stdio as Standard},
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Days, NaiveDate, Utc};
use postgres::{Client, NoTls};
use procledger::fleet::{Init, maintain};

use super::{Scores, address, median, server::Server};

const HOSTS: i32 = 1_000;
const DAYS: u32 = 30;
/// Rows of `ended` for one of `leak`, unless `--leaks` says otherwise: no report reads `ended`.
const ENDED_PER_LEAK: u64 = 20;
/// Processes that run, however much history there is.
const LIVE: u64 = 100_000;
/// Connections that write.
const WRITERS: u32 = 2;
const RUNS: usize = 3;

/// How much history there is.
pub(crate) struct Size {
    ended: u64,
    leaks: u64,
    live: u64,
}

impl Size {
    /// The size that the arguments of this program name: by default a sample.
    pub(crate) fn of_arguments() -> Self {
        let of = |option: &str| {
            let rows = std::env::args().skip_while(|argument| argument != option).nth(1);
            rows.map(|rows| rows.parse().expect("a number of rows"))
        };
        let ended = of("--rows").unwrap_or(5_000_000);
        Self { ended, leaks: of("--leaks").unwrap_or(ended / ENDED_PER_LEAK), live: LIVE }
    }
}

pub(crate) fn measure(scores: &mut Scores, size: &Size) -> Option<()> {
    let server = Server::start(&["fsync=off", "max_wal_size=8GB"])?;
    Init::default().run(&address(&server)).expect("a schema");
    let began = Instant::now();
    fill(&server, size);
    // Keys are as full as they are for most of the time.
    maintain(&address(&server)).expect("maintained");
    println!(
        "{} ended rows, {} leaks, {} live, {HOSTS} hosts, {DAYS} days: written in {:.0} s, {}",
        size.ended,
        size.leaks,
        size.live,
        began.elapsed().as_secs_f64(),
        disk(&server)
    );
    for (words, limit) in [
        ("report --by day", 1_000.0),
        ("report --by host", 1_000.0),
        ("report --by rule", 1_000.0),
        ("report --by task", 1_000.0),
        ("report --by program", 1_000.0),
        ("report --by hour", 1_000.0),
        ("report --by hour --since 170h", 1_000.0),
        ("report --by task --since 170h", 1_000.0),
        ("report", 1_000.0),
        ("report --format html", 1_000.0),
        ("leaks", 1_000.0),
        ("ps", 300.0),
        ("ps --json", 300.0),
        ("hosts", 100.0),
        ("check --max-survivors 1000000 --max-leaks 100/1h", 100.0),
        ("metrics", 1_000.0),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let took = (0..RUNS).map(|_| run(&server, &words)).collect();
        let what = format!("fleet {}, ms", words.join(" "));
        scores.at_most(&what, median(took).as_secs_f64() * 1e3, limit);
    }
    Some(())
}

/// The time of a subcommand of `fleet`, as a person runs it.
fn run(server: &Server, words: &[&str]) -> Duration {
    let mut command = Command::new(env!("CARGO_BIN_EXE_procledger"));
    command.arg("fleet").args(words).env("PROCLEDGER_FLEET", server.url());
    command.stdin(Standard::null()).stdout(Standard::null()).stderr(Standard::null());
    let began = Instant::now();
    let status = command.status().expect("it runs");
    let took = began.elapsed();
    // `check` warns of the leaks.
    assert!(status.code().is_some_and(|code| code < 2), "{words:?}: {status}");
    took
}

fn connect(server: &Server) -> Client {
    let mut client = Client::connect(&server.url(), NoTls).expect("connects");
    client.batch_execute("SET timezone = 'UTC'").expect("set");
    client
}

fn fill(server: &Server, size: &Size) {
    let mut client = connect(server);
    client.batch_execute(include_str!("hosts.sql")).expect("hosts");
    let sql = include_str!("live.sql").replace("{rows}", &size.live.to_string());
    client.batch_execute(&sql).expect("live rows");
    let today = DateTime::<Utc>::from(std::time::SystemTime::now()).date_naive();
    let first = today - Days::new(u64::from(DAYS));
    // Hour after hour, as the hosts would have shipped them.
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut client = connect(server);
                for hour in (writer..DAYS * 24).step_by(WRITERS as usize) {
                    client.batch_execute(&rows_of_an_hour(size, first, hour)).expect("rows");
                }
            });
        }
    });
    client.batch_execute("ANALYZE").expect("analyzed");
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || sums(&mut connect(server), writer, first));
        }
    });
    client.batch_execute("ANALYZE; UPDATE fleet.stream SET seen_at = now()").expect("analyzed");
}

fn rows_of_an_hour(size: &Size, first: NaiveDate, hour: u32) -> String {
    let bounds = |rows: u64| {
        let of = |hour: u32| rows * u64::from(hour) / u64::from(DAYS * 24);
        (of(hour), of(hour + 1))
    };
    let of = |sql: &str, (from, to): (u64, u64)| {
        [
            ("{from}", from.to_string()),
            ("{to}", to.to_string()),
            ("{count}", (to - from).max(1).to_string()),
            ("{first}", first.to_string()),
            ("{hour}", hour.to_string()),
        ]
        .iter()
        .fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, value))
    };
    of(include_str!("ended.sql"), bounds(size.ended))
        + &of(include_str!("leak.sql"), bounds(size.leaks))
}

/// Makes the sums of some of the hosts.
fn sums(client: &mut Client, writer: u32, first: NaiveDate) {
    let days: Vec<NaiveDate> = (0..DAYS).map(|day| first + Days::new(u64::from(day))).collect();
    let midnight = |day: NaiveDate| day.and_hms_opt(0, 0, 0).expect("a time").and_utc();
    let (from, to) = (midnight(first), midnight(first + Days::new(u64::from(DAYS))));
    let hours: Vec<DateTime<Utc>> =
        (0..DAYS * 24).map(|hour| from + Duration::from_hours(hour.into())).collect();
    let statements = [
        include_str!("../../src/fleet/statements/leak_hour.sql"),
        include_str!("../../src/fleet/statements/leak_day.sql"),
        include_str!("../../src/fleet/statements/leak_top.sql"),
    ];
    let [by_hour, by_day, by_top] = statements.map(|sql| client.prepare(sql).expect("valid"));
    for stream in (1..=HOSTS).filter(|stream| stream.unsigned_abs() % WRITERS == writer) {
        client.execute(&by_hour, &[&stream, &hours, &from, &to]).expect("sums");
        for statement in [&by_day, &by_top] {
            client.execute(statement, &[&stream, &days, &from, &to]).expect("sums");
        }
    }
}

/// What the tables take on the disk.
fn disk(server: &Server) -> String {
    let sql = "SELECT CAST(sum(CASE WHEN relname LIKE 'ended%' THEN pg_table_size(oid) ELSE 0 END) AS bigint),
        CAST(sum(CASE WHEN relname LIKE 'ended%' THEN pg_indexes_size(oid) ELSE 0 END) AS bigint),
        CAST(sum(CASE WHEN relname = 'leak' THEN pg_table_size(oid) ELSE 0 END) AS bigint),
        CAST(sum(CASE WHEN relname = 'leak' THEN pg_indexes_size(oid) ELSE 0 END) AS bigint)
      FROM pg_class WHERE relnamespace = CAST('fleet' AS regnamespace) AND relkind = 'r'";
    let row = connect(server).query_one(sql, &[]).expect("sizes");
    let mib = |column| row.get::<_, i64>(column) >> 20;
    format!("MiB: ended {} + keys {}, leak {} + keys {}", mib(0), mib(1), mib(2), mib(3))
}
