//! All sums of a report are from one moment and agree. A program is the last path component of its
//! command's first word.

use super::fixture::*;
use crate::{
    model::{EndReason, LeakKind, Millis, Outcome, PassKind, Settled, State, Verdict},
    store::{LeakGroup, LeakGrouping},
};

const HOUR: i64 = 3_600_000;

/// Adds an orphan with this command, found by a pass of its own.
fn leaked(f: &Fixture, pid: i64, command: &[&str], at: i64) {
    let mut new = process(f.me, "task", pid);
    new.spec.command = command.iter().map(|word| (*word).to_owned()).collect();
    let id = f.insert(new);
    f.put(id, State::Ending, Some(f.me));
    let mut leak = leak(LeakKind::Orphan, Outcome::Term);
    leak.found_at = Millis(at);
    let verdict = Verdict::Ended(end(EndReason::Orphan));
    let settled = Settled { row: id.into(), verdict, leak: Some(leak) };
    let pass = pass(PassKind::Orphan, at);
    assert_eq!(f.store.record(f.me, Some(&pass), &[settled]).expect("committed"), 1);
}

fn keys(groups: &[LeakGroup]) -> Vec<(&str, u64)> {
    groups.iter().map(|group| (group.key.as_str(), group.leaks)).collect()
}

#[test]
fn leaks_are_counted_by_hour_and_program() {
    let f = Fixture::new();
    let commands: [&[&str]; 7] = [
        &["/usr/bin/node", "server.js"],
        &["node"],
        &["./node/"],
        &["/"],
        &[""],
        &[],
        &["it's \"quoted\"/日本 語"],
    ];
    for (pid, command) in (10..).zip(commands) {
        leaked(&f, pid, command, HOUR + pid);
    }
    let by = |by| f.store.leak_groups(None, by).expect("read");
    assert_eq!(keys(&by(LeakGrouping::Hour)), [("1970-01-01T01:00Z", 7)]);
    let mut programs = by(LeakGrouping::Program);
    programs.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(keys(&programs), [("", 4), ("node", 2), ("日本 語", 1)]);
}

#[test]
fn a_time_outside_the_calendar_does_not_spoil_a_report() {
    let f = Fixture::new();
    leaked(&f, 10, &["a"], HOUR);
    leaked(&f, 11, &["b"], i64::MAX);
    for by in [LeakGrouping::Hour, LeakGrouping::Day] {
        let groups = f.store.leak_groups(None, by).expect("read");
        assert_eq!(groups.iter().map(|group| group.leaks).sum::<u64>(), 2, "{groups:?}");
    }
}

#[test]
fn the_sums_of_a_report_agree_with_each_other() {
    let f = Fixture::new();
    for (pid, command) in (10..30).zip(["/bin/a", "b", "c"].into_iter().cycle()) {
        leaked(&f, pid, &[command], pid * HOUR);
    }
    let report = f.store.leak_report(Some(Millis(12 * HOUR)), 5).expect("read");
    for groups in
        [&report.by_hour, &report.by_day, &report.by_task, &report.by_rule, &report.by_program]
    {
        assert_eq!(groups.iter().map(|group| group.leaks).sum::<u64>(), 18, "{groups:?}");
        let hours: f64 = groups.iter().map(|group| group.process_hours).sum();
        assert!((hours - 18.0).abs() < 1e-9, "{groups:?}");
    }
    let hour = |leak: &crate::model::LeakRecord| Millis::from(leak.found_at).0 / HOUR;
    let newest: Vec<i64> = report.newest.iter().map(hour).collect();
    assert_eq!(newest, [29, 28, 27, 26, 25]);
    assert_eq!((report.passes.len(), report.passes[0].passes), (1, 18));
}

#[test]
fn passes_are_counted_with_their_longest_gap() {
    let f = Fixture::new();
    for (kind, at) in [
        (PassKind::Health, 1_000),
        (PassKind::Health, 31_000),
        (PassKind::Orphan, 40_000),
        (PassKind::Health, 331_000),
        (PassKind::Health, 361_000),
    ] {
        f.store.record_pass(f.me, &pass(kind, at)).expect("committed");
    }
    let all = f.store.pass_summaries(None).expect("read");
    let figures = |at: usize| (all[at].kind, all[at].passes, all[at].failed, all[at].longest_gap);
    let gap = std::time::Duration::from_secs;
    assert_eq!(figures(0), (PassKind::Health, 4, 4, gap(300)));
    assert_eq!(figures(1), (PassKind::Orphan, 1, 1, gap(0)));
    assert_eq!((all[0].first_at, all[0].last_at), (Millis(1_000).into(), Millis(361_000).into()));
    let late = f.store.pass_summaries(Some(Millis(300_000))).expect("read");
    assert_eq!((late.len(), late[0].passes, late[0].longest_gap), (1, 2, gap(30)));
    assert!(f.store.pass_summaries(Some(Millis(400_000))).expect("read").is_empty());
}
