//! Work on a ledger, and the comparison of a fleet with its ledgers.

use std::{collections::BTreeMap, path::Path, process::Output, time::Duration};

use rusqlite::Connection;

use super::{fleet, printed, server::Database};
use crate::support::procledger;

/// A ledger that is changed without processes: rows as a tracker writes them.
pub(super) struct Ledger {
    connection: Connection,
    instance: i64,
}

impl Ledger {
    /// Creates the ledger by the command, and opens it.
    pub(super) fn create(path: &Path) -> Self {
        procledger(path, &["run", "--task", "first", "--", "true"]);
        Self::open(path)
    }

    pub(super) fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("opens");
        connection.busy_timeout(Duration::from_secs(30)).expect("set");
        let sql = "INSERT INTO instance (program, version, boot_id, pid_namespace, boottime_offset, pid, start_tick, uid, lock_name,
             ledger_device, ledger_inode, started_at)
           VALUES ('api', '0', lower(hex(randomblob(16))), 1, 0, 1, 1, 0, 'x', 1, 1, 1)";
        connection.execute(sql, []).expect("an instance");
        let instance = connection.last_insert_rowid();
        Self { connection, instance }
    }

    pub(super) fn sql(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Adds processes that run.
    pub(super) fn start(&self, count: u32) {
        self.sql(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO process (task_id, owner, first_owner, origin, token, pid, start_tick, containment, command, uid, state,
               started_at, grace_ms)
             SELECT 'task-' || i, {0}, {0}, 'spawned', lower(hex(randomblob(16))), 1 + abs(random() % 4000000), i, 'session',
               '[\"/usr/bin/worker\",\"' || i || '\"]', 0, 'running', CAST(strftime('%s', 'now') AS INTEGER) * 1000 + i, 100
             FROM n",
            self.instance
        ));
    }

    /// Ends the oldest that run.
    pub(super) fn end(&self, count: u32) {
        self.sql(&format!(
            "UPDATE process SET state = 'ended', claimed_by = NULL, end_reason = 'exited', exit_code = id % 3,
               ended_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000
             WHERE id IN (SELECT id FROM process WHERE state <> 'ended' ORDER BY id LIMIT {count})"
        ));
    }

    /// Records leaks of the newest processes, half of which survive.
    pub(super) fn leak(&self, count: u32) {
        self.sql(&format!(
            "INSERT INTO leak (process, kind, rule, evidence, found_at, age_ms, rss_bytes, outcome, stop_signal)
             SELECT id, 'stray', 'its root had ended', 'session', CAST(strftime('%s', 'now') AS INTEGER) * 1000 + id, 5, id * 10,
               CASE WHEN id % 2 THEN 'term' ELSE 'survived' END, CASE WHEN id % 4 = 1 THEN id % 31 + 1 END
             FROM process ORDER BY id DESC LIMIT {count}"
        ));
    }

    /// Gives survivors their last outcome.
    pub(super) fn settle(&self, count: u32) {
        self.sql(&format!(
            "UPDATE leak SET outcome = 'term', died_after_ms = 7, stop_signal = 2
             WHERE id IN (SELECT id FROM leak WHERE outcome = 'survived' ORDER BY id LIMIT {count})"
        ));
    }

    pub(super) fn observe(&self) {
        self.sql("UPDATE process SET cpu_ms = coalesce(cpu_ms, 0) + 1000 WHERE state <> 'ended' AND id % 2");
    }

    pub(super) fn passes(&self, count: u32) {
        self.sql(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO pass (instance, kind, started_at, duration_us, checked, found, ended, survived, unknown)
             SELECT {}, 'health', CAST(strftime('%s', 'now') AS INTEGER) * 1000 - i * 3600000, 1, 1, 0, 0, 0, 0 FROM n",
            self.instance
        ));
    }

    /// A bit of everything.
    pub(super) fn work(&self) {
        self.start(5);
        self.leak(3);
        self.end(3);
        self.observe();
        self.settle(1);
        self.passes(2);
    }
}

pub(super) fn init(database: &Database) {
    printed(fleet(&["init", "--to", &database.url(), "--keep", "7days"]));
}

/// Ships a ledger once.
pub(super) fn try_ship(database: &Database, ledger: &Path) -> Output {
    let url = database.url();
    let words = ["ship", "--to", &url, "--once", "--interval", "100ms"];
    procledger(ledger, &words)
}

#[track_caller]
pub(super) fn ship(database: &Database, ledger: &Path) {
    let shipped = try_ship(database, ledger);
    let error = String::from_utf8_lossy(&shipped.stderr);
    assert!(shipped.status.success(), "{error}");
}

/// The rows of a query on the ledger, as the fleet shows them.
fn rows_of(ledger: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(ledger).expect("opens");
    connection.busy_timeout(Duration::from_secs(30)).expect("set");
    let mut statement = connection.prepare(sql).expect("valid");
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("rows")
}

const PROCESS: &str =
    "id || '|' || pid || '|' || coalesce(task_id, '') || '|' || command || '|' ||";
const OF_STREAM: &str = "WHERE stream = (SELECT stream FROM fleet.stream WHERE ledger = ";

