//! Kills, cuts and lost answers while a ledger is shipped. Each ends with the comparison of the
//! fleet with its ledger.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    comparison::{Ledger, fleet_equals_ledger, init, ship},
    proxy::{Fault, Proxy},
    scene::scene,
    server::{Server, Setup},
};
use crate::support::{Place, long, need, sampled, until};

/// Chooses some of many points, evenly; all of them with `PROCLEDGER_LONG=1`.
fn sample<T>(all: Vec<T>) -> Vec<T> {
    let step = if long() { 1 } else { all.len().div_ceil(sampled(5, 14)).max(1) };
    all.into_iter().step_by(step).collect()
}

/// The shipper is killed at each of its system calls: `strace` counts each call of each thread by
/// itself.
#[test]
fn a_shipper_killed_at_any_system_call_loses_nothing() {
    need!("strace");
    let Some(scene) = scene() else { return };
    scene.ship();
    scene.ledger.work();
    let trace = scene.place.path().join("trace");
    let url = scene.database.url();
    let shipper = |options: &[&str]| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(&trace).args(options);
        strace.arg(env!("CARGO_BIN_EXE_procledger")).args(["ship", "--once", "--to", &url, "--db"]);
        strace.arg(scene.path()).stdin(Stdio::null()).stderr(Stdio::null());
        strace.status().expect("strace runs")
    };
    assert!(shipper(&[]).success());
    let text = fs::read_to_string(&trace).expect("a trace");
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut points = Vec::new();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        if name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            let count = counts.entry((thread, name)).or_default();
            *count += 1;
            points.push((name, *count));
        }
    }
    // Before it connects, nothing has happened.
    let first = points.iter().position(|point| point.0 == "connect").expect("it connects");
    let points = points.split_off(first);
    assert!(points.len() > 50, "{}", points.len());
    let mut killed = 0;
    for (name, count) in sample(points) {
        scene.ledger.work();
        let status = shipper(&["-e", &format!("inject={name}:signal=SIGKILL:when={count}")]);
        killed += u32::from(!status.success());
        scene.check();
        assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0", "killed at {name} {count}");
    }
    assert!(killed > 0);
}

/// The first batch of a ledger: a stream that was made, and is not in the ledger yet, is shipped
/// again from the start.
#[test]
fn a_shipper_killed_during_its_first_batch_loses_nothing() {
    need!("strace");
    let Some(first) = scene() else { return };
    for (name, count) in sample((1..=8).flat_map(|n| [("sendto", n), ("pwrite64", n)]).collect()) {
        let place = Place::new();
        let ledger = Ledger::create(&place.ledger());
        ledger.work();
        let mut strace = Command::new("strace");
        let inject = format!("inject={name}:signal=SIGKILL:when={count}");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject]);
        strace.arg(env!("CARGO_BIN_EXE_procledger")).args(["ship", "--once", "--db"]);
        strace.arg(place.ledger()).args(["--to", &first.database.url()]).stdin(Stdio::null());
        strace.stderr(Stdio::null()).status().expect("strace runs");
        ledger.work();
        ship(&first.database, &place.ledger());
        fleet_equals_ledger(&first.database, &place.ledger());
    }
    assert_eq!(first.database.rows("SELECT coalesce(sum(lost + gap), 0) FROM fleet.stream"), "0");
}

#[test]
fn a_connection_cut_at_any_byte_loses_nothing() {
    let Some(scene) = scene() else { return };
    scene.ship();
    scene.ledger.work();
    let whole = Proxy::start(&scene.database, Fault::None);
    assert!(scene.ship_to(&whole.url()).status.success());
    let [requests, answers] = whole.passed();
    assert!(requests > 1000 && answers > 1000, "{requests} {answers}");
    let cuts = (0..requests + answers + 500).map(Fault::Cut).collect();
    let losses = (0..answers + 500).map(Fault::LoseAnswer).collect();
    let mut failed = 0;
    for fault in sample(cuts).into_iter().chain(sample(losses)) {
        scene.ledger.work();
        let proxy = Proxy::start(&scene.database, fault);
        failed += u32::from(!scene.ship_to(&proxy.url()).status.success());
        scene.check();
        assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0", "{fault:?}");
    }
    assert!(failed > 0);
}

