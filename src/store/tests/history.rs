use super::fixture::*;
use crate::{
    model::{
        EndReason, InstanceId, LeakKind, Millis, Outcome, PassKind, ProcessId, Settled, State,
        StopHow, Verdict,
    },
    store::{LeakGrouping, Unshipped},
};

fn ended(f: &Fixture, owner: InstanceId, name: &str, pid: i64, at: i64) -> ProcessId {
    let id = f.insert(process(owner, name, pid));
    let end = crate::model::End { at: Millis(at).into(), ..end(EndReason::Exited) };
    f.store.end(id, State::Running, end, None).expect("committed");
    id
}

pub(super) fn leaked(f: &Fixture, id: ProcessId, kind: LeakKind, outcome: Outcome, at: i64) {
    f.put(id, State::Ending, Some(f.me));
    let mut leak = leak(kind, outcome);
    leak.found_at = Millis(at);
    let verdict = match outcome {
        Outcome::Survived => Verdict::Survived("x".to_owned()),
        _ => Verdict::Ended(end(EndReason::Stray)),
    };
    let settled = Settled { row: id.into(), verdict, leak: Some(leak) };
    let pass = pass(PassKind::Orphan, at);
    assert_eq!(f.store.record(f.me, Some(&pass), &[settled]).expect("committed"), 1);
}

