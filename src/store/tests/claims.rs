use super::fixture::*;
use crate::{
    model::{
        End, EndReason, ExitStatus, LeakKind, Millis, Outcome, PassKind, Settled, Sighting, State,
        Verdict,
    },
    store::TakeOver,
};

use std::time::Duration;

#[test]
fn a_claim_is_granted_once() {
    let f = Fixture::new();
    let other = f.instance("cli", 2);
    let ids = [State::Running, State::Survived, State::Ending, State::Ended]
        .map(|state| f.row(f.me, 10 + state as i64, state));
    let claimed = f.store.claim(&ids, other, None, Some("ann")).expect("committed");
    assert_eq!(claimed.iter().map(|row| row.id).collect::<Vec<_>>(), ids[..2]);
    for row in &claimed {
        assert_eq!((row.life.state(), row.life.claimed_by()), (State::Ending, Some(other)));
        assert_eq!((row.owner, row.requested_by.as_deref()), (f.me, Some("ann")));
    }
    assert!(f.store.claim(&ids, f.me, None, None).expect("committed").is_empty());
}

#[test]
fn a_claim_can_be_limited_to_an_owner() {
    let f = Fixture::new();
    let other = f.instance("api", 2);
    let ids = [f.row(f.me, 10, State::Running), f.row(other, 11, State::Running)];
    let claimed = f.store.claim(&ids, f.me, Some(f.me), None).expect("committed");
    assert_eq!(claimed.len(), 1);
    assert_eq!(f.state(ids[1]), State::Running);
}

#[test]
fn only_the_claimant_records_the_result() {
    let f = Fixture::new();
    let other = f.instance("cli", 2);
    let id = f.row(f.me, 10, State::Running);
    let leak = leak(LeakKind::Orphan, Outcome::Term);
    let ended = || Settled {
        leak: Some(leak.clone()),
        ..settled(id, Verdict::Ended(end(EndReason::Orphan)))
    };
    assert!(!f.record(other, ended()), "no claim");
    f.store.claim(&[id], f.me, None, None).expect("committed");
    assert!(!f.record(other, ended()));
    assert!(f.store.leaks(None, None, None).expect("read").is_empty(), "and no leak of it");
    assert!(f.record(f.me, ended()));
    assert!(!f.record(f.me, ended()), "only once");
    let row = f.get(id);
    assert_eq!((row.life.state(), row.life.claimed_by()), (State::Ended, None));
    let End { reason, status, .. } = *self::ended(&row);
    assert_eq!((reason, status), (EndReason::Orphan, ExitStatus::Exited(3)));
    assert_eq!(f.store.leaks(None, None, None).expect("read").len(), 1);
}

#[test]
fn a_survivor_and_an_unknown_stay_with_the_reason() {
    let f = Fixture::new();
    let survivor = f.row(f.me, 10, State::Ending);
    let unknown = f.row(f.me, 11, State::Ending);
    let both = [
        settled(survivor, Verdict::Survived("not permitted".to_owned())),
        settled(unknown, Verdict::Unknown("cannot be read".to_owned())),
    ];
    assert_eq!(f.store.record(f.me, None, &both).expect("committed"), 2);
    let row = f.get(survivor);
    assert_eq!((row.life.state(), row.life.claimed_by()), (State::Survived, None));
    assert_eq!(row.last_error.as_deref(), Some("not permitted"));
    let row = f.get(unknown);
    assert_eq!((row.life.state(), row.life.claimed_by()), (State::Running, None));
    assert_eq!(row.last_error.as_deref(), Some("cannot be read"));
}

