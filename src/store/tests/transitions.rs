//! Every operation, from every state: its effect on the row must be a path of [`Life::apply`], and
//! `ended` is final.

use super::fixture::*;
use crate::model::{
    DeadInstance, EndReason, Event, InstanceId, Life, Millis, ProcessId, RootEnd, State, Verdict,
};

/// A row with its owner and claimant.
struct Case<'a> {
    f: &'a Fixture,
    owner: InstanceId,
    id: ProcessId,
}

type Verb = fn(&Case<'_>, State);
#[derive(Clone, Copy)]
enum Kind {
    Claim,
    Died,
    Survived,
    GiveBack,
    Adopt,
}
use Kind::{Adopt, Claim, Died, GiveBack, Survived};

impl Kind {
    fn event(self, by: InstanceId) -> Event {
        match self {
            Claim => Event::Claim(by),
            Died => Event::Died(end(EndReason::Gone)),
            Survived => Event::Survived,
            GiveBack => Event::GiveBack,
            Adopt => Event::Adopt,
        }
    }
}

fn life(state: State, owner: InstanceId) -> Life {
    match state {
        State::Running => Life::Running,
        State::Ending => Life::Ending { claimed_by: owner },
        State::Survived => Life::Survived,
        State::Ended => Life::Ended(end(EndReason::Gone)),
    }
}

/// The events that an operation stands for, from a state; empty if it must leave the row alone.
type Events = fn(State) -> &'static [Kind];

fn unless_ending(state: State, events: &'static [Kind]) -> &'static [Kind] {
    if matches!(state, State::Running | State::Survived) { events } else { &[] }
}

fn if_live(state: State, events: &'static [Kind]) -> &'static [Kind] {
    if state == State::Ended { &[] } else { events }
}

fn if_ending(state: State, events: &'static [Kind]) -> &'static [Kind] {
    if state == State::Ending { events } else { &[] }
}

const VERBS: [(&str, Verb, Events); 12] = [
    ("claim", claim, |state| unless_ending(state, &[Claim])),
    ("end", end_it, |state| if_live(state, &[Died])),
    ("settle_roots", settle_root, |state| unless_ending(state, &[Died])),
    ("release", release, |state| unless_ending(state, &[Died])),
    ("forget", forget, |state| if_live(state, &[Died])),
    // The owner may end a row even if its claim could not be written.
    ("record ended", record_ended, |state| if_live(state, &[Died])),
    ("record survived", record_survived, |state| if_ending(state, &[Survived])),
    ("record unknown", record_unknown, |state| if_ending(state, &[GiveBack])),
    ("orphan claimed", orphan_claimed, |state| if_live(state, &[Claim])),
    ("orphan adopted", orphan_adopted, |state| match state {
        State::Running => &[Adopt],
        State::Ending => &[GiveBack, Adopt],
        State::Survived => &[Claim, GiveBack, Adopt],
        State::Ended => &[],
    }),
    ("orphan left", orphan_left, |state| if_ending(state, &[GiveBack])),
    ("orphan gone", orphan_gone, |state| if_live(state, &[Died])),
];

#[test]
fn every_operation_agrees_with_the_state_machine() {
    for (name, verb, events) in VERBS {
        for &state in State::ALL {
            let f = Fixture::new();
            let owner = f.instance("api", 2);
            let id = f.row(owner, 10, state);
            verb(&Case { f: &f, owner, id }, state);
            let mut events = events(state).iter().map(|kind| kind.event(owner));
            let expected = events.try_fold(life(state, owner), |life, event| life.apply(event));
            let expected = expected.expect("a path of the machine").state();
            assert_eq!(f.state(id), expected, "{name}, {state}");
        }
    }
}

fn claim(case: &Case<'_>, _: State) {
    case.f.store.claim(&[case.id], case.owner, None, None).expect("committed");
}

fn end_it(case: &Case<'_>, state: State) {
    case.f.store.end(case.id, state, end(EndReason::Gone), None).expect("committed");
}

fn settle_root(case: &Case<'_>, _: State) {
    let root = RootEnd {
        process: case.id,
        end: end(EndReason::Exited),
        strays: Vec::new(),
        kept: Vec::new(),
    };
    case.f.store.settle_roots(case.owner, &[root]).expect("committed");
}

fn release(case: &Case<'_>, _: State) {
    case.f.store.release(case.id, case.owner, Millis(9)).expect("committed");
}

fn forget(case: &Case<'_>, _: State) {
    case.f.store.forget(&[case.id], "ann", Millis(9)).expect("committed");
}

fn record(case: &Case<'_>, verdict: Verdict) {
    case.f.record(case.owner, settled(case.id, verdict));
}

fn record_ended(case: &Case<'_>, _: State) {
    record(case, Verdict::Ended(end(EndReason::Orphan)));
}

fn record_survived(case: &Case<'_>, _: State) {
    record(case, Verdict::Survived("x".to_owned()));
}

fn record_unknown(case: &Case<'_>, _: State) {
    record(case, Verdict::Unknown("x".to_owned()));
}

fn orphan(case: &Case<'_>, program: &str, survive: bool, gone: Option<EndReason>) {
    let f = case.f;
    f.sql("UPDATE process SET survive = ?1 WHERE id = ?2", (survive, case.id.0));
    let dead = DeadInstance { processes_gone: gone, ..dead(case.owner) };
    f.store.claim_orphans(f.me, program, None, &[dead], Millis(9)).expect("committed");
}

fn orphan_claimed(case: &Case<'_>, _: State) {
    orphan(case, "api", false, None);
}

fn orphan_adopted(case: &Case<'_>, _: State) {
    orphan(case, "api", true, None);
}

fn orphan_left(case: &Case<'_>, _: State) {
    orphan(case, "another program", true, None);
}

fn orphan_gone(case: &Case<'_>, _: State) {
    orphan(case, "api", false, Some(EndReason::Gone));
}
