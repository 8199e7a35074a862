//! A ledger that has two names: each has its own `-wal` and locks, and `doctor` was silent about
//! it.

use std::fs;

use crate::{
    cli::command::{answer, procledger},
    docs::faults::run,
    support::{Place, in_namespace},
};

fn warning(place: &Place, ledger: &std::path::Path) -> Option<String> {
    let ledger = ledger.to_str().expect("UTF-8");
    let findings = answer(procledger(place).args(["--db", ledger, "doctor", "--json"])).json();
    let mut findings = findings.as_array().expect("findings").iter();
    let found = findings.find(|line| line["check"] == "name")?;
    assert_eq!(found["level"], "warning", "{found:#}");
    Some(format!("{}: {}", found["detail"], found["advice"]))
}

fn with_a_ledger() -> Place {
    let place = Place::new();
    let run = place.procledger(&["run", "--task", "kept", "--", "true"]);
    assert!(run.status.success(), "{run:?}");
    place
}

#[test]
fn doctor_did_not_report_a_hard_link_to_the_ledger() {
    let place = with_a_ledger();
    assert_eq!(warning(&place, &place.ledger()), None);
    let second = place.path().join("second.db");
    fs::hard_link(place.ledger(), &second).expect("linked");
    for name in [place.ledger(), second.clone()] {
        let warning = warning(&place, &name).expect("a warning");
        assert!(warning.contains("2 names (hard links)"), "{warning}");
    }
    fs::remove_file(second).expect("removed");
    assert_eq!(warning(&place, &place.ledger()), None);
}

#[test]
fn doctor_did_not_report_a_ledger_mounted_without_its_folder() {
    if !in_namespace(
        "store::second_names::doctor_did_not_report_a_ledger_mounted_without_its_folder",
    ) {
        return;
    }
    let place = with_a_ledger();
    let folder = place.path().join("pod");
    fs::create_dir(&folder).expect("a folder");
    let second = folder.join("ledger.db");
    fs::write(&second, "").expect("what is mounted over");
    run("mount", &["--bind", place.ledger().to_str().expect("UTF-8")], &second);
    let warning_there = warning(&place, &second).expect("a warning");
    assert!(warning_there.contains("mounted alone"), "{warning_there}");
    assert_eq!(warning(&place, &place.ledger()), None);
}