#[test]
fn a_survivor_that_is_found_again_is_one_leak() {
    for last in [Outcome::Kill, Outcome::Term] {
        let f = Fixture::new();
        let id = f.row(f.me, 10, State::Running);
        let outcomes = [Outcome::Survived, Outcome::Survived, last];
        for (round, outcome) in (0_i64..).zip(outcomes) {
            f.store.claim(&[id], f.me, None, None).expect("committed");
            let mut again = leak(LeakKind::Orphan, outcome);
            again.found_at = Millis(1_000 + round);
            let verdict = match outcome {
                Outcome::Survived => Verdict::Survived("still there".to_owned()),
                _ => Verdict::Ended(end(EndReason::Orphan)),
            };
            let settled = Settled { row: id.into(), verdict, leak: Some(again) };
            let pass = pass(PassKind::Orphan, round);
            let took = f.store.record(f.me, Some(&pass), &[settled]).expect("committed");
            assert_eq!(took, 1, "{round}");
        }
        let leaks = f.store.leaks(None, None, None).expect("read");
        assert_eq!(leaks.len(), 1);
        assert_eq!((leaks[0].outcome, leaks[0].found_at), (last, Millis(1_000).into()));
        assert_eq!(leaks[0].died_after, Some(Duration::from_millis(12)));
        assert_eq!(leaks[0].stop_signal, (last == Outcome::Term).then_some(2));
        assert_eq!(f.number("SELECT pass FROM leak"), 3, "the last pass that found it");
        assert_eq!(f.store.passes(None, 10).expect("read").len(), 3);
    }
}

#[test]
fn a_survivor_that_is_found_dead_is_no_longer_reported_as_a_survivor() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Running);
    f.store.claim(&[id], f.me, None, None).expect("committed");
    let leak = Some(leak(LeakKind::Orphan, Outcome::Survived));
    let verdict = Verdict::Survived("x".to_owned());
    f.record(f.me, Settled { row: id.into(), verdict, leak });
    f.store.end(id, State::Survived, end(EndReason::Gone), None).expect("committed");
    assert_eq!(f.store.leaks(None, None, None).expect("read")[0].outcome, Outcome::Gone);
}

#[test]
fn one_process_can_be_a_leak_of_two_kinds() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Running);
    for kind in [LeakKind::Stray, LeakKind::Orphan] {
        f.store.claim(&[id], f.me, None, None).expect("committed");
        let leak = Some(leak(kind, Outcome::Survived));
        let verdict = Verdict::Survived("x".to_owned());
        f.record(f.me, Settled { row: id.into(), verdict, leak });
    }
    assert_eq!(f.store.leaks(None, None, None).expect("read").len(), 2);
}

#[test]
fn end_needs_the_expected_state() {
    let f = Fixture::new();
    for state in State::ALL {
        for expected in State::ALL {
            let id = f.row(f.me, 10, *state);
            let took = f.store.end(id, *expected, end(EndReason::Gone), None).expect("committed");
            assert_eq!(took, state == expected && *state != State::Ended, "{state} {expected}");
            f.put(id, State::Ended, None);
        }
    }
}

#[test]
fn forget_closes_any_live_row_and_records_the_person() {
    let f = Fixture::new();
    let ids: Vec<_> =
        State::ALL.iter().map(|state| f.row(f.me, 10 + *state as i64, *state)).collect();
    assert_eq!(f.store.forget(&ids, "ann", Millis(50)).expect("committed"), 3);
    for id in &ids[..3] {
        let row = f.get(*id);
        assert_eq!((row.life.state(), row.life.claimed_by()), (State::Ended, None));
        let End { at, status, reason, .. } = *ended(&row);
        assert_eq!(reason, EndReason::Forgotten);
        assert_eq!((status, at), (ExitStatus::Unobserved, Millis(50).into()));
        assert_eq!(row.requested_by.as_deref(), Some("ann"));
    }
    assert_eq!(f.get(ids[3]).requested_by, None, "what had ended is history");
}

#[test]
fn only_the_owner_releases_a_row_that_is_not_being_ended() {
    let f = Fixture::new();
    let other = f.instance("api", 2);
    let id = f.row(f.me, 10, State::Running);
    assert!(!f.store.release(id, other, Millis(50)).expect("committed"));
    assert!(f.store.release(id, f.me, Millis(50)).expect("committed"));
    assert!(!f.store.release(id, f.me, Millis(51)).expect("committed"), "only once");
    let End { at, reason, .. } = *ended(&f.get(id));
    assert_eq!((reason, at), (EndReason::Released, Millis(50).into()));
    let ending = f.row(f.me, 11, State::Ending);
    assert!(!f.store.release(ending, f.me, Millis(50)).expect("committed"));
}

