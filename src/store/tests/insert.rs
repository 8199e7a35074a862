use super::fixture::*;
use crate::{
    error::Kind,
    model::{
        End, EndReason, ExitStatus, Life, Limits, Millis, NewProcess, Outcome, RootEnd, Settled,
        State, StopHow,
    },
};

use std::time::Duration;

#[test]
fn a_row_is_read_as_it_was_written() {
    let f = Fixture::new();
    let mut new = process(f.me, "a; DROP TABLE process", 10);
    new.peak_rss = Some(7);
    new.spec.limits = Limits {
        survive: true,
        grace: Duration::from_millis(250),
        max_runtime: Some(Duration::from_mins(1)),
        max_rss: Some(u64::MAX),
    };
    new.spec.command = vec!["sh".to_owned(), "-c".to_owned(), "echo \"\u{1}\u{fffd}'\"".to_owned()];
    let row = f.get(f.insert(new.clone()));
    assert_eq!((row.owner, row.owner_program.as_str(), row.life), (f.me, "api", Life::Running));
    assert_eq!((row.peak_rss, row.cpu), (Some(7), None));
    // The whole identity, unsigned numbers included.
    assert_eq!(format!("{:?}", row.spec), format!("{:?}", new.spec));
}

#[test]
fn a_task_that_runs_here_is_refused_and_only_that_item() {
    let f = Fixture::new();
    for (pid, state) in [(10, State::Running), (11, State::Ending), (12, State::Survived)] {
        f.row(f.me, pid, state);
    }
    let batch = ["task-10", "task-11", "task-12", "other"].map(|name| process(f.me, name, 50));
    let answers = f.insert_all(batch).expect("committed");
    for (answer, pid) in answers.iter().zip([10, 11, 12]) {
        let error = answer.row.as_ref().expect_err("refused");
        assert_eq!(error.kind(), Kind::AlreadyRunning);
        assert!(error.to_string().contains(&format!("`task-{pid}`")), "{error}");
        assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
    }
    assert!(answers[3].row.is_ok());
    assert_eq!(f.store.live().expect("read").len(), 4);
}

#[test]
fn a_task_twice_in_one_batch_is_inserted_once() {
    let f = Fixture::new();
    let batch = [process(f.me, "a", 10), process(f.me, "a", 11)];
    let answers = f.insert_all(batch).expect("committed");
    assert!(answers[0].row.is_ok());
    assert_eq!(answers[1].row.as_ref().expect_err("refused").kind(), Kind::AlreadyRunning);
}

fn nameless(mut new: NewProcess) -> NewProcess {
    new.spec.task_id = None;
    new
}

#[test]
fn rows_that_do_not_prevent_a_new_root() {
    let f = Fixture::new();
    let far = f.store.add_instance(&instance("api", elsewhere(), 3)).expect("recorded");
    f.insert(process(far, "far", 10));
    f.row(f.me, 11, State::Ended);
    let root = f.row(f.me, 12, State::Running);
    f.insert(below(root, process(f.me, "below", 13)));
    f.row(f.me, 14, State::Survived);
    f.insert(nameless(process(f.me, "x", 15)));
    let again = [
        process(f.me, "far", 20),
        process(f.me, "task-11", 21),
        process(f.me, "below", 22),
        NewProcess { allow_survivor: true, ..process(f.me, "task-14", 23) },
        nameless(process(f.me, "x", 24)),
        below(root, process(f.me, "task-12", 25)),
    ];
    for answer in f.insert_all(again).expect("committed") {
        assert!(answer.row.is_ok(), "{answer:?}");
    }
}

/// None of boot, namespace and time offset identifies a PID scope by itself.
#[test]
fn a_pid_scope_has_three_parts() {
    let f = Fixture::new();
    f.insert(process(f.me, "a", 10));
    let mut scopes = [here(), here(), here()];
    scopes[0].boot_id = elsewhere().boot_id;
    scopes[1].pid_namespace = 5;
    scopes[2].boottime_offset = 5;
    for scope in scopes {
        let owner = f.store.add_instance(&instance("api", scope, 3)).expect("recorded");
        let mut new = process(owner, "a", 11);
        new.spec.identity = identity(scope, 11);
        assert!(f.store.insert_one(&scope, &new).is_ok(), "{scope:?}");
    }
}

#[test]
fn an_allowed_survivor_still_blocks_once_it_is_being_ended() {
    let f = Fixture::new();
    f.row(f.me, 10, State::Ending);
    let new = NewProcess { allow_survivor: true, ..process(f.me, "task-10", 11) };
    let error = f.store.insert_one(&here(), &new).expect_err("refused");
    assert_eq!(error.kind(), Kind::AlreadyRunning);
}

#[test]
fn a_root_and_its_strays_are_settled_together() {
    let f = Fixture::new();
    let root = f.row(f.me, 10, State::Running);
    let strays = vec![stray(f.me, root, 11), stray(f.me, root, 12)];
    let ends = [RootEnd { process: root, end: end(EndReason::Exited), strays, kept: Vec::new() }];
    let recorded = f.store.settle_roots(f.me, &ends).expect("committed");
    assert_eq!(f.get(root).life, Life::Ended(ends[0].end.clone()));
    let below = f.store.descendants(&[root]).expect("read")[&root].live.clone();
    assert_eq!(recorded[&root], below);
    assert!(below.iter().all(|(id, _)| {
        let row = f.store.process(*id).expect("read").expect("there");
        (row.life.state(), row.life.claimed_by()) == (State::Ending, Some(f.me))
    }));
}

