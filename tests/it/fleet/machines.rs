//! Three machines and a database, each with a network of its own: the machines work and crash, they
//! are cut off, shippers and the database are killed, and one ledger is restored from a backup.
//! Afterwards each row of each ledger is in the fleet once, and the fleet's reports agree with an
//! independent count over the ledgers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use rustix::{
    process::{Signal, pidfd_send_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::Value;

use super::{
    comparison::{fleet_equals_ledger, init},
    fleet, printed,
    scene::copy,
    server::{Database, Server},
    tls,
};
use crate::support::{
    Guard, Host, Place, alone, in_namespace_without_network, long, need, pidfd, root, sampled,
    until,
};

const NAME: &str =
    "fleet::machines::each_row_of_machines_in_separate_networks_is_in_the_fleet_once";
const MACHINES: [&str; 3] = ["web-1", "web-2", "db-1"];
/// The one whose ledger is restored.
const RESTORED: usize = 2;
const TASKS: usize = 4;
/// Between two crashes.
const PAUSE: Duration = Duration::from_millis(100);
const SHIPPED: &str = "SELECT count(*) FROM fleet.stream WHERE process > 0";

#[test]
fn each_row_of_machines_in_separate_networks_is_in_the_fleet_once() {
    need!("ip", "mount", "openssl", "unshare");
    let _alone = alone();
    if !root() || !in_namespace_without_network(NAME) {
        return;
    }
    let length = Duration::from_secs(if long() { 600 } else { sampled(8, 15) });
    let place = Place::new();
    networks();
    let Some(server) = in_network("db", || tls::server_at(&place, "*")) else { return };
    let database = server.database();
    init(&database);
    let folder = place.path();
    let machines: Vec<Machine> =
        MACHINES.iter().map(|name| Machine::new(folder, name, &database)).collect();
    let (done, mut cuts) = (AtomicBool::new(false), 0);
    let counts = thread::scope(|scope| {
        let (place, done) = (&place, &done);
        let working: Vec<_> = machines
            .iter()
            .map(|machine| {
                scope.spawn(move || in_network(machine.name, || machine.work(place, done)))
            })
            .collect();
        // A stream that was made just before a cut is begun again, and counts as restored.
        until("all are in the fleet", || database.rows(SHIPPED) == "3");
        let began = Instant::now();
        while began.elapsed() < length {
            disturb(&machines[cuts % machines.len()], cuts / machines.len(), &server);
            cuts += 1;
        }
        done.store(true, Ordering::SeqCst);
        working.into_iter().map(|it| it.join().expect("it works")).collect::<Vec<_>>()
    });
    for machine in &machines {
        machine.catch_up(&mut machine.shipper());
    }
    for machine in &machines {
        fleet_equals_ledger(&database, &machine.ledger);
    }
    the_streams_say_what_happened(&database);
    let leaks = the_report_is_that_of_a_count_by_hand(&database, &machines);
    let [tasks, crashes] = [0, 1].map(|at| counts.iter().map(|it| it[at]).sum::<u32>());
    println!(
        "{} s: {tasks} programs, {crashes} crashes, {cuts} cuts and kills; in the fleet: {} ended rows, {leaks} leaks",
        length.as_secs(),
        database.rows("SELECT count(*) FROM fleet.ended")
    );
    assert!(tasks > 50 && crashes >= 6 && cuts >= 6 && leaks > 10);
}

/// Gives each machine a link to the database.
fn networks() {
    run("mount", "-t tmpfs none /run");
    run("ip", "netns add db");
    run("ip", "-n db link set lo up");
    for (number, name) in MACHINES.iter().enumerate() {
        run("ip", &format!("netns add {name}"));
        run("ip", &format!("link add {name} netns db type veth peer name eth0 netns {name}"));
        run("ip", &format!("-n db addr add 10.77.{number}.1/24 dev {name}"));
        run("ip", &format!("-n db link set {name} up"));
        run("ip", &format!("-n {name} addr add 10.77.{number}.2/24 dev eth0"));
        run("ip", &format!("-n {name} link set lo up"));
        run("ip", &format!("-n {name} link set eth0 up"));
    }
}

#[track_caller]
fn run(program: &str, words: &str) {
    let output = Command::new(program).args(words.split(' ')).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs on a thread whose network is that of a machine: what it starts has it as well.
fn in_network<T: Send>(name: &str, run: impl FnOnce() -> T + Send) -> T {
    let network = File::open(format!("/run/netns/{name}")).expect("a network");
    let inside = || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("moved");
        run()
    };
    thread::scope(|scope| scope.spawn(inside).join().expect("it ends"))
}

/// A machine with a ledger and a login of its own.
struct Machine {
    name: &'static str,
    folder: PathBuf,
    ledger: PathBuf,
    address: String,
    password: String,
    shipper: Mutex<Option<Guard>>,
}

impl Machine {
    fn new(folder: &Path, name: &'static str, database: &Database) -> Self {
        let number = MACHINES.iter().position(|it| *it == name).expect("one of them");
        let text = printed(fleet(&["enroll", name, "--to", &database.url()]));
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).expect("a value");
        let address = format!(
            "postgresql://procledger-{name}@{}/{}?hostaddr=10.77.{number}.1&sslmode=verify-full&sslrootcert={}",
            tls::NAME,
            database.name(),
            folder.join("ours.crt").display()
        );
        let password = value("PGPASSWORD=").to_owned();
        let folder = folder.join(name);
        fs::create_dir(&folder).expect("a folder");
        let ledger = folder.join("ledger.db");
        Self { name, folder, ledger, address, password, shipper: None.into() }
    }

    fn ship(&self, words: &[&str]) -> Command {
        let mut ship = Command::new(env!("CARGO_BIN_EXE_procledger"));
        ship.args(["ship", "--interval", "100ms", "--host", self.name, "--to", &self.address])
            .args(words);
        ship.arg(&self.ledger)
            .env("PGPASSWORD", &self.password)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        ship
    }

    fn shipper(&self) -> MutexGuard<'_, Option<Guard>> {
        self.shipper.lock().expect("no panic")
    }

    fn start(&self, shipper: &mut Option<Guard>) {
        let log = File::options().create(true).append(true).open(self.folder.join("log"));
        let mut ship = self.ship(&[]);
        ship.stderr(log.expect("a file"));
        *shipper = Some(Guard(in_network(self.name, || ship.spawn().expect("it starts"))));
    }

    /// The service and its worker, as the out-of-memory killer would.
    fn kill(shipper: &mut Option<Guard>) {
        let Some(service) = shipper.take() else { return };
        let children = format!("/proc/{0}/task/{0}/children", service.pid());
        let children = fs::read_to_string(children).unwrap_or_default();
        let workers = children.split_whitespace().filter_map(|pid| pidfd(pid.parse().ok()?));
        let workers: Vec<_> = workers.collect();
        drop(service);
        for worker in workers {
            // It may have ended with the service.
            let _ = pidfd_send_signal(&worker, Signal::KILL);
        }
    }

    /// Works until it is stopped: programs that end, and programs that a crash leaves. Returns how
    /// many and how many crashes.
    fn work(&self, place: &Place, done: &AtomicBool) -> [u32; 2] {
        let (mut programs, mut crashes) = (0, 0);
        loop {
            let mut host = Host::start_on(place, &self.ledger, "containment=session");
            if crashes == 0 {
                self.start(&mut self.shipper());
            }
            for task in 0..TASKS {
                // What this leaves is a leak of two processes when the host crashes.
                let long = host.ask(&format!("spawn long-{task} sleep 1000 & exec sleep 1000"));
                assert!(long.starts_with("pid "), "{long}");
                for _ in 0..3 {
                    let short = host.ask("spawn short exit 3");
                    assert!(short.starts_with("pid "), "{short}");
                    host.ask("wait short");
                }
                programs += 4;
            }
            thread::sleep(PAUSE);
            if done.load(Ordering::SeqCst) {
                host.stop();
                return [programs, crashes];
            }
            host.crash();
            crashes += 1;
            match (self.name == MACHINES[RESTORED], crashes) {
                (true, 2) => copy(&self.ledger, &self.folder.join("backup.db")),
                (true, 4) => self.restore(),
                _ => {}
            }
        }
    }

    /// Puts the backup in place of the ledger. Saves what the fleet has of it, for the count.
    fn restore(&self) {
        let mut shipper = self.shipper();
        self.catch_up(&mut shipper);
        copy(&self.ledger, &self.folder.join("lost.db"));
        copy(&self.folder.join("backup.db"), &self.ledger);
        self.start(&mut shipper);
    }

    /// Ships all that there is, in place of the service.
    fn catch_up(&self, shipper: &mut Option<Guard>) {
        Self::kill(shipper);
        until("it is shipped", || {
            let mut ship = self.ship(&["--once"]);
            ship.stderr(Stdio::null());
            in_network(self.name, || ship.status().expect("it runs").success())
        });
    }
}

