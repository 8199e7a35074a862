//! `procledger watch` as a service: many ledgers, its own crashes, several users, and a service
//! manager that receives its status.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, chown},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{Answer, PROCLEDGER, Running, bare, clean, finish, run},
    support::{
        Host, PATIENCE, PidfdWatch, Place, alone, copy_program, eventually, in_namespace, is_alive,
        is_only, need, parent, pidfd, pids, root, until,
    },
};

/// A `watch` whose lines are collected.
pub(crate) struct Watch {
    pub(crate) child: Child,
    pub(crate) out: Receiver<String>,
    pub(crate) err: Receiver<String>,
    pub(crate) log: Vec<String>,
}

impl Watch {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("procledger");
        let out = lines(child.stdout.take().expect("piped"));
        let err = lines(child.stderr.take().expect("piped"));
        Self { child, out, err, log: Vec::new() }
    }

    pub(crate) fn on(place: &Place, args: &[&str]) -> Self {
        Self::start(bare(place).arg("watch").args(args).current_dir(place.path()))
    }

    /// Waits for a line on stdout that contains all of these.
    #[track_caller]
    pub(crate) fn done(&self, parts: &[&str]) {
        let line = self.out.recv_timeout(PATIENCE).expect("watch prints what it ended");
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }

    /// Waits for a line on stderr that contains all of these, whatever comes before it.
    #[track_caller]
    pub(crate) fn complaint(&mut self, parts: &[&str]) {
        let is = |line: &String| parts.iter().all(|part| line.contains(part));
        while !self.log.iter().any(is) {
            let next = self.err.recv_timeout(PATIENCE);
            self.log.push(next.unwrap_or_else(|_| panic!("no {parts:?}: {:?}", self.log)));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let fd = pidfd(self.child.id()).expect("it is ours and not waited for");
        pidfd_send_signal(fd.as_fd(), signal).expect("a signal");
    }

    pub(crate) fn stop(self) -> Answer {
        self.signal(Signal::TERM);
        finish(self.child)
    }

    pub(crate) fn crash(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("reaped");
    }

    /// The worker for this ledger.
    pub(crate) fn worker(&self, ledger: &Path) -> PidfdWatch {
        let (own, ledger) = (self.child.id(), ledger.as_os_str().as_encoded_bytes());
        let is_worker = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
            words.contains(&&b"--worker"[..])
                && words.contains(&ledger)
                && parent(*pid) == Some(own)
        };
        PidfdWatch::on(eventually("a worker", || pids().into_iter().find(is_worker)))
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn start_host(place: &Place, ledger: &str) -> Host {
    Host::start_on(place, &place.path().join(ledger), "program=api")
}

/// A service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        Self::new(UnixDatagram::bind(path).expect("a socket"))
    }

    fn new(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(socket)
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("a notification");
        String::from_utf8(buffer[..length].to_vec()).expect("text")
    }

    fn wait_for(&self, start: &str) -> String {
        loop {
            let line = self.hear();
            if line.starts_with(start) {
                return line;
            }
        }
    }
}

