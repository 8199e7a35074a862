//! A task under a keeper has started another host of the same ledger before the old one dies.

use std::fs;

use crate::{
    containment::keepers::{HOST, daemon},
    support::{Host, PidfdWatch, Place, eventually, stays, until},
};

#[test]
fn invariant_13_a_host_adopted_by_the_keeper_survives_with_all_its_processes() {
    let place = Place::new();
    let mut old = Host::start(&place, HOST);
    let binary = std::env::current_exe().expect("this binary");
    let folder = place.path().display();
    // Its programs have a session only, so that their orphans are adopted by the nearest subreaper:
    // the old host's keeper.
    let script = format!(
        "mkfifo {folder}/in; sleep 3600 & echo $! > {folder}/sibling; \
         (setsid sh -c 'echo $$ > {folder}/host; export PROCLEDGER_IT_OPTIONS=containment=session; \
            exec {binary} --exact handle::as_a_host::as_a_host --nocapture --test-threads=1 \
            <> {folder}/in > {folder}/out 2>&1' &) ; wait",
        binary = binary.display()
    );
    let root = old.spawn("restarts", &script);
    let sibling = place.watch("sibling");
    let new = place.watch("host");
    eventually("the new host opens the ledger", || {
        let text = fs::read_to_string(place.path().join("out")).unwrap_or_default();
        text.contains("host> open").then_some(())
    });
    place.send_to_fifo(&format!("spawn fresh {}; exec sleep 3600", daemon(&place, "fresh-daemon")));
    let fresh = "SELECT pid FROM process WHERE task_id = 'fresh' AND root IS NULL";
    let fresh = eventually("it spawns", || place.sqlite3(fresh).parse().ok().map(PidfdWatch::on));
    let daemon = place.watch("fresh-daemon");
    old.crash();
    until("the old tree is gone", || root.is_dead() && sibling.is_dead());
    stays("the new host and its programs live", || {
        !new.is_dead() && !fresh.is_dead() && !daemon.is_dead()
    });
    place.send_to_fifo("quit");
    until("the new host stops in order", || new.is_dead());
    assert!(fresh.is_dead());
}

/// A host of another ledger is treated like any other program: it ends with its task, and its own
/// programs with it.
#[test]
fn a_host_of_another_ledger_ends_with_its_task() {
    let place = Place::new();
    let mut outer = Host::start(&place, HOST);
    let binary = std::env::current_exe().expect("this binary");
    let folder = place.path().display();
    let script = format!(
        "mkfifo {folder}/in; (setsid sh -c 'echo $$ > {folder}/host; export PROCLEDGER_IT_HOST={folder}/inner.db; \
            exec {binary} --exact handle::as_a_host::as_a_host --nocapture --test-threads=1 \
            <> {folder}/in > {folder}/out 2>&1' &) ; exec sleep 3600",
        binary = binary.display()
    );
    let root = outer.spawn("nests", &script);
    let inner = place.watch("host");
    eventually("the inner host opens its ledger", || {
        let text = fs::read_to_string(place.path().join("out")).unwrap_or_default();
        text.contains("host> open").then_some(())
    });
    place.send_to_fifo(&format!("spawn deep {}; exec sleep 3600", daemon(&place, "deep-daemon")));
    let daemon = place.watch("deep-daemon");
    outer.crash();
    until("all of it is gone", || root.is_dead() && inner.is_dead() && daemon.is_dead());
    until("nothing is left", || place.alive().is_empty());
}
