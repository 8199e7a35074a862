//! Another instance kills a task while its owner records a member: the row is written just after
//! the claim, so the kill does not know the member, to which only that row leads.

use procledger::{ContainmentMode, Tracker};
use procledger_testing::PidfdWatch;

use crate::support::{Place, until};

/// A cgroup would lead to the member as well, and a monitor would record it once more.
fn owner(place: &Place) -> Tracker {
    let builder = Tracker::builder(place.ledger()).monitor(false);
    builder.containment(ContainmentMode::Session).open().expect("a ledger")
}

/// Starts a task with a member to which only its row leads, and kills the task as if that row had
/// been written just after the claim; returns the member, which runs.
fn kill_without_the_member(place: &Place, tracker: &Tracker) -> PidfdWatch {
    // A daemon without the environment of its task, whose parent exits once it is recorded.
    let daemon = "setsid env -i PATH=\"$PATH\" sh -c 'echo $$ > member; while :; do sleep 1; done'";
    let script = format!(
        "({daemon} {} & while [ ! -e recorded ]; do sleep 0.01; done) & \
         echo $! > parent; exec sleep 3600",
        place.marker()
    );
    tracker.spawn(place.job("misses", &script)).expect("spawned");
    let (member, parent) = (place.watch("member"), place.watch("parent"));
    let row = format!("FROM process WHERE root IS NOT NULL AND pid = {}", member.pid());
    until("a pass records the member", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3(&format!("SELECT count(*) {row}")) == "1"
    });
    std::fs::write(place.path().join("recorded"), "").expect("a file");
    until("only the row leads to it", || parent.is_dead());

    // The row is moved away during the kill.
    let id = place.sqlite3(&format!("SELECT id {row}"));
    let ledger = rusqlite::Connection::open(place.ledger()).expect("opens");
    let update = |columns: &str| {
        let update = format!("UPDATE process SET {columns} WHERE id = {id}");
        assert_eq!(ledger.execute(&update, []).expect("updated"), 1);
    };
    update("state = 'ended', ended_at = started_at, end_reason = 'gone'");
    let other = Tracker::builder(place.ledger()).open().expect("a second instance");
    assert_eq!(other.kill(&["misses"], "test").expect("killed").survived(), 0);
    other.shutdown().expect("stopped");
    assert!(!member.is_dead(), "the kill did not know it");
    update("state = 'running', ended_at = NULL, end_reason = NULL");
    member
}

#[track_caller]
fn assert_ended(place: &Place, member: &PidfdWatch) {
    assert!(member.is_dead());
    let row = "SELECT state, end_reason, end_rule_key FROM process WHERE pid = ";
    let row = place.sqlite3(&format!("{row} {} AND root IS NOT NULL", member.pid()));
    assert_eq!(row, "ended|killed|person_asked");
}

#[test]
fn a_member_that_was_recorded_during_a_kill_ran_on() {
    let place = Place::new();
    let tracker = owner(&place);
    let member = kill_without_the_member(&place, &tracker);
    until("the root is settled", || {
        tracker.health_pass().expect("a pass");
        member.is_dead()
    });
    assert_ended(&place, &member);
}

#[test]
fn a_member_that_was_recorded_during_a_kill_outlived_its_owner() {
    let place = Place::new();
    let tracker = owner(&place);
    let member = kill_without_the_member(&place, &tracker);
    tracker.shutdown().expect("stopped");
    assert_ended(&place, &member);
}

/// The member was left to its owner, as a process of another instance.
#[test]
fn a_member_that_its_owner_recorded_after_the_claim_was_spared_by_the_kill() {
    let place = Place::new();
    let tracker = owner(&place);
    let script = format!(
        "setsid sh -c 'echo $$ > member; while :; do sleep 1; done' {} & exec sleep 3600",
        place.marker()
    );
    tracker.spawn(place.job("misses", &script)).expect("spawned");
    let member = place.watch("member");
    let row = format!("FROM process WHERE root IS NOT NULL AND pid = {}", member.pid());
    until("a pass records the member", || {
        tracker.health_pass().expect("a pass");
        place.sqlite3(&format!("SELECT count(*) {row}")) == "1"
    });
    // The claim of the kill does not contain its row.
    let ledger = rusqlite::Connection::open(place.ledger()).expect("opens");
    let hide = "UPDATE process SET task_id = 'hidden' WHERE root IS NOT NULL";
    assert_ne!(ledger.execute(hide, []).expect("updated"), 0);
    let other = Tracker::builder(place.ledger()).open().expect("a second instance");
    assert_eq!(other.kill(&["misses"], "test").expect("killed").survived(), 0);
    assert!(member.is_dead());
    other.shutdown().expect("stopped");
    assert_eq!(place.sqlite3(&format!("SELECT state, end_reason {row}")), "ended|killed");
}