/// Cuts a machine off, each time in another way.
fn disturb(machine: &Machine, turn: usize, server: &Server) {
    let pause = Duration::from_millis(700);
    // Longer than anything waits for the network: the transaction of a machine that is gone must
    // not hold its stream.
    let silence = if long() && turn == 5 { Duration::from_mins(1) } else { pause };
    let cut = |link: &str| {
        run("ip", &format!("-n {link} down"));
        thread::sleep(silence);
        run("ip", &format!("-n {link} up"));
    };
    match turn % 4 {
        // A connection fails at once.
        0 => cut(&format!("{} link set eth0", machine.name)),
        // What is sent is lost in silence.
        1 => cut(&format!("db link set {}", machine.name)),
        2 => {
            let mut shipper = machine.shipper();
            Machine::kill(&mut shipper);
            machine.start(&mut shipper);
        }
        _ => {
            server.crash();
            server.start_again();
        }
    }
    thread::sleep(pause);
}

/// Only what the restored ledger does not know any more is lost.
fn the_streams_say_what_happened(database: &Database) {
    let streams = database.rows("SELECT host, gap + leak_gap, restarts > 0, lost > 0, lost_leaks FROM fleet.stream ORDER BY host");
    assert_eq!(streams, "db-1|0|t|t|0\nweb-1|0|f|f|0\nweb-2|0|f|f|0");
}