#[test]
fn kept_strays_are_recorded_with_the_end_of_their_root_and_have_no_owner() {
    let f = Fixture::new();
    let root = f.row(f.me, 10, State::Running);
    let seen = f.insert(NewProcess { claimed: false, ..stray(f.me, root, 11) });
    let earlier = Settled { row: seen.into(), ..kept(f.me, root, 11) };
    let ends = [RootEnd {
        process: root,
        end: end(EndReason::Exited),
        strays: Vec::new(),
        kept: vec![earlier, kept(f.me, root, 12)],
    }];
    f.store.settle_roots(f.me, &ends).expect("committed");
    assert!(f.store.live().expect("read").is_empty());
    let leaks = f.store.leaks(None, None, None).expect("read");
    assert_eq!(leaks.len(), 2);
    assert!(leaks.iter().all(|leak| leak.outcome == Outcome::Kept));
    let reasons = "SELECT count(*) FROM process WHERE end_reason = 'released' AND root IS NOT NULL";
    assert_eq!(f.number(reasons), 2);
    let below = f.store.descendants(&[root]).expect("read")[&root].spared.clone();
    assert_eq!(below.iter().map(|kept| kept.pid.get()).collect::<Vec<_>>(), [11, 12]);
    let found_at = Millis::from(leaks[0].found_at);
    assert!(f.store.was_kept(&below[1], found_at).expect("read"));
    assert!(!f.store.was_kept(&below[1], Millis(found_at.0 + 1)).expect("read"));
    let other = crate::identity::Identity { start_tick: 5, ..below[1] };
    assert!(!f.store.was_kept(&other, found_at).expect("read"));
}

#[test]
fn a_root_that_another_instance_ended_leaves_no_strays() {
    let f = Fixture::new();
    let other = f.instance("cli", 2);
    let claimed = f.row(f.me, 10, State::Running);
    f.put(claimed, State::Ending, Some(other));
    let ended = f.row(f.me, 11, State::Ended);
    let anothers = f.row(other, 12, State::Running);
    let survived = f.row(f.me, 13, State::Survived);
    let ends = [claimed, ended, anothers, survived].map(|root| RootEnd {
        process: root,
        end: end(EndReason::Exited),
        strays: vec![stray(f.me, root, 20)],
        kept: vec![kept(f.me, root, 21)],
    });
    let settled = f.store.settle_roots(f.me, &ends).expect("committed");
    assert_eq!(settled.into_keys().collect::<Vec<_>>(), [survived], "a survivor that is gone now");
    assert_eq!(f.number("SELECT count(*) FROM process"), 6, "a stray and what is kept, of the one");
    assert_eq!(f.state(claimed), State::Ending);
    // The instance that ended the row could not observe the status; its owner did.
    let End { reason, status, .. } = *self::ended(&f.get(ended));
    assert_eq!((reason, status), (EndReason::Exited, ExitStatus::Exited(3)));
}

#[test]
fn a_signal_and_an_unobserved_end_are_distinguished() {
    let f = Fixture::new();
    for (pid, status) in
        [(10, ExitStatus::Signaled(9)), (11, ExitStatus::Unobserved), (12, ExitStatus::Exited(0))]
    {
        let id = f.row(f.me, pid, State::Running);
        let end = End { status, ..end(EndReason::Gone) };
        assert!(f.store.end(id, State::Running, end, None).expect("committed"));
        assert_eq!(ended(&f.get(id)).status, status);
    }
}

#[test]
fn an_instance_is_read_as_it_was_written_and_stops_once() {
    let f = Fixture::new();
    let row = f.store.instance(f.me).expect("read").expect("there");
    let new = instance("api", here(), 1);
    assert_eq!((row.program, row.identity), (new.program, new.identity));
    assert_eq!((row.lock_name, row.ledger_file), (new.lock_name, f.store.file()));
    assert_eq!(row.stopped_at, None);
    let written = f.number("SELECT count(*) FROM instance WHERE uid = 1000 AND started_at = 1000");
    assert_eq!(written, 1, "what only a person reads");
    let at = crate::model::Millis(7);
    assert!(f.store.stop_instance(f.me, StopHow::Clean, at).expect("committed"));
    assert!(!f.store.stop_instance(f.me, StopHow::Crashed, at).expect("committed"), "only once");
    let row = f.store.instance(f.me).expect("read").expect("there");
    assert_eq!((row.stopped_at, row.stopped_how), (Some(at), Some(StopHow::Clean)));
    assert!(f.store.instance(crate::model::InstanceId(99)).expect("read").is_none());
}

#[test]
fn an_instance_is_checked_while_it_may_have_left_something() {
    let f = Fixture::new();
    let [idle, owner, claimant, done] = [2, 3, 4, 5].map(|pid| f.instance("api", pid));
    f.row(owner, 10, State::Survived);
    let row = f.row(f.me, 11, State::Running);
    f.put(row, State::Ending, Some(claimant));
    f.row(done, 12, State::Ended);
    for id in [owner, claimant, done] {
        f.store.stop_instance(id, StopHow::Clean, crate::model::Millis(7)).expect("committed");
    }
    let judged: Vec<_> =
        f.store.instances_to_check().expect("read").into_iter().map(|row| row.id).collect();
    assert_eq!(judged, [f.me, idle, owner, claimant]);
}