/// The answer to the commit is lost after any number of bytes.
#[test]
fn a_lost_answer_to_a_commit_loses_and_duplicates_nothing() {
    let Some(scene) = scene() else { return };
    scene.ship();
    // Batches of the same size, while nothing else changes.
    scene.ledger.end(1000);
    scene.ledger.settle(1000);
    scene.check();
    let batch = || {
        scene.ledger.start(3);
        scene.ledger.end(3);
    };
    batch();
    let whole = Proxy::start(&scene.database, Fault::None);
    assert!(scene.ship_to(&whole.url()).status.success());
    let [_, answers] = whole.passed();
    let mut lost = 0;
    // The answer to a COMMIT has 12 bytes, and 6 that say that the server is ready.
    for back in [1, 6, 12, 17, 18] {
        batch();
        let before = scene.stream("mark");
        let proxy = Proxy::start(&scene.database, Fault::LoseAnswer(answers - back));
        let failed = !scene.ship_to(&proxy.url()).status.success();
        lost += u32::from(failed && scene.stream("mark") != before);
        scene.check();
        assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
    }
    assert!(lost > 0, "no answer to a commit was lost");
}

/// A host never waits for the network: while the shipper hangs, the ledger can be written, and its
/// WAL be emptied.
#[test]
fn a_hanging_network_does_not_block_the_ledger() {
    let Some(scene) = scene() else { return };
    scene.ship();
    scene.ledger.work();
    let whole = Proxy::start(&scene.database, Fault::None);
    assert!(scene.ship_to(&whole.url()).status.success());
    let limit = whole.passed()[1] / 2;
    scene.ledger.work();
    let proxy = Proxy::start(&scene.database, Fault::Hang(limit));
    let mut shipper = Command::new(env!("CARGO_BIN_EXE_procledger"));
    shipper.args(["ship", "--once", "--to", &proxy.url(), "--db"]).arg(scene.path());
    let mut shipper = crate::support::Guard(shipper.spawn().expect("it starts"));
    until("nothing passes any more", || proxy.passed()[1] >= limit);
    assert!(shipper.is_running());
    let began = Instant::now();
    for _ in 0..20 {
        scene.ledger.work();
    }
    scene.ledger.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let wal = scene.place.path().join("ledger.db-wal");
    assert_eq!(fs::metadata(wal).map_or(0, |file| file.len()), 0, "no snapshot is held");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(shipper.is_running(), "it hangs all the time");
    drop(shipper);
    // The database does not notice that, and its transaction holds the stream: another shipper
    // waits until it is given up.
    let open = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state = 'idle in transaction'",
        scene.database.name()
    );
    assert_eq!(scene.database.rows(&open), "1");
    scene.check();
    assert_eq!(scene.stream("restarts, lost, gap"), "0|0|0");
}

/// The database is killed while batches arrive.
#[test]
fn a_database_killed_between_any_two_steps_loses_nothing() {
    let Some(server) = Server::start(&Setup::default()) else { return };
    let database = server.database();
    init(&database);
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    ship(&database, &place.ledger());
    for round in 0..if long() { 100 } else { 4 } {
        ledger.start(5_000);
        ledger.leak(200);
        ledger.end(4_990);
        let mut shipper = Command::new(env!("CARGO_BIN_EXE_procledger"));
        shipper.args(["ship", "--once", "--to", &database.url(), "--db"]).arg(place.ledger());
        let mut shipper =
            crate::support::Guard(shipper.stderr(Stdio::null()).spawn().expect("it starts"));
        std::thread::sleep(Duration::from_millis(60 + 90 * round));
        server.crash();
        let _ = shipper.0.wait();
        server.start_again();
        ship(&database, &place.ledger());
        fleet_equals_ledger(&database, &place.ledger());
    }
    let found = database.rows("SELECT restarts, lost, gap FROM fleet.stream");
    assert_eq!(found, "0|0|0");
}
