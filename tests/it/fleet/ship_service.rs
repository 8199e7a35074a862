//! `ship` as a service: a worker for each ledger, which acts as the ledger's owner.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    comparison::{Ledger, fleet_equals_ledger, init, ship},
    fleet, printed,
    proxy::{Fault, Proxy},
    server::{Database, Server, Setup, database},
};
use crate::support::{Guard, Place, root, until};

fn service(place: &Place, url: &str, words: &[&str]) -> Guard {
    let mut service = Command::new(env!("CARGO_BIN_EXE_procledger"));
    service.args(["ship", "--interval", "100ms", "--host", place.marker(), "--to", url]);
    service.args(words).env("PROCLEDGER_IT_MARKER", place.marker());
    // Without a password for this database; workers that have become a ledger's owner cannot read
    // it.
    let passwords = place.path().join("pgpass");
    fs::write(&passwords, "another:*:*:*:secret\n").expect("written");
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o600)).expect("its mode");
    service.env("PGPASSFILE", passwords);
    let log = fs::File::create(place.path().join("log")).expect("a file");
    service.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Guard(service.spawn().expect("it starts"))
}

fn stop(mut service: Guard) {
    let pid = Pid::from_raw(i32::try_from(service.pid()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::TERM).expect("signalled");
    assert!(service.0.wait().expect("it ends").success());
}

fn shipped(database: &Database, ledgers: usize) -> bool {
    let caught_up = "SELECT count(*) FROM fleet.stream WHERE process > 0";
    database.rows(caught_up) == ledgers.to_string()
}

#[test]
fn the_ledgers_of_a_folder_are_shipped_while_they_change() {
    let Some(database) = database() else { return };
    init(&database);
    let place = Place::new();
    let folder = place.path().join("ledgers");
    fs::create_dir(&folder).expect("a folder");
    let paths = ["a.db", "b.db", "later.db"].map(|name| folder.join(name));
    let make = |path: &PathBuf| Ledger::create(path);
    let mut ledgers: Vec<Ledger> = paths[..2].iter().map(make).collect();
    let service = service(&place, &database.url(), &["--dir", folder.to_str().expect("text")]);
    until("both are shipped", || shipped(&database, 2));
    ledgers.push(make(&paths[2]));
    ledgers.iter().for_each(Ledger::work);
    until("the third is shipped", || shipped(&database, 3));
    // A worker that is killed is replaced.
    let workers = || -> Vec<u32> {
        let is_worker = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(8).any(|word| word == b"--worker")
                && line.windows(4).any(|word| word == b"a.db")
        };
        place.alive().into_iter().filter(is_worker).collect()
    };
    until("its worker runs", || workers().len() == 1);
    let worker = crate::support::pidfd(workers()[0]).expect("it runs");
    rustix::process::pidfd_send_signal(&worker, Signal::KILL).expect("killed");
    ledgers[0].start(3);
    let uuid = crate::support::sqlite3(&paths[0], "SELECT uuid FROM ledger");
    let last = crate::support::sqlite3(&paths[0], "SELECT max(id) FROM process");
    let sql = format!("SELECT process FROM fleet.stream WHERE ledger = '{uuid}'");
    until("it is shipped by another worker", || database.rows(&sql) == last);
    stop(service);
    until("no worker is left", || place.alive().is_empty());
    for path in &paths {
        ship(&database, path);
        fleet_equals_ledger(&database, path);
    }
    assert_eq!(database.rows("SELECT sum(restarts + lost + gap) FROM fleet.stream"), "0");
}

#[test]
fn an_outage_is_reported_once_and_ends_by_itself() {
    let Some(database) = database() else { return };
    init(&database);
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    let client = || database.client();
    client().batch_execute("ALTER SCHEMA fleet RENAME TO away").expect("renamed");
    let path = place.ledger();
    let service = service(&place, &database.url(), &[path.to_str().expect("text")]);
    let log = || fs::read_to_string(place.path().join("log")).unwrap_or_default();
    until("the outage is reported", || log().contains("fleet init"));
    ledger.work();
    client().batch_execute("ALTER SCHEMA away RENAME TO fleet").expect("renamed");
    until("it answers again", || log().contains("answers again"));
    stop(service);
    assert_eq!(log().matches("fleet init").count(), 1, "{}", log());
    ship(&database, &path);
    fleet_equals_ledger(&database, &path);
}

/// A service that ships to a server whose disk can be filled.
struct FullDisk {
    server: Server,
    database: Database,
    place: Place,
    ledger: Ledger,
    service: Guard,
}