#[test]
fn a_ledger_that_breaks_or_is_missing_does_not_stop_the_others() {
    let place = Place::new();
    let mut good = start_host(&place, "good.db");
    drop(start_host(&place, "newer.db"));
    let newer = rusqlite::Connection::open(place.path().join("newer.db")).expect("a ledger");
    newer.pragma_update(None, "user_version", 999).expect("a newer one");
    drop(newer);
    fs::write(place.path().join("broken.db"), "no ledger at all, and long enough to be read")
        .expect("a file");
    fs::set_permissions(place.path().join("broken.db"), fs::Permissions::from_mode(0o600))
        .expect("a mode");
    let mut watch = Watch::on(&place, &["good.db", "later.db", "newer.db", "broken.db"]);
    watch.complaint(&["procledger: later.db: does not exist"]);
    watch.complaint(&["procledger: newer.db: ", "newer"]);
    watch.complaint(&["procledger: broken.db: ", "not a database"]);
    watch.worker(Path::new("good.db"));
    let root = good.spawn("first", "exec sleep 300");
    good.crash();
    watch.done(&["good.db: ", "first pid", "its instance is dead"]);
    assert!(root.is_dead());
    // It appears while the watch runs.
    let mut later = start_host(&place, "later.db");
    let root = later.spawn("second", "exec sleep 300");
    later.crash();
    watch.done(&["later.db: ", "second pid"]);
    assert!(root.is_dead());
    // A ledger is repaired: it had not been given up.
    let newer = rusqlite::Connection::open(place.path().join("newer.db")).expect("a ledger");
    newer.pragma_update(None, "user_version", version(&place)).expect("this one");
    drop(newer);
    watch.worker(Path::new("newer.db"));
    let mut mended = start_host(&place, "newer.db");
    mended.spawn("third", "exec sleep 300");
    mended.crash();
    watch.done(&["newer.db: ", "third pid"]);
    let lines_seen = watch.log.clone();
    let answer = watch.stop().expect(0);
    for ledger in ["later.db", "newer.db", "broken.db"] {
        let lines = lines_seen.iter().filter(|line| line.contains(&format!("{ledger}: "))).count();
        assert_eq!(lines, 1, "one clear line each: {lines_seen:?} {answer:?}");
    }
}

fn version(place: &Place) -> i64 {
    let good = rusqlite::Connection::open(place.path().join("good.db")).expect("a ledger");
    good.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version")
}

#[test]
fn ledgers_of_a_folder_are_watched_as_soon_as_they_are_created() {
    let place = Place::new();
    let folder = place.path().join("ledgers");
    let mut watch = Watch::on(&place, &["--dir", "ledgers", "named.db"]);
    watch.complaint(&["named.db: does not exist"]);
    fs::create_dir(&folder).expect("a folder");
    for name in ["one", "two"] {
        let mut host = start_host(&place, &format!("ledgers/{name}.db"));
        let root = host.spawn(name, "exec sleep 300");
        host.crash();
        watch.done(&[&format!("ledgers/{name}.db: "), &format!("{name} pid")]);
        assert!(root.is_dead());
    }
    assert!(!place.path().join("named.db").exists(), "a watch makes no ledger");
    watch.stop().expect(0);
}

#[test]
fn a_recreated_ledger_is_watched_again() {
    let place = Place::new();
    start_host(&place, "ledger.db").stop();
    let watch = Watch::on(&place, &["ledger.db"]);
    let old = watch.worker(Path::new("ledger.db"));
    // Not while it opens: SQLite then retries opening its files for longer than this test waits.
    let open = "SELECT count(*) FROM instance WHERE stopped_at IS NULL";
    until("the watch is open", || place.sqlite3(open) == "1");
    thread::sleep(Duration::from_millis(200));
    for file in fs::read_dir(place.path()).expect("a folder") {
        fs::remove_file(file.expect("an entry").path()).expect("removed");
    }
    until("the old one is given up", || old.is_dead());
    let mut host = start_host(&place, "ledger.db");
    host.spawn("anew", "exec sleep 300");
    host.crash();
    watch.done(&["ledger.db: ", "anew pid"]);
    watch.stop().expect(0);
}

/// An instance that opens while the watch begins was seen by neither the list nor inotify, and was
/// not polled for five seconds.
#[test]
fn a_host_that_opens_while_the_watch_begins_is_not_missed() {
    let _alone = alone();
    let place = Place::new();
    start_host(&place, "ledger.db").stop();
    let slowest = (0..8).map(|round| {
        let watch = Watch::on(&place, &["--db", "ledger.db"]);
        let mut host = start_host(&place, "ledger.db");
        let root = host.spawn(&format!("round-{round}"), "exec sleep 300");
        let opened =
            "SELECT count(*) FROM instance WHERE program = 'procledger' AND stopped_at IS NULL";
        until("the watch is open", || place.sqlite3(opened) == "1");
        host.crash();
        let since = Instant::now();
        until("its tree is dead", || root.is_dead());
        watch.stop().expect(0);
        since.elapsed()
    });
    let slowest = slowest.max().expect("rounds");
    assert!(slowest < Duration::from_secs(3), "it was found by the look at intervals: {slowest:?}");
}

