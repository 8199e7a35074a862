//! The keys of rules and evidence in ledgers of all versions.

use rusqlite::Connection;

use super::{fixture::*, history::leaked};
use crate::{
    model::{
        EvidenceKey, LeakKind, Millis, Outcome, RuleKey, State, evidence_of_each_kind,
        rules_of_each_kind,
    },
    store::{
        LeakGrouping, leaks,
        migration::{self, Schema},
    },
};

/// Creates a ledger of version 3 with ends and leaks that have these rules and evidence.
fn of_version_3(reasons: &[(String, String)]) -> Connection {
    let mut connection = Connection::open_in_memory().expect("a database");
    let version_3 = migration::all().nth(2).expect("there is a version 3");
    migration::migrate_to(&mut connection, version_3).expect("migrated");
    connection.pragma_update(None, "foreign_keys", false).expect("off");
    for (id, (rule, evidence)) in (1_i64..).zip(reasons) {
        connection
            .execute(
                "INSERT INTO process (id, owner, first_owner, origin, pid, start_tick, containment, command, uid, state,
                   started_at, ended_at, end_reason, grace_ms, end_rule, end_evidence)
                 VALUES (?1, 1, 1, 'spawned', 10, 5, 'session', '[]', 0, 'ended', 1, 2, 'orphan', 0, ?2, ?3)",
                (id, rule, evidence),
            )
            .expect("inserted");
        connection
            .execute(
                "INSERT INTO leak (process, kind, rule, evidence, found_at, age_ms, outcome)
                 VALUES (?1, 'orphan', ?2, ?3, 5, 0, 'term')",
                (id, rule, evidence),
            )
            .expect("inserted");
    }
    connection
}

#[test]
fn a_ledger_of_version_3_gets_its_keys() {
    let rules = rules_of_each_kind();
    let evidence = evidence_of_each_kind();
    let mut reasons: Vec<(String, String)> = (rules.iter().zip(evidence.iter().cycle()))
        .map(|(rule, evidence)| (rule.to_string(), evidence.to_string()))
        .collect();
    let mut expected: Vec<(RuleKey, EvidenceKey)> = (rules.iter().zip(evidence.iter().cycle()))
        .map(|(rule, evidence)| (rule.key(), evidence.key()))
        .collect();
    for (rule, evidence, keys) in [
        (
            "its name is configured, and nobody registered it",
            "name",
            (RuleKey::NameMatch, EvidenceKey::Name),
        ),
        ("its instance is dead, they say", "a hunch", (RuleKey::Other, EvidenceKey::Other)),
        ("argv[1] is named worker", "child", (RuleKey::Other, EvidenceKey::Other)),
    ] {
        reasons.push((rule.to_owned(), evidence.to_owned()));
        expected.push(keys);
    }
    let mut connection = of_version_3(&reasons);
    let before = leaks::groups(&connection, Schema::FIRST, 0, LeakGrouping::Rule).expect("read");

    migration::migrate(&mut connection).expect("migrated");
    let keys = |query: &str| -> Vec<(String, String)> {
        let mut statement = connection.prepare(query).expect("prepared");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("read");
        rows.collect::<rusqlite::Result<_>>().expect("read")
    };
    let expected: Vec<(String, String)> = (expected.into_iter())
        .map(|(rule, evidence)| (rule.to_string(), evidence.to_string()))
        .collect();
    assert_eq!(keys("SELECT rule_key, evidence_key FROM leak ORDER BY id"), expected);
    assert_eq!(keys("SELECT end_rule_key, end_evidence_key FROM process ORDER BY id"), expected);
    // Counts by sentence before and by key now must agree.
    let after = leaks::groups(&connection, Schema::KEYS, 0, LeakGrouping::Rule).expect("read");
    assert_eq!(before, after);
    assert_eq!(after.len(), RuleKey::ALL.len());
}

#[test]
fn leaks_of_a_program_that_knows_no_keys_are_counted_with_the_others() {
    let f = Fixture::new();
    for (pid, key) in [(10, "instance_dead"), (11, ""), (12, "a_rule_of_tomorrow")] {
        let id = f.row(f.me, pid, State::Ended);
        leaked(&f, id, LeakKind::Orphan, Outcome::Term, pid);
        f.sql("UPDATE leak SET rule_key = nullif(?1, '') WHERE process = ?2", (key, id.0));
    }
    let groups = f.store.leak_groups(None, LeakGrouping::Rule).expect("read");
    let counts: Vec<_> = groups.iter().map(|group| (group.key.as_str(), group.leaks)).collect();
    assert_eq!(counts, [("its instance is dead", 2), ("another rule", 1)]);
    assert_eq!(groups[0].last_found_at, Millis(11).into());
    let leaks = f.store.leaks(None, None, None).expect("read");
    let keys: Vec<RuleKey> = leaks.iter().map(|leak| leak.rule_key).collect();
    assert_eq!(keys, [RuleKey::Other, RuleKey::InstanceDead, RuleKey::InstanceDead]);
}
