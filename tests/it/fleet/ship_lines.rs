//! `ship --to -`, of a ledger that is set back.

use std::{
    fs,
    process::{Command, Stdio},
};

use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;

use super::{comparison::Ledger, scene::copy};
use crate::support::{Guard, Place, pidfd, until};

/// The backup takes the place of the file that the shipper has open.
#[test]
fn a_ledger_that_is_replaced_while_it_is_shipped_is_followed() {
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    let backup = place.path().join("backup.db");
    copy(&place.ledger(), &backup);
    ledger.start(1);
    let lines = place.path().join("lines");
    let mut shipper = Command::new(env!("CARGO_BIN_EXE_procledger"));
    shipper.arg("--db").arg(place.ledger()).args(["ship", "--to", "-", "--interval", "100ms"]);
    shipper.stdin(Stdio::null()).stdout(fs::File::create(&lines).expect("a file"));
    let mut shipper = Guard(shipper.spawn().expect("it starts"));
    let printed = |word: &str| fs::read_to_string(&lines).expect("text").contains(word);
    until("it is shipped", || printed("task-1"));
    let fd = pidfd(shipper.pid()).expect("it runs");
    pidfd_send_signal(&fd, Signal::STOP).expect("stopped");
    drop(ledger);
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(place.path().join(format!("ledger.db{end}")));
    }
    fs::rename(&backup, place.ledger()).expect("replaced");
    Ledger::open(&place.ledger()).sql("UPDATE process SET task_id = 'of the backup'");
    Ledger::open(&place.ledger()).start(3);
    pidfd_send_signal(&fd, Signal::CONT).expect("continued");
    until("the backup is shipped", || printed("of the backup") && printed("task-3"));
    assert!(shipper.is_running());
}

#[test]
fn a_survivor_that_a_restored_ledger_does_not_know_is_reported_as_lost() {
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    let backup = place.path().join("backup.db");
    copy(&place.ledger(), &backup);
    ledger.start(2);
    ledger.leak(2);
    let cursor = place.path().join("cursor");
    let ship = || {
        let words = ["ship", "--to", "-", "--once", "--cursor", cursor.to_str().expect("text")];
        let text = String::from_utf8(place.procledger(&words).stdout).expect("text");
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        lines.collect::<Vec<Value>>()
    };
    let survivors: Vec<Value> =
        ship().into_iter().filter(|it| it["outcome"] == "survived").collect();
    assert_eq!(survivors.len(), 1);
    copy(&backup, &place.ledger());
    ledger.start(3);
    let lost: Vec<Value> = ship().into_iter().filter(|it| it["type"] == "lost_leak").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0]["print"], survivors[0]["print"]);
}