/// Its lock file announces it before its row exists; that the row does not exist yet must not delay
/// the next check by five seconds.
#[test]
fn a_host_that_dies_right_after_it_was_started_is_not_missed() {
    let _alone = alone();
    let place = Place::new();
    start_host(&place, "ledger.db").stop();
    let watch = Watch::on(&place, &["ledger.db"]);
    watch.worker(Path::new("ledger.db"));
    let slowest = (0..8).map(|round| {
        let mut host = start_host(&place, "ledger.db");
        let root = host.spawn(&format!("round-{round}"), "exec sleep 300");
        host.crash();
        let since = Instant::now();
        until("its tree is dead", || root.is_dead());
        since.elapsed()
    });
    let slowest = slowest.max().expect("rounds");
    assert!(slowest < Duration::from_secs(3), "it was found by the look at intervals: {slowest:?}");
    watch.stop().expect(0);
}

#[test]
fn a_killed_watch_loses_nothing_and_its_successor_kills_nothing_twice() {
    let place = Place::new();
    let mut idle = start_host(&place, "idle.db");
    let kept = idle.spawn("kept", "exec sleep 300");
    let options = "program=api grace=600";
    let mut stubborn = Host::start_on(&place, &place.path().join("busy.db"), options);
    let tree =
        stubborn.spawn("busy", "trap '' TERM; sleep 300 & sleep 300 & wait; wait; sleep 300");
    let first = Watch::on(&place, &["idle.db", "busy.db"]);
    let workers = ["idle.db", "busy.db"].map(|ledger| first.worker(Path::new(ledger)));
    stubborn.crash();
    let busy = place.path().join("busy.db");
    let claimed = || {
        let ledger = rusqlite::Connection::open(&busy).expect("a ledger");
        let count = "SELECT count(*) FROM process WHERE state = 'ending'";
        ledger.query_row(count, [], |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0)
    };
    until("it is in the middle of ending the tree", claimed);
    first.crash();
    until("its workers are gone with it", || workers.iter().all(PidfdWatch::is_dead));
    assert!(!kept.is_dead() && idle.ask("running") == "1", "a host is not touched");
    let second = Watch::on(&place, &["idle.db", "busy.db"]);
    until("the next one ends the tree", || tree.is_dead());
    until("and records it", || !claimed());
    let ledger = rusqlite::Connection::open(&busy).expect("a ledger");
    let count =
        |query: &str| ledger.query_row(query, [], |row| row.get::<_, i64>(0)).expect("a count");
    assert_eq!(count("SELECT count(*) FROM process WHERE state <> 'ended'"), 0);
    let twice = "SELECT count(*) FROM (SELECT 1 FROM leak GROUP BY process HAVING count(*) > 1)";
    assert_eq!(count(twice), 0, "a leak was recorded twice");
    assert!(count("SELECT count(*) FROM leak") >= 1);
    // A worker alone is replaced.
    let worker = second.worker(Path::new("idle.db"));
    worker.kill();
    eventually("another worker", || {
        let now = second.worker(Path::new("idle.db"));
        (now.pid() != worker.pid()).then_some(())
    });
    let workers = ["idle.db", "busy.db"].map(|ledger| second.worker(Path::new(ledger)));
    second.stop().expect(0);
    assert!(workers.iter().all(PidfdWatch::is_dead), "a clean end leaves no worker");
    assert!(!kept.is_dead() && idle.ask("running") == "1", "a host is not touched");
    idle.stop();
}