/// A leak as it is in a ledger.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Leak {
    host: &'static str,
    found_at: i64,
    id: i64,
    kind: String,
    task: String,
    rule: String,
    rss: i64,
    survived: bool,
}

fn leaks(host: &'static str, ledger: &Path) -> Vec<Leak> {
    let connection = Connection::open(ledger).expect("opens");
    let sql = "SELECT l.found_at, l.id, l.kind, coalesce(p.task_id, ''), l.rule, coalesce(l.rss_bytes, 0), l.outcome = 'survived'
      FROM leak AS l JOIN process AS p ON p.id = l.process";
    let mut statement = connection.prepare(sql).expect("valid");
    let leaks = statement.query_map([], |row| {
        Ok(Leak {
            host,
            found_at: row.get(0)?,
            id: row.get(1)?,
            kind: row.get(2)?,
            task: row.get(3)?,
            rule: row.get(4)?,
            rss: row.get(5)?,
            survived: row.get(6)?,
        })
    });
    leaks.expect("rows").collect::<rusqlite::Result<_>>().expect("rows")
}

type Key = fn(&Leak) -> String;

/// Compares each report with the leaks of all ledgers, those of the time line that the backup has
/// ended included.
fn the_report_is_that_of_a_count_by_hand(database: &Database, machines: &[Machine]) -> usize {
    let mut all: BTreeSet<Leak> = BTreeSet::new();
    for machine in machines {
        all.extend(leaks(machine.name, &machine.ledger));
    }
    let restored = &machines[RESTORED];
    all.extend(leaks(restored.name, &restored.folder.join("lost.db")));
    let by: [(&str, Key); 4] = [
        ("host", |leak| leak.host.to_owned()),
        ("task", |leak| leak.task.clone()),
        ("rule", |leak| leak.rule.clone()),
        ("day", |leak| leak_day(leak.found_at)),
    ];
    for (by, key) in by {
        let mut counted: BTreeMap<String, [i64; 6]> = BTreeMap::new();
        for leak in &all {
            let sums = counted.entry(key(leak)).or_default();
            let of = |kind: &str| i64::from(leak.kind == kind);
            let one = [
                1,
                of("orphan"),
                of("stray"),
                of("unregistered"),
                i64::from(leak.survived),
                leak.rss,
            ];
            sums.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
        }
        let report = printed(fleet(&["report", "--by", by, "--json", "--from", &database.url()]));
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let groups = report["groups"].as_array().expect("groups").iter().map(|group| {
            let fields = ["leaks", "orphans", "strays", "unregistered", "survived", "rss_bytes"];
            (
                group["key"].as_str().expect("a key").to_owned(),
                fields.map(|it| group[it].as_i64().expect("a number")),
            )
        });
        assert_eq!(groups.collect::<BTreeMap<_, _>>(), counted, "by {by}");
    }
    all.len()
}

/// The day of a time, in UTC.
fn leak_day(millis: i64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(millis.unsigned_abs());
    chrono::DateTime::<chrono::Utc>::from(time).format("%Y-%m-%d").to_string()
}
