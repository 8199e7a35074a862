//! What a shipper costs the host beside it.
//!
//! Measures pairs of blocks of spawns, one without a shipper and one beside it, in alternating
//! order. Both blocks of a pair begin in the same way: whatever has just ended has settled, and
//! some spawns that do not count have brought the caches and the clock of the CPU to where spawns
//! bring them. Each pair has a ratio of its own, so that a machine which is slower for a while
//! slows both.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio as Standard},
    thread,
    time::{Duration, Instant},
};

use postgres::{Client, NoTls};
use procledger::{Job, Stdio, Tracker};
use rustix::process::{Pid, Signal, kill_process};

use super::{median, server::Server};

const PAIRS: usize = 20;
const SPAWNS: usize = 25;
/// Spawns before a block, which are not measured.
const WARM_UP: usize = 8;
/// Pause after which earlier processes have ended and the database has finished writing.
const SETTLED: Duration = Duration::from_millis(150);

/// The time of a spawn beside a shipper, of that without one, and the memory that it takes.
pub(crate) struct Beside {
    pub(crate) resident: f64,
    /// The shipper has shipped everything, and checks the ledger every second.
    pub(crate) idle: f64,
    /// The database does not answer.
    pub(crate) hanging: f64,
    /// The shipper ships the whole ledger, batch after batch, all the time. The database is on the
    /// same two cores.
    pub(crate) shipping: f64,
}

pub(crate) fn measure(server: &Server, ledger: &Path) -> Beside {
    let tracker = Tracker::builder(ledger).monitor(false).open().expect("a ledger");
    let block = || {
        thread::sleep(SETTLED);
        for _ in 0..WARM_UP {
            spawn(&tracker);
        }
        median((0..SPAWNS).map(|_| spawn(&tracker)).collect())
    };
    // A transaction sees the activity as of its beginning, so another connection holds the lock.
    let [mut client, mut other] =
        [(), ()].map(|()| Client::connect(&server.url(), NoTls).expect("connects"));
    let uuid: String = of(ledger, "SELECT uuid FROM ledger");
    let sql = format!("SELECT coalesce(max(process), 0) FROM fleet.stream WHERE ledger = '{uuid}'");
    let shipped = |client: &mut Client| count(client, &sql);
    let last = || of::<i64>(ledger, "SELECT max(id) FROM process");

    let idle = ratio(block, || {
        let service = Service::start(server, ledger);
        until(|| shipped(&mut client) == last());
        let took = block();
        drop(service);
        took
    });
    let hanging = ratio(block, || {
        let mut lock = other.transaction().expect("begun");
        lock.batch_execute("LOCK TABLE fleet.ended").expect("locked");
        let service = Service::start(server, ledger);
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until(|| count(&mut client, waiting) > 0);
        let took = block();
        drop(service);
        lock.rollback().expect("unlocked");
        took
    });
    let mut resident = 0.0;
    let shipping = ratio(block, || {
        // As after a restore: it ships the ledger again from the start.
        let restored = "UPDATE fleet.stream SET mark = gen_random_uuid(), previous_mark = NULL";
        client.batch_execute(&format!("{restored} WHERE ledger = '{uuid}'")).expect("set");
        let service = Service::start(server, ledger);
        until(|| shipped(&mut client) < last() / 2);
        let took = block();
        assert!(shipped(&mut client) + 1000 < last(), "it has shipped all the time");
        resident = f64::max(resident, service.peak_mib());
        took
    });
    tracker.shutdown().expect("closed");
    Beside { resident, idle, hanging, shipping }
}

/// Returns the ratio of the time of a block beside a shipper to that of one without, as the median
/// of all pairs.
fn ratio(mut without: impl FnMut() -> Duration, mut beside: impl FnMut() -> Duration) -> f64 {
    without();
    let mut pair = |number: usize| {
        let (without, beside) = if number.is_multiple_of(2) {
            let first = without();
            (first, beside())
        } else {
            let first = beside();
            (without(), first)
        };
        beside.as_secs_f64() / without.as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..PAIRS).map(&mut pair).collect();
    ratios.sort_by(f64::total_cmp);
    f64::midpoint(ratios[PAIRS / 2 - 1], ratios[PAIRS / 2])
}

fn spawn(tracker: &Tracker) -> Duration {
    let job = Job::new(uuid::Uuid::new_v4().to_string(), "/bin/true");
    let job = job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut process = tracker.spawn(job).expect("it runs");
    let took = began.elapsed();
    process.wait().expect("it ends");
    took
}

/// `ship` as a service, which ends with this value.
struct Service(Child);

impl Service {
    fn start(server: &Server, ledger: &Path) -> Self {
        let mut ship = Command::new(env!("CARGO_BIN_EXE_procledger"));
        ship.args(["ship", "--interval", "1s", "--to", &server.url()]).arg(ledger);
        ship.stdin(Standard::null()).stdout(Standard::null()).stderr(Standard::null());
        Self(ship.spawn().expect("it starts"))
    }

    /// The largest resident memory of its worker, a child process.
    fn peak_mib(&self) -> f64 {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id()));
        let children = children.expect("it runs");
        let worker = children.split_whitespace().next().expect("a worker");
        let status = fs::read_to_string(format!("/proc/{worker}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // The shipper ends its workers. It is a child that was not waited for, so its pid was
            // not reused.
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn count(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).expect("read").get(0)
}

/// The result of a query on the ledger.
fn of<T: rusqlite::types::FromSql>(ledger: &Path, sql: &str) -> T {
    let connection = rusqlite::Connection::open(ledger).expect("opens");
    connection.query_one(sql, [], |row| row.get(0)).expect("an answer")
}

fn until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_mins(1), "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}
