//! Somebody holds the ledger's lock for longer than anybody waits, as with `BEGIN IMMEDIATE` typed into `sqlite3` and left.

use std::fs;

use crate::{
    gate_host::WriteLock,
    support::{Host, Place, until},
};

#[test]
fn what_ends_while_the_lock_is_held_is_recorded_once_it_is_free_and_its_task_can_run_again() {
    let place = Place::new();
    let end = place.path().join("end");
    let mut host = Host::start(&place, "");
    let left = host.spawn("left", "exec sleep 3600");
    let ends = host
        .spawn("ends", &format!("while [ ! -e {} ]; do sleep 0.02; done; exit 7", end.display()));

    let held = WriteLock::take(&place.ledger(), place.marker());
    fs::write(end, "").expect("a file");
    until("it ends", || ends.is_dead());
    assert_eq!(host.ask("wait ends"), "exit code 7");
    assert_eq!(host.ask("terminate left"), "1", "it is ended all the same");
    assert!(left.is_dead());
    let refused = host.ask("spawn new exec sleep 3600");
    assert!(refused.contains("another process holds its write lock, try again"), "{refused}");
    assert!(!place.alive().contains(&ends.pid()));
    let read = place.procledger(&["ps"]);
    assert!(read.status.success(), "who reads waits for nobody");
    held.release();

    // By hand: the next health pass, which would do it too, is 30 s away.
    for task in ["ends", "left", "new"] {
        host.spawn(task, "exec sleep 3600");
    }
    let rows = "SELECT task_id, end_reason, exit_code, exit_signal FROM history ORDER BY task_id";
    assert_eq!(place.sqlite3(rows), "ends|exited|7|\nleft|terminated||15");
    host.stop();
}