fn seen(process: crate::model::ProcessId, rss: u64, cpu_ms: u64) -> Sighting {
    Sighting { process, rss, cpu: Duration::from_millis(cpu_ms) }
}

#[test]
fn only_changed_observations_are_written() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Running);
    let ended = f.row(f.me, 11, State::Ended);
    for (rss, cpu, written) in
        [(100, 10, 1), (100, 900, 0), (50, 10, 0), (101, 20, 1), (50, 1_020, 1), (101, 2_019, 0)]
    {
        let sightings = [seen(id, rss, cpu), seen(ended, 1 << 30, 1 << 20)];
        assert_eq!(f.store.observe(&sightings).expect("committed"), written, "{rss} {cpu}");
    }
    let row = f.get(id);
    assert_eq!((row.peak_rss, row.cpu), (Some(101), Some(Duration::from_millis(1_020))));
    assert_eq!(f.get(ended).peak_rss, None);
}

#[test]
fn an_observation_without_changes_does_not_wait_for_a_writer() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Running);
    f.store.observe(&[seen(id, 100, 10)]).expect("committed");
    let mut other = rusqlite::Connection::open(f.store.path()).expect("opens");
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate);
    let held = held.expect("begins");
    assert_eq!(f.store.observe(&[seen(id, 100, 20)]).expect("no transaction at all"), 0);
    drop(held);
}

/// A person's command died between its claim and the kill.
#[test]
fn an_owner_takes_back_rows_of_a_dead_claimant() {
    let f = Fixture::new();
    let [dead, living] = [2, 3].map(|pid| f.instance("cli", pid));
    let rows = [10, 11].map(|pid| f.row(f.me, pid, State::Running));
    for (by, row) in [dead, living].into_iter().zip(rows) {
        assert_eq!(f.store.claim(&[row], by, None, Some("a person")).expect("claimed").len(), 1);
    }
    assert_eq!(f.store.give_back(f.me, &[dead]).expect("written"), 1);
    let state = |row| f.store.process(row).expect("read").expect("there").life.state();
    assert_eq!(rows.map(state), [State::Running, State::Ending]);
}

#[test]
fn a_claim_of_a_dead_instance_is_taken_over_and_that_of_a_live_one_only_on_request() {
    let f = Fixture::new();
    let [dead, living, person] = [2, 3, 4].map(|pid| f.instance("cli", pid));
    let rows = [10, 11].map(|pid| f.row(f.me, pid, State::Running));
    for (by, row) in [dead, living].into_iter().zip(rows) {
        f.store.claim(&[row], by, None, Some("ann")).expect("claimed");
    }
    let gone = [dead];
    let claim = |over| {
        let claimed = f.store.claim_over(&rows, person, None, None, over).expect("committed");
        claimed.into_iter().map(|(row, former)| (row.id, former)).collect::<Vec<_>>()
    };
    assert_eq!(claim(TakeOver::default()), []);
    assert_eq!(claim(TakeOver { dead: &gone, live: false }), [(rows[0], Some(dead))]);
    assert_eq!(f.get(rows[0]).requested_by.as_deref(), Some("ann"), "the first person is kept");
    assert_eq!(
        claim(TakeOver { dead: &gone, live: true }),
        [(rows[0], Some(person)), (rows[1], Some(living))]
    );
    // The former claimant no longer has any effect.
    let late = settled(rows[1], Verdict::Survived("x".to_owned()));
    assert!(!f.record(living, late));
    assert_eq!(f.get(rows[1]).life.claimed_by(), Some(person));
}