impl FullDisk {
    /// `None` where there is no PostgreSQL, or without root, as only root can create a file system.
    fn start(wal_in_space: bool) -> Option<Self> {
        if !root() {
            return None;
        }
        let server = Server::start(&Setup { space: "64m", wal_in_space, ..Setup::default() })?;
        let database = server.database();
        init(&database);
        if !wal_in_space {
            server.move_to_space(&database);
        }
        let place = Place::new();
        let ledger = Ledger::create(&place.ledger());
        let service = service(&place, &database.url(), &[place.ledger().to_str().expect("text")]);
        until("it is shipped", || shipped(&database, 1));
        Some(Self { server, database, place, ledger, service })
    }

    /// More than there is room for in the files that the server has.
    fn work(&self) {
        self.ledger.start(3_000);
        self.ledger.leak(200);
        self.ledger.end(2_990);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// What `ship --status` says of the ledger, which is behind.
    fn status(&self) -> serde_json::Value {
        let status = self.place.procledger(&["ship", "--status", "--json", "--max-lag", "0s"]);
        assert_eq!(status.status.code(), Some(1), "it is behind");
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
        assert!(status[0]["processes"].as_u64() >= Some(1_000), "{status}");
        status
    }

    /// Waits until the service ships again, and compares; returns the log of the service.
    fn end(self) -> String {
        until("it ships again", || self.log().contains("answers again"));
        let log = self.log();
        stop(self.service);
        ship(&self.database, &self.place.ledger());
        fleet_equals_ledger(&self.database, &self.place.ledger());
        let counts = "SELECT restarts, lost, gap, leak_gap FROM fleet.stream";
        assert_eq!(self.database.rows(counts), "0|0|0|0");
        log
    }
}

#[test]
fn a_shipper_waits_while_the_servers_disk_is_full_and_nothing_is_lost() {
    let Some(it) = FullDisk::start(false) else { return };
    let filler = it.server.fill_space();
    it.work();
    until("it is reported", || it.log().contains("the server's disk is full; make room there"));
    let figures = || {
        let page = printed(fleet(&["metrics", "--from", &it.database.url()]));
        let seen = page.lines().find(|line| line.starts_with("procledger_fleet_seen_timestamp"));
        seen.expect("the figure").to_owned()
    };
    let seen = figures();
    it.ledger.work();
    let status = it.status();
    let error = status[0]["last_error"].as_str().expect("an error");
    assert!(error.contains("the server's disk is full"), "{error}");
    assert_eq!(figures(), seen, "no batch arrives");
    fs::remove_file(filler).expect("removed");
    let log = it.end();
    assert_eq!(log.matches("disk is full").count(), 1, "{log}");
}

/// The server cannot write its log: it ends all sessions, and recovers or stays down.
#[test]
fn a_shipper_waits_while_the_disk_of_the_servers_log_is_full_and_nothing_is_lost() {
    let Some(it) = FullDisk::start(true) else { return };
    let filler = it.server.fill_space();
    it.work();
    until("the server fails", || it.server.log().contains("No space left on device"));
    until("it is reported", || it.log().contains("failed to ") || it.log().contains("cannot "));
    it.ledger.work();
    let status = it.status();
    assert!(status[0]["last_error"].is_string(), "{status}");
    fs::remove_file(filler).expect("removed");
    it.server.resume();
    it.end();
}

/// A connection that hangs does not keep the service from ending.
#[test]
fn a_service_with_a_hanging_connection_stops_at_once() {
    let Some(database) = database() else { return };
    init(&database);
    let place = Place::new();
    Ledger::create(&place.ledger());
    let proxy = Proxy::start(&database, Fault::Hang(300));
    let service = service(&place, &proxy.url(), &[place.ledger().to_str().expect("text")]);
    until("it hangs", || proxy.passed()[1] >= 300);
    let began = std::time::Instant::now();
    stop(service);
    assert!(began.elapsed() < std::time::Duration::from_secs(8));
    until("no worker is left", || place.alive().is_empty());
}

/// The owner of a ledger, without an account.
const USER: u32 = 61_777;

#[test]
fn root_ships_a_users_ledger_as_that_user() {
    if !root() {
        return;
    }
    let Some(database) = database() else { return };
    init(&database);
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let folder = place.path().join("of-a-user");
    fs::create_dir(&folder).expect("a folder");
    let path = folder.join("ledger.db");
    drop(Ledger::create(&path));
    let give = |path: &Path| chown(path, Some(USER), Some(USER)).expect("given");
    for file in fs::read_dir(&folder).expect("a folder").flatten() {
        give(&file.path());
    }
    give(&folder);
    let service = service(&place, &database.url(), &[path.to_str().expect("text")]);
    until("it is shipped", || shipped(&database, 1));
    stop(service);
    let lock = fs::metadata(folder.join("ledger.db-ship.lock")).expect("it is there");
    assert_eq!(lock.uid(), USER);
    for file in fs::read_dir(&folder).expect("a folder").flatten() {
        assert_eq!(file.metadata().expect("it is there").uid(), USER, "{:?}", file.path());
    }
}