/// Compares all that a ledger has with what the fleet has of it. The fleet has history that the
/// ledger lost or pruned as well.
#[track_caller]
pub(super) fn fleet_equals_ledger(database: &Database, ledger: &Path) {
    let uuid = rows_of(ledger, "SELECT uuid FROM ledger").remove(0);
    let of_stream = format!("{OF_STREAM}'{uuid}')");
    let rows = |sql: &str| -> Vec<String> {
        let text = database.rows(&format!("{sql} {of_stream} ORDER BY id"));
        text.lines().map(str::to_owned).collect()
    };
    let millis =
        |column: &str| format!("CAST(round(extract(epoch FROM {column}) * 1000) AS bigint)");
    let floor = "(SELECT process_floor FROM ledger)";

    let sql = format!(
        "SELECT {PROCESS} state || '|' || started_at FROM process WHERE state <> 'ended' AND id > {floor} ORDER BY id"
    );
    let sql_fleet =
        format!("SELECT {PROCESS} state || '|' || {} FROM fleet.live", millis("started_at"));
    assert_eq!(rows(&sql_fleet), rows_of(ledger, &sql), "what runs");

    // What has ended on two time lines of a ledger that was restored has its first end in the
    // fleet.
    let restarts = format!("SELECT restarts FROM fleet.stream WHERE ledger = '{uuid}'");
    let is_exact = database.rows(&restarts) == "0";
    let end = |at: &str| if is_exact { format!("end_reason || '|' || {at}") } else { "''".into() };
    let sql = format!(
        "SELECT {PROCESS} started_at || '|' || {} FROM process WHERE state = 'ended' AND id > {floor} ORDER BY id",
        end("ended_at")
    );
    let (started, ended) = (millis("started_at"), end(&millis("ended_at")));
    let sql_fleet = format!("SELECT {PROCESS} {started} || '|' || {ended} FROM fleet.ended");
    each_once("what has ended", &rows(&sql_fleet), &rows_of(ledger, &sql));

    let outcome = if is_exact { "outcome || '|' || coalesce(stop_signal, 0)" } else { "''" };
    let leak = format!("id || '|' || process || '|' || {outcome} || '|' ||");
    let sql = format!(
        "SELECT {leak} found_at FROM leak WHERE id > (SELECT leak_floor FROM ledger) ORDER BY id"
    );
    let sql_fleet = format!("SELECT {leak} {} FROM fleet.leak", millis("found_at"));
    each_once("leaks", &rows(&sql_fleet), &rows_of(ledger, &sql));

    let sums = "SELECT day, kind, rule_key, outcome, leaks, age_ms, rss_bytes, last_found_at FROM fleet.leak_day";
    let anew = "SELECT CAST(found_at AT TIME ZONE 'UTC' AS date), kind, rule_key, outcome, count(*), sum(age_ms), sum(rss_bytes),
                  max(found_at) FROM fleet.leak";
    let order = "ORDER BY 1, 2, 3, 4";
    assert_eq!(
        database.rows(&format!("{sums} {of_stream} {order}")),
        database.rows(&format!("{anew} {of_stream} GROUP BY 1, 2, 3, 4 {order}")),
        "sums of leaks"
    );
    let sums = "SELECT hour, leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes, last_found_at FROM fleet.leak_hour";
    let anew = "SELECT date_trunc('hour', found_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', count(*), sum((kind = 'orphan')::int),
                  sum((kind = 'stray')::int), sum((kind = 'unregistered')::int), sum((outcome = 'survived')::int), sum(age_ms),
                  sum(rss_bytes), max(found_at) FROM fleet.leak";
    assert_eq!(
        database.rows(&format!("{sums} {of_stream} ORDER BY 1")),
        database.rows(&format!("{anew} {of_stream} GROUP BY 1 ORDER BY 1")),
        "sums by hour"
    );
    let tops = format!(
        "SELECT coalesce(sum(leaks), 0) FROM fleet.leak_top {of_stream} AND dimension = 'task'"
    );
    let leaks = format!("SELECT count(*) FROM fleet.leak {of_stream}");
    assert_eq!(database.rows(&tops), database.rows(&leaks), "sums by task");
    let passes = rows_of(
        ledger,
        "SELECT date(started_at / 1000, 'unixepoch') || '|' || kind || '|' || count(*) FROM pass
         GROUP BY date(started_at / 1000, 'unixepoch'), kind ORDER BY 1",
    );
    let sql = format!(
        "SELECT to_char(day, 'YYYY-MM-DD') || '|' || kind || '|' || passes FROM fleet.pass_day {of_stream} ORDER BY 1"
    );
    let shipped: Vec<String> = database.rows(&sql).lines().map(str::to_owned).collect();
    for day in &passes {
        let of_day = |row: &&String| {
            row.rsplit_once('|').map(|it| it.0) == day.rsplit_once('|').map(|it| it.0)
        };
        let count =
            |row: &String| row.rsplit('|').next().and_then(|count| count.parse::<u64>().ok());
        let found = shipped.iter().find(of_day).unwrap_or_else(|| panic!("{day} in {shipped:?}"));
        assert!(count(found) >= count(day), "{found} for {day}");
    }
}

#[track_caller]
fn each_once(what: &str, fleet: &[String], ledger: &[String]) {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for row in fleet {
        *counts.entry(row).or_default() += 1;
    }
    for (row, count) in &counts {
        assert_eq!(*count, 1, "{what}: {row} is in the fleet twice");
    }
    for row in ledger {
        assert!(counts.contains_key(row.as_str()), "{what}: {row} is not in the fleet: {fleet:#?}");
    }
}
