//! The host is killed with SIGKILL while its trees run, and is started again.

use std::fs;

use crate::support::{Host, PidfdWatch, Place, canary, is_alive};

/// Trees of every kind; each process of them.
fn grow(place: &Place, host: &mut Host) -> Vec<PidfdWatch> {
    let folder = place.path().display();
    let mut all = vec![
        host.spawn("plain", "exec sleep 3600"),
        host.spawn(
            "stubborn",
            &format!("trap '' TERM; touch {folder}/trap; while :; do sleep 1; done"),
        ),
        host.spawn(
            "family",
            &format!(
                "sleep 3600 & echo $! > {folder}/child; \
                 sh -c 'sleep 3600 & echo $! > {folder}/grandchild; wait' & wait"
            ),
        ),
        host.spawn("daemon", &format!("setsid sleep 3600 & echo $! > {folder}/daemon; wait")),
    ];
    all.extend(["child", "grandchild", "daemon"].map(|name| place.watch(name)));
    place.wait_for("trap");
    all
}

#[test]
fn invariant_08_orphans_of_a_crash_are_dead_before_open_returns() {
    let place = Place::new();
    let log = place.path().join("log");
    let mut canary = canary();
    let mut host = Host::start(&place, "");
    let trees = grow(&place, &mut host);
    host.crash();
    assert!(trees.iter().all(|one| is_alive(one.pid())), "SIGKILL of the host ends none of them");

    let again = Host::start(&place, &format!("log={}", log.display()));
    assert!(trees.iter().all(PidfdWatch::is_dead), "all are dead when `open` has returned");
    let left: Vec<u32> = place.alive().into_iter().filter(|&pid| pid != again.pid()).collect();
    assert_eq!(left, [0_u32; 0], "and so is all that they had started since");
    assert!(canary.is_running(), "the canary lives");

    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    for one in &trees {
        let row = format!("SELECT end_reason FROM process WHERE pid = {}", one.pid());
        assert_eq!(place.sqlite3(&row), "orphan", "process {}", one.pid());
        let leak = format!("SELECT kind FROM leaks WHERE pid = {}", one.pid());
        assert_eq!(place.sqlite3(&leak), "orphan", "process {}", one.pid());
    }
    let outcomes = place.sqlite3("SELECT DISTINCT outcome FROM leaks ORDER BY 1");
    assert_eq!(outcomes, "kill\nterm", "the stubborn are killed, the others obey");
    assert_eq!(place.sqlite3("SELECT stopped_how FROM instance ORDER BY id LIMIT 1"), "crashed");
    let pass = "SELECT found = ended AND survived = 0 FROM pass ORDER BY id DESC LIMIT 1";
    assert_eq!(place.sqlite3(pass), "1");
    let log = fs::read_to_string(&log).expect("a log");
    let loaded = format!("Loaded 4 persisted processes from {}", place.ledger().display());
    assert!(log.contains(&loaded), "{log}");
    let killed = place.sqlite3("SELECT count(*) FROM leak");
    let cleaned = format!("Cleaned up {killed} orphaned processes from previous run");
    assert!(log.contains(&cleaned), "{log}");
    again.stop();
}

#[test]
fn invariant_11_every_end_has_a_reason_and_every_kill_its_rule_and_evidence() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    grow(&place, &mut host);
    host.ask("spawn short exit 3");
    host.spawn("asked", "exec sleep 3600");
    host.ask("terminate asked");
    host.crash();
    Host::start(&place, "").stop();

    let without = "SELECT count(*) FROM process WHERE state <> 'ended' OR end_reason IS NULL";
    assert_eq!(place.sqlite3(without), "0", "every end has a reason");
    let bare = "SELECT count(*) FROM leak WHERE rule = '' OR evidence = '' OR pass IS NULL";
    assert_eq!(place.sqlite3(bare), "0", "every kill has its rule, its evidence and its pass");
    let orphans = "SELECT count(*) FROM process AS p WHERE end_reason = 'orphan'
                   AND NOT EXISTS (SELECT * FROM leak WHERE process = p.id AND outcome IN ('term', 'kill'))";
    assert_eq!(place.sqlite3(orphans), "0", "every orphan that was ended is a leak");
    assert_eq!(
        place.sqlite3("SELECT end_reason FROM process WHERE task_id = 'asked'"),
        "terminated"
    );
    let evidence = place.sqlite3("SELECT DISTINCT evidence FROM leaks ORDER BY 1");
    assert!(evidence.lines().count() >= 2, "the evidence differs by what tied each: {evidence}");
}
