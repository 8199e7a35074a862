use std::{
    sync::{Arc, Barrier},
    thread,
};

use super::fixture::*;
use crate::model::{
    DeadInstance, End, EndReason, ExitStatus, InstanceId, Millis, OrphanClaim, ProcessId, State,
    StopHow,
};

const AT: Millis = Millis(8_000);

fn claim(f: &Fixture, dead: &[DeadInstance]) -> OrphanClaim {
    f.store.claim_orphans(f.me, "api", None, dead, AT).expect("committed")
}

fn ids(rows: &[crate::model::ProcessRecord]) -> Vec<ProcessId> {
    rows.iter().map(|row| row.id).collect()
}

#[test]
fn rows_of_dead_instances_are_taken_over_and_the_instances_marked() {
    let f = Fixture::new();
    let gone = f.instance("api", 2);
    let rows = [State::Running, State::Survived, State::Ending, State::Ended]
        .map(|state| f.row(gone, 10 + state as i64, state));
    let mine = f.row(f.me, 20, State::Running);
    let answer = claim(&f, &[dead(gone)]);
    let mut claimed = ids(&answer.claimed);
    claimed.sort();
    assert_eq!(claimed, rows[..3], "its own claim died with it");
    for row in &answer.claimed {
        assert_eq!(
            (row.owner, row.life.state(), row.life.claimed_by()),
            (f.me, State::Ending, Some(f.me))
        );
    }
    assert!(answer.adopted.is_empty() && answer.gone.is_empty());
    assert_eq!(f.state(mine), State::Running);
    let stopped = f.store.instance(gone).expect("read").expect("there");
    assert_eq!((stopped.stopped_at, stopped.stopped_how), (Some(AT), Some(StopHow::Crashed)));
}

#[test]
fn a_clean_stop_keeps_its_record_but_not_its_rows() {
    let f = Fixture::new();
    let gone = f.instance("api", 2);
    let row = f.row(gone, 10, State::Running);
    f.store.stop_instance(gone, StopHow::Clean, Millis(5)).expect("committed");
    assert_eq!(ids(&claim(&f, &[dead(gone)]).claimed), [row]);
    let stopped = f.store.instance(gone).expect("read").expect("there");
    assert_eq!((stopped.stopped_at, stopped.stopped_how), (Some(Millis(5)), Some(StopHow::Clean)));
}

#[test]
fn a_process_that_is_certainly_gone_is_ended_without_a_check() {
    let f = Fixture::new();
    let old = f.store.add_instance(&instance("api", elsewhere(), 2)).expect("recorded");
    let rows = [
        f.insert(process(old, "a", 10)),
        f.insert(surviving(process(old, "b", 11))),
        f.insert(process(old, "c", 12)),
    ];
    f.put(rows[2], State::Ending, Some(old));
    let rebooted = DeadInstance {
        processes_gone: Some(EndReason::Rebooted),
        how: StopHow::Rebooted,
        ..dead(old)
    };
    let answer = claim(&f, &[rebooted]);
    assert_eq!(ids(&answer.gone), rows);
    assert!(answer.claimed.is_empty() && answer.adopted.is_empty());
    for row in &answer.gone {
        let End { at, status, reason, .. } = *ended(row);
        assert_eq!((at, status, reason), (AT.into(), ExitStatus::Unobserved, EndReason::Rebooted));
        assert_eq!(row.owner, old);
    }
}

#[test]
fn processes_marked_survive_are_adopted_by_the_same_program_only() {
    let f = Fixture::new();
    let same = f.instance("api", 2);
    let other = f.instance("batch", 3);
    let states = [State::Running, State::Ending, State::Survived];
    let rows = states.map(|state| {
        let id = f.insert(surviving(process(same, state.as_str(), 10 + state as i64)));
        f.put(id, state, (state == State::Ending).then_some(same));
        id
    });
    let left = f.insert(surviving(process(other, "left", 20)));
    let given_back = f.insert(surviving(process(other, "given back", 21)));
    f.put(given_back, State::Ending, Some(other));
    let answer = claim(&f, &[dead(same), dead(other)]);
    let mut adopted = ids(&answer.adopted);
    adopted.sort();
    assert_eq!(adopted, rows);
    for row in &answer.adopted {
        assert_eq!(
            (row.owner, row.life.state(), row.life.claimed_by()),
            (f.me, State::Running, None)
        );
        assert_eq!(row.spec.identity.scope, here(), "the first owner still names the PID scope");
    }
    assert!(answer.claimed.is_empty());
    for id in [left, given_back] {
        let row = f.get(id);
        assert_eq!(
            (row.owner, row.life.state(), row.life.claimed_by()),
            (other, State::Running, None)
        );
    }
}

