//! What a shipper costs the host beside it: blocks of spawns by turns without one and beside one.

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

const BLOCKS: usize = 16;
const SPAWNS: usize = 25;

/// The time of a spawn beside a shipper, of that without one, and the memory that it takes.
pub(crate) struct Beside {
    pub(crate) resident: f64,
    /// It has shipped everything, and looks at the ledger every second.
    pub(crate) idle: f64,
    /// The database does not answer.
    pub(crate) hanging: f64,
    /// It ships the whole ledger, batch after batch, all the time. The database is on the same two cores.
    pub(crate) shipping: f64,
}

pub(crate) fn measure(server: &Server, ledger: &Path) -> Beside {
    let tracker = Tracker::builder(ledger).monitor(false).open().expect("a ledger");
    let block = || (0..SPAWNS).map(|_| spawn(&tracker)).collect::<Vec<_>>();
    // A transaction sees the activity of its beginning: the lock is held by another connection.
    let [mut client, mut other] =
        [(), ()].map(|()| Client::connect(&server.url(), NoTls).expect("connects"));
    let uuid: String = of(ledger, "SELECT uuid FROM ledger");
    let sql = format!("SELECT process FROM fleet.stream WHERE ledger = '{uuid}'");
    let shipped = |client: &mut Client| count(client, &sql);
    let last = || of::<i64>(ledger, "SELECT max(id) FROM process");
    let [mut without, mut idle, mut hanging, mut shipping] = [const { Vec::new() }; 4];
    let mut resident = 0.0;
    block();
    for _ in 0..BLOCKS {
        without.extend(block());
        let service = Service::start(server, ledger);
        until(|| shipped(&mut client) == last());
        idle.extend(block());
        service.end();

        without.extend(block());
        let mut lock = other.transaction().expect("begun");
        lock.batch_execute("LOCK TABLE fleet.ended").expect("locked");
        let service = Service::start(server, ledger);
        until(|| {
            count(
                &mut client,
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
            ) > 0
        });
        hanging.extend(block());
        service.end();
        lock.rollback().expect("unlocked");

        without.extend(block());
        // As after a restore: it ships the ledger again from the start.
        let restored = "UPDATE fleet.stream SET mark = gen_random_uuid(), previous_mark = NULL";
        client.batch_execute(&format!("{restored} WHERE ledger = '{uuid}'")).expect("set");
        let service = Service::start(server, ledger);
        until(|| shipped(&mut client) < last() / 2);
        shipping.extend(block());
        assert!(shipped(&mut client) + 1000 < last(), "it has shipped all the time");
        resident = f64::max(resident, service.peak_mib());
        service.end();
    }
    tracker.shutdown().expect("closed");
    let without = median(without).as_secs_f64();
    let [idle, hanging, shipping] =
        [idle, hanging, shipping].map(|times| median(times).as_secs_f64() / without);
    Beside { resident, idle, hanging, shipping }
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

/// `ship` as a service.
struct Service(Child);

impl Service {
    fn start(server: &Server, ledger: &Path) -> Self {
        let mut ship = Command::new(env!("CARGO_BIN_EXE_procledger"));
        ship.args(["ship", "--interval", "1s", "--to", &server.url()]).arg(ledger);
        ship.stdin(Standard::null()).stdout(Standard::null()).stderr(Standard::null());
        Self(ship.spawn().expect("it starts"))
    }

    /// The largest resident memory of its worker, which is a child of it.
    fn peak_mib(&self) -> f64 {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id()));
        let children = children.expect("it runs");
        let worker = children.split_whitespace().next().expect("a worker");
        let status = fs::read_to_string(format!("/proc/{worker}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }

    fn end(mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("signalled");
        self.0.wait().expect("it ends");
    }
}

fn count(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).expect("read").get(0)
}

/// What the ledger answers.
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