#[test]
fn history_is_newest_first_and_can_be_narrowed() {
    let f = Fixture::new();
    let ids = [(10, "a", 100), (11, "b", 200), (12, "a", 300)]
        .map(|(pid, name, at)| ended(&f, f.me, name, pid, at));
    f.insert(process(f.me, "a", 13));
    let history = |name: Option<&str>, since: Option<i64>, limit| {
        let name = name.map(task);
        let rows = f.store.history(name.as_ref(), since.map(Millis), Some(limit)).expect("read");
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(history(None, None, 10), [ids[2], ids[1], ids[0]]);
    assert_eq!(history(None, Some(200), 10), [ids[2], ids[1]]);
    assert_eq!(history(None, None, 1), [ids[2]]);
    assert_eq!(history(Some("a"), None, 10), [ids[2], ids[0]]);
    assert_eq!(history(Some("a"), Some(200), 10), [ids[2]]);
}

#[test]
fn live_processes_are_listed_by_age_owner_task_and_root() {
    let f = Fixture::new();
    let other = f.instance("api", 2);
    let young = f.row(f.me, 30, State::Survived);
    let old = f.row(f.me, 10, State::Running);
    let theirs = f.row(other, 20, State::Ending);
    f.row(f.me, 5, State::Ended);
    let below = f.insert(stray(f.me, old, 40));
    let ids = |rows: Vec<crate::model::ProcessRecord>| {
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(f.store.live().expect("read")), [old, theirs, young, below]);
    assert_eq!(ids(f.store.live_of(other).expect("read")), [theirs]);
    assert_eq!(ids(f.store.live_of_task(&task("task-30")).expect("read")), [young]);
    let live = &f.store.descendants(&[young, old]).expect("read")[&old].live;
    assert_eq!(live.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [below]);
    assert!(f.store.process(ProcessId(99)).expect("read").is_none());
}

const DAY: i64 = 86_400_000;

#[test]
fn leaks_are_counted_by_day_task_and_rule() {
    let f = Fixture::new();
    let ids = [(10, "a"), (11, "a"), (12, "b")].map(|(pid, name)| {
        let id = f.insert(process(f.me, name, pid));
        f.put(id, State::Ended, None);
        id
    });
    leaked(&f, ids[0], LeakKind::Orphan, Outcome::Term, DAY);
    leaked(&f, ids[1], LeakKind::Stray, Outcome::Survived, DAY + 5);
    leaked(&f, ids[2], LeakKind::Unregistered, Outcome::Kill, 2 * DAY);
    f.sql("UPDATE process SET task_id = NULL WHERE id = ?1", [ids[2].0]);
    let groups = |by| f.store.leak_groups(None, by).expect("read");
    let days = groups(LeakGrouping::Day);
    assert_eq!(
        days.iter().map(|g| g.key.as_str()).collect::<Vec<_>>(),
        ["1970-01-03", "1970-01-02"]
    );
    assert_eq!((days[1].leaks, days[1].orphans, days[1].strays, days[1].survived), (2, 1, 1, 1));
    assert!((days[1].process_hours - 2.0).abs() < 1e-9);
    assert_eq!((days[1].rss_bytes, days[1].last_found_at), (2 << 20, Millis(DAY + 5).into()));
    let tasks = groups(LeakGrouping::Task);
    assert_eq!(tasks.iter().map(|g| g.key.as_str()).collect::<Vec<_>>(), ["a", ""]);
    assert_eq!((tasks[1].leaks, tasks[1].unregistered), (1, 1));
    assert_eq!(groups(LeakGrouping::Rule)[0].key, "its instance is dead");
    let since = f.store.leak_groups(Some(Millis(2 * DAY)), LeakGrouping::Day).expect("read");
    assert_eq!(since.len(), 1);
    let leaks = f.store.leaks(None, Some(Millis(DAY + 5)), None).expect("read");
    assert_eq!(leaks.iter().map(|leak| leak.process).collect::<Vec<_>>(), [ids[2], ids[1]]);
    assert_eq!(
        (leaks[0].task_id.as_ref(), leaks[0].age),
        (None, std::time::Duration::from_hours(1))
    );
}

#[test]
fn the_newest_pass_of_each_kind_is_found() {
    let f = Fixture::new();
    for (kind, at) in [(PassKind::Health, 1), (PassKind::Orphan, 2), (PassKind::Health, 3)] {
        f.store.record_pass(f.me, &pass(kind, at)).expect("committed");
    }
    let last = f.store.last_passes().expect("read");
    assert_eq!(
        last.iter().map(|p| (p.kind, Millis::from(p.started_at).0)).collect::<Vec<_>>(),
        [(PassKind::Health, 3), (PassKind::Orphan, 2)]
    );
    let sent = pass(PassKind::Health, 3);
    assert_eq!((last[0].duration, last[0].checked), (sent.duration, sent.checked));
    assert_eq!((&last[0].error, last[0].survived), (&sent.error, 1));
    let since = f.store.passes(Some(Millis(2)), 10).expect("read");
    assert_eq!(since.iter().map(|p| Millis::from(p.started_at).0).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(f.store.passes(None, 1).expect("read").len(), 1);
}

fn prune(f: &Fixture, before: i64, batch: u32) -> u64 {
    let mut all = 0;
    loop {
        match f.prune(before, batch) {
            0 => return all,
            deleted => all += deleted,
        }
    }
}

#[test]
fn old_history_is_deleted_and_the_rest_stays() {
    let f = Fixture::new();
    let gone = f.instance("api", 2);
    f.instance("api", 3); // the last instance would stay
    let old = ended(&f, gone, "a", 10, 100);
    leaked(&f, old, LeakKind::Stray, Outcome::Term, 100);
    f.sql("UPDATE process SET ended_at = 100 WHERE id = ?1", [old.0]);
    let root = ended(&f, f.me, "root", 11, 100);
    let below = f.insert(stray(f.me, root, 12));
    let new = ended(&f, f.me, "b", 13, 5_000);
    // The last process and the last leak would stay.
    let last = f.row(f.me, 14, State::Running);
    leaked(&f, last, LeakKind::Stray, Outcome::Survived, 5_000);
    for at in [1, 2] {
        f.store.record_pass(f.me, &pass(PassKind::Health, at)).expect("committed");
    }
    f.store.stop_instance(gone, StopHow::Crashed, Millis(150)).expect("committed");
    assert_eq!(prune(&f, 1_000, 1), 4, "one process, two passes, one instance");
    assert_eq!(f.store.leaks(None, None, None).expect("read").len(), 1, "with its leak");
    assert!(f.store.instance(gone).expect("read").is_none());
    for id in [root, below, new] {
        assert!(f.store.process(id).expect("read").is_some(), "{id:?} has to stay");
    }
    let last = f.store.last_passes().expect("read");
    assert_eq!(last.len(), 2, "the newest of each kind stays, however old");
    f.store.end(below, State::Ending, end(EndReason::Stray), None).expect("committed");
    f.sql("UPDATE process SET ended_at = 100 WHERE id = ?1", [below.0]);
    assert_eq!(prune(&f, 1_000, 1), 2, "what was below, then the root");
    assert!(f.store.check().expect("checked").is_empty());
}

const NUMBERED: [&str; 4] = ["process", "leak", "pass", "instance"];

fn largest(f: &Fixture) -> [i64; 4] {
    NUMBERED.map(|table| f.number(&format!("SELECT coalesce(max(id), 0) FROM {table}")))
}

/// Adds one row to each table, all of them ended.
fn something_that_is_over(f: &Fixture, pid: i64) {
    let by = f.instance("api", pid);
    let id = f.insert(process(by, "a", pid));
    leaked(f, id, LeakKind::Stray, Outcome::Term, 100);
    f.sql("UPDATE process SET ended_at = 100 WHERE id = ?1", [id.0]);
    f.store.record_pass(by, &pass(PassKind::Health, pid)).expect("committed");
    f.store.stop_instance(by, StopHow::Crashed, Millis(150)).expect("committed");
}

/// `process`, `leak`, `pass` and `instance` alike: SQLite uses the largest existing number plus
/// one.
#[test]
fn a_number_that_was_pruned_is_not_used_again() {
    let f = Fixture::new();
    f.store.stop_instance(f.me, StopHow::Clean, Millis(150)).expect("committed");
    let mut before = largest(&f);
    for round in 0..3 {
        for pid in 0..3 {
            something_that_is_over(&f, 10 * round + pid + 10);
        }
        let made = largest(&f);
        assert!(made.iter().zip(before).all(|(now, before)| *now >= before + 3), "{made:?}");
        assert!(prune(&f, i64::MAX, 2) > 0);
        assert_eq!(prune(&f, i64::MAX, 2), 0, "pruning what is left changes nothing");
        assert_eq!(largest(&f), made, "the last row of each table stays");
        before = made;
    }
    // The last rows, and the rows that they refer to.
    let rows = NUMBERED.map(|table| f.number(&format!("SELECT count(*) FROM {table}")));
    assert!(rows.iter().all(|rows| (1..=3).contains(rows)), "{NUMBERED:?}: {rows:?}");
    f.vacuum();
    f.store.writer("test").expect("free").execute_batch("VACUUM").expect("runs");
    assert_eq!(largest(&f), before, "VACUUM renumbers nothing");
    assert!(f.store.check().expect("checked").is_empty());
}

/// The last rows of the tables are unrelated: each is kept for itself, with the rows that it refers
/// to.
#[test]
fn the_last_row_of_each_table_stays() {
    let f = Fixture::new();
    // The last leak is that of the first process, below a root that has a larger number than
    // necessary.
    let root = ended(&f, f.me, "root", 10, 100);
    let first = f.insert(stray(f.me, root, 11));
    let pass_of_leak = |id| f.number(&format!("SELECT pass FROM leak WHERE process = {id}"));
    leaked(&f, first, LeakKind::Stray, Outcome::Term, 100);
    f.sql("UPDATE process SET ended_at = 100 WHERE id = ?1", [first.0]);
    for pid in 12..16 {
        ended(&f, f.me, "a", pid, 100);
    }
    let last = ended(&f, f.me, "b", 16, 50);
    // The last pass by number is not the newest: the clock was set back.
    for at in [900, 800] {
        f.store.record_pass(f.me, &pass(PassKind::Orphan, at)).expect("committed");
    }
    let before = largest(&f);
    prune(&f, i64::MAX, 3);
    assert_eq!(largest(&f), before);
    let left = f.store.history(None, None, Some(10)).expect("read");
    let mut left: Vec<_> = left.into_iter().map(|row| row.id).collect();
    left.sort();
    assert_eq!(left, [root, first, last], "the last, the leak's, and its root");
    assert!(f.store.passes(None, 10).expect("read").len() >= 2);
    assert!(pass_of_leak(first.0) > 0);
    assert!(f.store.check().expect("checked").is_empty());
    // With a later leak the row is like any other.
    let later = f.insert(process(f.me, "c", 17));
    leaked(&f, later, LeakKind::Stray, Outcome::Term, 100);
    prune(&f, i64::MAX, 3);
    let left = f.store.history(None, None, Some(10)).expect("read");
    assert_eq!(left.into_iter().map(|row| row.id).collect::<Vec<_>>(), [later]);
}

/// A picked row is deleted a moment later, by which time it may have become the last one.
#[test]
fn a_leak_that_is_found_between_the_scan_and_the_deletion_keeps_its_number() {
    let f = Fixture::new();
    let id = ended(&f, f.me, "a", 10, 100);
    ended(&f, f.me, "b", 11, 9_000);
    let picked =
        f.store.pick(Millis(1_000), 10, Unshipped::Keep).expect("read").expect("something");
    f.sql(
        "INSERT INTO leak (process, kind, rule, evidence, found_at, age_ms, outcome)
         VALUES (?1, 'stray', 'x', 'x', 1, 1, 'gone')",
        [id.0],
    );
    let deleted = f.store.write("test", |tx| crate::store::prune::delete(tx, &picked));
    assert_eq!(deleted.expect("committed"), 0);
    assert_eq!(f.number("SELECT max(id) FROM leak"), 1);
}

#[test]
fn a_batch_is_no_larger_than_requested() {
    let f = Fixture::new();
    for pid in 10..20 {
        ended(&f, f.me, "a", pid, 100);
    }
    f.row(f.me, 20, State::Running); // the last one would stay
    assert_eq!(f.prune(1_000, 4), 4);
    assert_eq!(prune(&f, 1_000, 4), 6);
}

#[test]
fn a_pass_stays_as_long_as_a_leak_that_it_found() {
    let f = Fixture::new();
    let id = f.row(f.me, 10, State::Running);
    leaked(&f, id, LeakKind::Orphan, Outcome::Survived, 100);
    let last = f.row(f.me, 11, State::Running); // the last leak would stay
    leaked(&f, last, LeakKind::Orphan, Outcome::Survived, 4_000);
    f.store.record_pass(f.me, &pass(PassKind::Orphan, 5_000)).expect("committed");
    assert_eq!(prune(&f, 1_000, 10), 0, "the survivor is still there");
    let end = crate::model::End { at: Millis(200).into(), ..end(EndReason::Gone) };
    f.store.end(id, State::Survived, end, None).expect("committed");
    assert_eq!(prune(&f, 1_000, 10), 2, "the process and the pass");
}

#[test]
fn an_instance_that_runs_or_is_referred_to_stays() {
    let f = Fixture::new();
    let [first, adopter, checker, recent] = [2, 3, 4, 5].map(|pid| f.instance("api", pid));
    let row = f.row(first, 10, State::Running);
    f.sql("UPDATE process SET owner = ?1 WHERE id = ?2", [adopter.0, row.0]);
    f.store.record_pass(checker, &pass(PassKind::Health, 1)).expect("committed");
    for (id, at) in [(first, 1), (adopter, 1), (checker, 1), (recent, 9_000)] {
        f.store.stop_instance(id, StopHow::Clean, Millis(at)).expect("committed");
    }
    assert_eq!(prune(&f, 1_000, 10), 0);
}

#[test]
fn every_view_has_iso_times() {
    let f = Fixture::new();
    f.row(f.me, 10, State::Running);
    let survivor = f.row(f.me, 11, State::Running);
    leaked(&f, survivor, LeakKind::Stray, Outcome::Survived, 86_400_000);
    ended(&f, f.me, "a", 12, 1_736_512_496_789);
    for (view, rows) in [
        ("running", 2),
        ("history", 1),
        ("leaks", 1),
        ("leaks_by_day", 1),
        ("leaks_by_task", 1),
        ("survivors", 1),
        ("passes", 1),
    ] {
        let found = f.store.read("test", |c| {
            let mut statement = c.prepare(&format!("SELECT * FROM {view}"))?;
            let mut found = statement.query([])?;
            let mut count = 0;
            while found.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        });
        assert_eq!(found.unwrap_or_else(|e| panic!("{view}: {e:?}")), rows, "{view}");
    }
    let text = |sql: &str| {
        f.store.read("test", |c| c.query_one(sql, [], |row| row.get::<_, String>(0))).expect("read")
    };
    assert_eq!(text("SELECT ended FROM history"), "2025-01-10T12:34:56.789Z");
    assert_eq!(text("SELECT found FROM leaks"), "1970-01-02T00:00:00.000Z");
    assert_eq!(text("SELECT age FROM leaks"), "0d 01:00:00");
    assert_eq!(text("SELECT day FROM leaks_by_day"), "1970-01-02");
}

/// Only a scan of the processes shows the reference; no index does.
#[test]
fn an_instance_that_any_row_refers_to_is_not_pruned() {
    let f = Fixture::new();
    let [owner, first, claimant, looked, unnamed, last] =
        [2, 3, 4, 5, 6, 7].map(|pid| f.instance("api", pid));
    let row = f.row(f.me, 10, State::Ended);
    f.sql(
        "UPDATE process SET owner = ?1, first_owner = ?2, ended_at = 9999 WHERE id = ?3",
        [owner.0, first.0, row.0],
    );
    let ending = f.row(f.me, 11, State::Running);
    f.put(ending, State::Ending, Some(claimant));
    f.store.record_pass(looked, &pass(PassKind::Health, 9_000)).expect("recorded");
    for id in [owner, first, claimant, looked, unnamed, last] {
        f.store.stop_instance(id, StopHow::Crashed, Millis(500)).expect("stopped");
    }

    assert_eq!(prune(&f, 1_000, 10), 1);
    let left = f.store.read("test", |c| {
        c.prepare("SELECT id FROM instance ORDER BY id")?
            .query_map([], |row| row.get(0).map(InstanceId))?
            .collect::<rusqlite::Result<Vec<_>>>()
    });
    assert_eq!(left.expect("read"), [f.me, owner, first, claimant, looked, last]);
    assert_eq!(f.store.check().expect("read"), [""; 0]);
    // References are checked again.
    let named = f.store.write("test", |tx| {
        tx.execute("UPDATE process SET owner = ?1 WHERE id = ?2", [unnamed.0, row.0])
    });
    let refused = named.expect_err("its instance is gone");
    let why = std::error::Error::source(&refused).expect("a source").to_string();
    assert!(why.contains("FOREIGN KEY"), "{why}");
}