#[test]
fn a_live_claimant_keeps_what_it_is_ending() {
    let f = Fixture::new();
    let gone = f.instance("api", 2);
    let person = f.instance("cli", 3);
    let row = f.row(gone, 10, State::Running);
    f.put(row, State::Ending, Some(person));
    let forced = DeadInstance { processes_gone: Some(EndReason::Gone), ..dead(gone) };
    for dead in [dead(gone), forced] {
        let answer = claim(&f, &[dead]);
        assert!(answer.claimed.is_empty() && answer.gone.is_empty());
        let row = f.get(row);
        assert_eq!(
            (row.owner, row.life.state(), row.life.claimed_by()),
            (gone, State::Ending, Some(person))
        );
    }
}

#[test]
fn a_live_owner_gets_back_what_a_dead_claimant_was_ending() {
    let f = Fixture::new();
    let owner = f.instance("api", 2);
    let person = f.instance("cli", 3);
    let row = f.row(owner, 10, State::Running);
    f.put(row, State::Ending, Some(person));
    let answer = claim(&f, &[dead(person)]);
    assert!(answer.claimed.is_empty());
    let row = f.get(row);
    assert_eq!((row.owner, row.life.state(), row.life.claimed_by()), (owner, State::Running, None));
}

/// A reaper died after it had taken rows over.
#[test]
fn the_next_reaper_takes_over_from_a_dead_one() {
    let f = Fixture::new();
    let gone = f.instance("api", 2);
    let reaper = f.instance("api", 3);
    let row = f.row(gone, 10, State::Running);
    let first = f.store.claim_orphans(reaper, "api", None, &[dead(gone)], AT).expect("committed");
    assert_eq!(ids(&first.claimed), [row]);
    assert!(claim(&f, &[dead(gone)]).claimed.is_empty(), "it is the reaper's now");
    assert_eq!(ids(&claim(&f, &[dead(reaper)]).claimed), [row]);
}

#[test]
fn rows_of_other_uids_are_left_untouched() {
    let f = Fixture::new();
    let gone = f.instance("api", 2);
    let ours = f.row(gone, 10, State::Running);
    let theirs = f.row(gone, 11, State::Running);
    f.sql("UPDATE process SET uid = 0 WHERE id = ?1", [theirs.0]);
    let answer = f.store.claim_orphans(f.me, "api", Some(UID), &[dead(gone)], AT);
    assert_eq!(ids(&answer.expect("committed").claimed), [ours]);
    let row = f.get(theirs);
    assert_eq!((row.owner, row.life.state()), (gone, State::Running));
}

#[test]
fn an_instance_does_not_claim_from_itself() {
    let f = Fixture::new();
    let row = f.row(f.me, 10, State::Running);
    assert!(claim(&f, &[dead(f.me)]).claimed.is_empty());
    assert_eq!(f.state(row), State::Running);
    assert_eq!(f.store.instance(f.me).expect("read").expect("there").stopped_at, None);
}

/// Four reapers, each with its own store, claim repeatedly: every row goes to exactly one of them.
#[test]
fn two_reapers_never_get_the_same_row() {
    const REAPERS: i64 = 4;
    let f = Fixture::new();
    for round in 0..10 {
        let gone = f.instance("api", 100 + round);
        let rows: Vec<_> =
            (0..20).map(|n| f.row(gone, 1_000 + round * 100 + n, State::Running)).collect();
        let barrier = Arc::new(Barrier::new(4));
        let reapers: Vec<_> = (0..REAPERS)
            .map(|n| {
                let (me, barrier) = (f.instance("api", 10 + n), Arc::clone(&barrier));
                let path = f.store.path().to_owned();
                thread::spawn(move || reap(&path, me, gone, &barrier))
            })
            .collect();
        let mut all: Vec<_> =
            reapers.into_iter().flat_map(|reaper| reaper.join().expect("no panic")).collect();
        all.sort();
        assert_eq!(all, rows, "round {round}");
    }
}

fn reap(
    path: &std::path::Path,
    me: InstanceId,
    gone: InstanceId,
    barrier: &Barrier,
) -> Vec<ProcessId> {
    let store = open(path).expect("opens");
    barrier.wait();
    let answer = store.claim_orphans(me, "api", None, &[dead(gone)], AT).expect("committed");
    ids(&answer.claimed)
}
