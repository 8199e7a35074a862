use super::fixture::*;
use crate::{
    model::{EndReason, Life, NewProcess, ProcessId, RootEnd, State},
    store::FoundMember,
};

/// Inserts members as an end does that `by` performs.
fn found(f: &Fixture, new: NewProcess) -> ProcessId {
    f.store.insert_found(vec![((), new)]).expect("committed")[0].1
}

/// A member as a pass of its owner finds it.
fn member(f: &Fixture, root: ProcessId, pid: i64) -> FoundMember {
    FoundMember { new: below(root, process(f.me, "a", pid)), may_stay: false }
}

fn rows_below(f: &Fixture) -> i64 {
    f.number("SELECT count(*) FROM process WHERE root IS NOT NULL")
}

#[test]
fn a_member_that_its_owner_recorded_after_the_claim_was_recorded_twice_by_the_end() {
    let f = Fixture::new();
    let other = f.instance("cli", 2);
    let root = f.row(f.me, 10, State::Running);
    f.store.claim(&[root], other, None, None).expect("committed");
    f.store.insert_members(&[member(&f, root, 11)]).expect("committed");
    assert_eq!(rows_below(&f), 1);

    let row = f.get(found(&f, stray(other, root, 11)));
    assert_eq!(rows_below(&f), 1);
    // It is settled by the instance that ends it.
    assert_eq!((row.owner, row.life), (f.me, Life::Ending { claimed_by: other }));
}

#[test]
fn a_member_that_an_end_recorded_was_recorded_again_by_its_owner() {
    let f = Fixture::new();
    let other = f.instance("cli", 2);
    let root = f.row(f.me, 10, State::Running);
    f.store.claim(&[root], other, None, None).expect("committed");
    let row = found(&f, stray(other, root, 11));
    let member = || member(&f, root, 11);
    f.store.insert_members(&[member()]).expect("committed");
    assert_eq!(rows_below(&f), 1, "while it is ended");
    f.put(row, State::Ended, None);
    f.store.insert_members(&[member()]).expect("committed");
    f.put(root, State::Ended, None);
    f.store.insert_members(&[member()]).expect("committed");
    assert_eq!(rows_below(&f), 1, "once it has ended");

    // Another process with the same PID, and one that the end did not find.
    let mut reused = member();
    reused.new.spec.identity.start_tick -= 1;
    f.store.insert_members(&[reused, self::member(&f, root, 12)]).expect("committed");
    assert_eq!(rows_below(&f), 3);
}

#[test]
fn a_member_of_two_trees_has_a_row_in_each() {
    let f = Fixture::new();
    let roots = [f.row(f.me, 10, State::Running), f.row(f.me, 11, State::Running)];
    let rows = roots.map(|root| found(&f, stray(f.me, root, 12)));
    assert_ne!(rows[0], rows[1]);
}

#[test]
fn a_row_that_another_instance_has_claimed_stays_with_it() {
    let f = Fixture::new();
    let (first, second) = (f.instance("cli", 2), f.instance("cli", 3));
    let root = f.row(f.me, 10, State::Running);
    let row = found(&f, stray(first, root, 11));
    assert_eq!(found(&f, stray(second, root, 11)), row);
    assert_eq!(f.get(row).life, Life::Ending { claimed_by: first });
}

#[test]
fn a_stray_that_a_pass_recorded_just_before_the_end_of_its_root_was_recorded_twice() {
    let f = Fixture::new();
    let root = f.row(f.me, 10, State::Running);
    f.store.insert_members(&[member(&f, root, 11)]).expect("committed");
    let end = RootEnd {
        process: root,
        end: end(EndReason::Exited),
        kept: Vec::new(),
        strays: vec![stray(f.me, root, 11)],
    };
    let recorded = f.store.settle_roots(f.me, [&end]).expect("committed");
    assert_eq!(rows_below(&f), 1);
    let (row, _) = recorded[&root][0];
    assert_eq!(f.get(row).life, Life::Ending { claimed_by: f.me });
}

#[test]
fn a_member_of_a_released_root_or_one_that_may_stay_was_recorded_and_ended() {
    let f = Fixture::new();
    let insert = |reason: EndReason, may_stay: bool| {
        let root = f.row(f.me, 10, State::Running);
        assert!(f.store.end(root, State::Running, end(reason), None).expect("committed"));
        let before = rows_below(&f);
        let found = FoundMember { may_stay, ..member(&f, root, 11) };
        f.store.insert_members(&[found]).expect("committed");
        rows_below(&f) > before
    };
    for reason in [EndReason::Released, EndReason::Forgotten] {
        assert!(!insert(reason, false) && !insert(reason, true), "{reason:?}");
    }
    for reason in [EndReason::Exited, EndReason::Gone, EndReason::Oom] {
        assert!(insert(reason, false) && !insert(reason, true), "{reason:?}");
    }
    assert!(insert(EndReason::Killed, true));
}