#[test]
fn a_service_manager_is_notified_of_readiness_status_liveness_and_stop() {
    let place = Place::new();
    let mut host = start_host(&place, "ledger.db");
    let orphan = host.spawn("left", "exec sleep 300");
    host.crash();
    let manager = Manager::at(&place.path().join("notify"));
    let command = |args: &[&str]| {
        let mut command = bare(&place);
        command.args(args).current_dir(place.path());
        command.env("NOTIFY_SOCKET", place.path().join("notify")).env("WATCHDOG_USEC", "200000");
        command
    };
    let many = Watch::start(&mut command(&["watch", "ledger.db", "later.db"]));
    manager.wait_for("READY=1");
    assert!(orphan.is_dead(), "ready means cleaned up");
    let status = manager.wait_for("STATUS=watching 1 of 2 ledgers");
    assert!(status.contains("later.db: does not exist"), "{status}");
    let since = Instant::now();
    for _ in 0..10 {
        assert_eq!(manager.wait_for("WATCHDOG"), "WATCHDOG=1");
    }
    assert!(since.elapsed() < Duration::from_secs(20), "a sign at least every 200 ms, on average");
    let mut later = start_host(&place, "later.db");
    manager.wait_for("STATUS=watching 2 of 2 ledgers");
    later.spawn("t", "exec sleep 300");
    let pid = many.child.id();
    many.stop().expect(0);
    manager.wait_for("STOPPING=1");
    assert!(!is_alive(pid));
    // One ledger, in the process itself.
    let one = Watch::start(&mut command(&["--db", "later.db", "watch"]));
    manager.wait_for("READY=1");
    manager.wait_for("STATUS=watching 1 instance of ");
    manager.wait_for("WATCHDOG=1");
    one.stop().expect(0);
    manager.wait_for("STOPPING=1");
    later.stop();
}

#[test]
fn a_service_manager_may_use_an_abstract_socket() {
    let place = Place::new();
    let name = SocketAddr::from_abstract_name(place.marker()).expect("a name");
    let manager = Manager::new(UnixDatagram::bind_addr(&name).expect("a socket"));
    let mut command = bare(&place);
    command.args(["--db", "ledger.db", "watch"]).current_dir(place.path());
    let watch = Watch::start(command.env("NOTIFY_SOCKET", format!("@{}", place.marker())));
    manager.wait_for("READY=1");
    watch.stop().expect(0);
}

/// A folder and the command for a made-up user.
pub(crate) fn users_place(place: &Place, uid: u32) -> PathBuf {
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let copy = place.path().join("procledger");
    if !copy.exists() {
        copy_program(PROCLEDGER, copy);
    }
    let folder = place.path().join(uid.to_string());
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(uid), Some(uid)).expect("a gift");
    folder.join("ledger.db")
}

pub(crate) fn run_as(place: &Place, uid: u32, ledger: &Path) -> Running {
    let mut command = Command::new("setpriv");
    clean(&mut command, place);
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
    command.args(ids).args(["--clear-groups", "--"]).arg(place.path().join("procledger"));
    let script = "echo $$; exec sleep 300";
    command.args(["run", "--task", "theirs", "--", "sh", "-c", script, place.marker()]);
    Running::spawn(command.env("PROCLEDGER_DB", ledger))
}

