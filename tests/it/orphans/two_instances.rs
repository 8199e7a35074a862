//! Two hosts work on one ledger, and one of them is killed.

use std::time::Duration;

use crate::support::{Host, PidfdWatch, Place, canary, eventually, is_alive};

const TREE: &str = "setsid sleep 3600 & sleep 3600 & wait";

#[test]
fn invariant_07_the_other_instance_reaps_orphans_of_the_dead_one_and_spares_its_own_tree() {
    let place = Place::new();
    let (mut dying, mut living) = (Host::start(&place, ""), Host::start(&place, ""));
    let theirs = dying.spawn("theirs", TREE);
    let ours = living.spawn("ours", TREE);
    let mut canary = canary();
    assert_eq!(living.ask("reap"), "0", "a live instance's processes are its own");
    assert_eq!(living.ask("health"), "0");
    assert!(living.ask("terminate theirs").starts_with("error "), "nor ended by its task");
    assert!(!theirs.is_dead());

    dying.crash();
    assert!(!theirs.is_dead());
    assert_ne!(living.ask("reap"), "0");
    assert!(theirs.is_dead());
    assert!(!ours.is_dead() && is_alive(living.pid()) && canary.is_running());
    assert_eq!(place.sqlite3("SELECT task_id FROM running WHERE NOT descendant"), "ours");
    living.stop();
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn the_command_reaps_orphans_of_a_dead_instance_and_spares_those_of_a_live_one() {
    let place = Place::new();
    let (mut dying, mut living) = (Host::start(&place, ""), Host::start(&place, ""));
    let theirs = dying.spawn("theirs", TREE);
    let ours = living.spawn("ours", TREE);
    dying.crash();

    let dry = place.procledger(&["reap", "--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(0), "{dry:?}");
    assert!(!theirs.is_dead(), "a dry run ends nothing");
    assert_eq!(place.sqlite3("SELECT count(*) FROM leaks"), "0", "and writes nothing");
    let planned = String::from_utf8(dry.stdout).expect("text");
    assert!(planned.contains("theirs") && !planned.contains("ours\""), "{planned}");

    let reap = place.procledger(&["reap"]);
    assert_eq!(reap.status.code(), Some(0), "{reap:?}");
    assert!(theirs.is_dead() && !ours.is_dead());
    assert_eq!(place.sqlite3("SELECT DISTINCT task_id, kind FROM leaks"), "theirs|orphan");
    assert_eq!(living.ask("running"), "1");
    living.stop();
}

#[test]
fn invariant_05_two_hosts_that_restart_at_once_end_each_orphan_once() {
    const ORPHANS: usize = 30;
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let orphans: Vec<PidfdWatch> = (0..ORPHANS)
        .map(|number| {
            host.spawn(&format!("task-{number}"), "trap '' TERM; while :; do sleep 9; done")
        })
        .collect();
    host.crash();
    let ledger = place.ledger();
    let both = [Host::launch(&place, &ledger, ""), Host::launch(&place, &ledger, "")];
    for one in &both {
        let open = one.answer();
        assert!(open.starts_with("open "), "{open}");
        assert!(
            orphans.iter().all(PidfdWatch::is_dead),
            "clean before new, whichever instance did the work"
        );
    }
    let twice =
        "SELECT count(*) FROM (SELECT process FROM leak GROUP BY process HAVING count(*) > 1)";
    assert_eq!(place.sqlite3(twice), "0", "each leak is recorded once");
    let roots =
        "SELECT count(*) FROM leak JOIN process AS p ON p.id = process WHERE p.root IS NULL";
    assert_eq!(place.sqlite3(roots), ORPHANS.to_string(), "and none is missing");
    let rows = "SELECT count(*) FROM process WHERE root IS NULL AND end_reason = 'orphan'";
    assert_eq!(place.sqlite3(rows), ORPHANS.to_string());
    for host in both {
        host.stop();
    }
}

#[test]
fn invariant_06_a_host_that_waits_for_a_stubborn_tree_blocks_no_other_writer() {
    let place = Place::new();
    let options = "grace=1500";
    let (mut ending, mut other) = (Host::start(&place, options), Host::start(&place, options));
    let ready = place.path().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 9; done", ready.display());
    let stubborn = ending.spawn("stubborn", &script);
    place.wait_for("ready");
    ending.send("terminate stubborn");
    let state = "SELECT state FROM process WHERE task_id = 'stubborn' AND root IS NULL";
    eventually("it is claimed", || (place.sqlite3(state) == "ending").then_some(()));

    other.spawn("new", "exec sleep 3600");
    assert!(!stubborn.is_dead(), "the spawn was recorded while the other host waited");
    assert_eq!(ending.answer_so_far(), None);
    assert_eq!(place.sqlite3(state), "ending");
    assert_ne!(ending.answer(), "0");
    assert!(stubborn.is_dead());
    for host in [ending, other] {
        host.stop();
    }
}

#[test]
fn a_crashed_reaper_loses_its_claims_to_the_next_one() {
    let place = Place::new();
    let mut host = Host::start(&place, "grace=1500");
    let ready = place.path().join("ready");
    let script = format!("trap '' TERM; touch {}; while :; do sleep 9; done", ready.display());
    let stubborn = host.spawn("stubborn", &script);
    place.wait_for("ready");
    host.crash();
    let reaper = Host::launch(&place, &place.ledger(), "");
    let state = "SELECT state FROM process WHERE root IS NULL";
    eventually("it is claimed", || (place.sqlite3(state) == "ending").then_some(()));
    reaper.crash();
    assert!(!stubborn.is_dead(), "the reaper died within the grace");

    let next = Host::start(&place, "");
    assert!(stubborn.is_dead());
    assert_eq!(place.sqlite3("SELECT end_reason FROM process WHERE root IS NULL"), "orphan");
    next.stop();
}

#[test]
fn a_watch_reaps_as_soon_as_an_instance_dies() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let orphan = host.spawn("left", TREE);
    let tracker = procledger::Tracker::builder(place.ledger()).open().expect("a ledger");
    let (stop, stopped) = std::io::pipe().map(|(read, write)| (write, read)).expect("a pipe");
    let watcher = tracker.clone();
    let watching = std::thread::spawn(move || watcher.watch(stopped.into(), |_| ()));
    host.crash();
    crate::support::until("the orphan is ended", || orphan.is_dead());
    drop(stop);
    watching.join().expect("no panic").expect("watched");
    tracker.shutdown().expect("shut down");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    let since = Duration::from_hours(1);
    let leaks = procledger::Ledger::open(place.ledger()).expect("a ledger");
    let leaks = leaks
        .leaks(procledger::Query::new().since(std::time::SystemTime::now().checked_sub(since)))
        .expect("leaks");
    assert!(leaks.iter().any(|leak| leak.pid.get() == orphan.pid()));
}