/// Descendants used to stay `ending` forever, claimed by an owner that had given up their root.
#[test]
fn descendants_are_claimed_only_with_their_root() {
    let f = Fixture::new();
    let other = f.instance("cli", 2);
    let root = f.row(f.me, 10, State::Running);
    let below = f.insert(stray(f.me, root, 11));
    f.put(below, State::Running, None);
    f.store.claim(&[root], other, None, Some("ann")).expect("claimed");
    let trees = [vec![root, below]];
    let gone = [other];
    let claim = |over| f.store.claim_own(&trees, f.me, over).expect("committed");
    assert_eq!(claim(TakeOver::default()), []);
    assert_eq!(f.state(below), State::Running);
    assert_eq!(claim(TakeOver { dead: &gone, live: false }), [root, below]);
}

#[test]
fn the_status_that_the_owner_observed_reaches_the_row_before_and_after_it_is_ended() {
    for first in [true, false] {
        for asked_by in [None, Some("ann")] {
            let f = Fixture::new();
            let other = f.instance("cli", 2);
            let id = f.row(f.me, 10, State::Running);
            f.store.claim(&[id], other, None, asked_by).expect("claimed");
            let unseen = End { status: ExitStatus::Unobserved, ..end(EndReason::Gone) };
            let note =
                || f.store.note_status(id, f.me, ExitStatus::Signaled(15), false).expect("written");
            assert!(
                !f.store.note_status(id, other, ExitStatus::Exited(1), false).expect("written"),
                "not its own"
            );
            if !first {
                assert!(note());
                assert_eq!(
                    (f.state(id), f.get(id).life.claimed_by()),
                    (State::Ending, Some(other))
                );
            }
            let ended = settled(id, Verdict::Ended(unseen));
            assert!(f.record(other, ended));
            if first {
                assert!(note());
            }
            assert!(!note(), "once");
            let row = f.get(id);
            let end = self::ended(&row);
            assert_eq!(end.status, ExitStatus::Signaled(15));
            let reason = match (first, asked_by) {
                (false, Some(_)) => EndReason::Killed,
                _ => EndReason::Exited,
            };
            assert_eq!(end.reason, reason);
        }
    }
}

/// The owner's record comes too late: a person's kill has taken the tree over.
#[test]
fn an_owner_whose_claim_was_taken_over_still_records_the_status() {
    let f = Fixture::new();
    let person = f.instance("cli", 2);
    let id = f.row(f.me, 10, State::Running);
    f.store.claim(&[id], f.me, None, None).expect("claimed");
    let over = TakeOver { dead: &[], live: true };
    f.store.claim_over(&[id], person, None, Some("ann"), over).expect("taken over");
    let ended = || settled(id, Verdict::Ended(end(EndReason::Terminated)));
    assert!(!f.record(f.me, ended()));
    let row = f.get(id);
    assert_eq!((row.life.state(), row.life.claimed_by()), (State::Ending, Some(person)));
    let killed = End { status: ExitStatus::Unobserved, ..end(EndReason::Killed) };
    f.record(person, settled(id, Verdict::Ended(killed)));
    let End { reason, status, .. } = *self::ended(&f.get(id));
    assert_eq!((reason, status), (EndReason::Killed, ExitStatus::Exited(3)));
}

#[test]
fn a_descendant_belongs_to_the_owner_of_its_root() {
    let f = Fixture::new();
    let person = f.instance("cli", 2);
    let root = f.row(f.me, 10, State::Running);
    f.store.claim(&[root], person, None, Some("ann")).expect("claimed");
    let found = f.get(f.insert(stray(person, root, 11)));
    assert_eq!((found.owner, found.life.claimed_by()), (f.me, Some(person)));
}

#[test]
fn an_attempt_that_was_interrupted_leaves_no_trace_of_a_failure() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Running);
    f.store.claim(&[id], f.me, None, None).expect("claimed");
    let given_back = settled(id, Verdict::Interrupted);
    assert!(f.record(f.me, given_back));
    let row = f.get(id);
    assert_eq!(
        (row.life.state(), row.life.claimed_by(), row.last_error),
        (State::Running, None, None)
    );
}