/// Only with the capabilities of the unit in docs/systemd.
#[test]
fn root_watches_ledgers_of_several_users_each_as_its_owner() {
    need!("setpriv");
    if !root() {
        return;
    }
    let place = Place::new();
    let unit = fs::read_to_string(unit("procledger-watch.service")).expect("the unit");
    let set =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a set");
    let set = set.to_lowercase().replace("cap_", "+").replace(' ', ",");
    let ledgers = [12345, 12346].map(|uid| (uid, users_place(&place, uid)));
    let mut command = Command::new("setpriv");
    clean(&mut command, &place);
    command.arg(format!("--bounding-set=-all,{set}")).arg("--no-new-privs").arg("--");
    command.arg(PROCLEDGER).args(["watch", "mine.db"]).current_dir(place.path());
    let watch = Watch::start(command.args(ledgers.iter().map(|(_, ledger)| ledger)));
    for (uid, ledger) in &ledgers {
        let running = run_as(&place, *uid, ledger);
        let orphan = PidfdWatch::on(running.said.parse().expect("a pid"));
        let worker = watch.worker(ledger);
        until("the worker is that user", || is_only(worker.pid(), *uid));
        running.crash();
        until("what they left is dead", || orphan.is_dead());
        watch.done(&[&ledger.display().to_string(), "theirs pid"]);
    }
    let mut mine = start_host(&place, "mine.db");
    mine.spawn("mine", "exec sleep 300");
    mine.crash();
    watch.done(&["mine.db: ", "mine pid"]);
    watch.stop().expect(0);
    for (uid, ledger) in &ledgers {
        let after = run_as(&place, *uid, ledger);
        after.signal(Signal::TERM);
        after.finish();
    }
}

pub(crate) fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/systemd").join(name)
}

/// Half of them ignore SIGTERM. A busy machine may spoil one attempt, or several; not ten.
#[test]
fn a_tree_of_50_processes_is_dead_within_the_grace_and_100_ms() {
    const GRACE: Duration = Duration::from_millis(100);
    const ALLOWED: Duration = Duration::from_millis(200);
    if !in_namespace(
        "orphans::watch_service::a_tree_of_50_processes_is_dead_within_the_grace_and_100_ms",
    ) {
        return;
    }
    let place = Place::new();
    let ledger = place.ledger();
    start_host(&place, "ledger.db").stop();
    let watch = Watch::start(bare(&place).arg("--db").arg(&ledger).arg("watch"));
    let mut took = Vec::new();
    while took.len() < 10 && took.iter().all(|took| *took > ALLOWED) {
        let options = format!("program=api grace={}", GRACE.as_millis());
        let mut host = Host::start_on(&place, &ledger, &options);
        let up = place.path().join("up");
        let script = format!(
            "trap '' TERM; i=1; while [ $i -lt 25 ]; do sleep 300 & i=$((i+1)); done; trap - TERM; \
             while [ $i -lt 50 ]; do sleep 300 & i=$((i+1)); done; : > {}; wait; wait",
            up.display()
        );
        host.spawn(&format!("tree-{}", took.len()), &script);
        place.wait_for("up");
        let outside = [1, watch.child.id(), host.pid()];
        let tree: Vec<PidfdWatch> = pids()
            .into_iter()
            .filter(|pid| !outside.contains(pid) && is_alive(*pid))
            .map(PidfdWatch::on)
            .collect();
        assert_eq!(tree.len(), 50);
        let fd = pidfd(host.pid()).expect("the host");
        let since = Instant::now();
        pidfd_send_signal(fd.as_fd(), Signal::KILL).expect("killed");
        until("the tree is dead", || tree.iter().all(PidfdWatch::is_dead));
        took.push(since.elapsed());
        host.crash();
        fs::remove_file(place.path().join("up")).expect("removed");
    }
    println!("a tree of 50, half of them deaf to SIGTERM, was dead after {took:?}");
    assert!(took.iter().any(|took| *took <= ALLOWED), "{took:?}");
    watch.stop().expect(0);
}

#[test]
fn options_for_one_ledger_are_refused_with_several() {
    let place = Place::new();
    for option in
        [["--export", "x.json"], ["--profile", "ecosystem-manager"], ["--log-file", "x.log"]]
    {
        let answer = run(&place, &[option[0], option[1], "watch", "a.db", "b.db"]).expect(2);
        assert!(answer.complaint().contains(option[0]), "{answer:?}");
    }
    assert!(!place.path().join("a.db").exists());
}
