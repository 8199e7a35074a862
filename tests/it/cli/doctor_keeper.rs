//! `doctor` did not know keepers: where no cgroup could be created, its advice ignored that a
//! keeper makes one unnecessary.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;

use crate::{
    containment::keepers::KEEPER,
    support::{Place, copy_program, in_namespace_as_a_user},
};

/// The findings of a `procledger` in a folder of its own, next to `keeper`, or without one.
fn findings(keeper: Option<&Path>) -> (Value, Value) {
    let place = Place::new();
    let own = place.path().join("procledger");
    copy_program(env!("CARGO_BIN_EXE_procledger"), &own);
    if let Some(keeper) = keeper {
        let beside = place.path().join("procledger-keeper");
        copy_program(keeper, &beside);
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let mut command = Command::new(own);
    command.arg("--db").arg(place.ledger()).args(["doctor", "--json"]).env("PATH", "/usr/bin:/bin");
    let output = command.output().expect("it runs");
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |check: &str| {
        let all = all.as_array().or(all["findings"].as_array()).expect("a list");
        let found: Vec<&Value> = all.iter().filter(|it| it["check"] == check).collect();
        assert_eq!(found.len(), 1, "{check}: {all:?}");
        found[0].clone()
    };
    let (containment, keeper) = (of("containment"), of("keeper"));
    let advised = [&containment, &keeper].map(|it| it["advice"] != "");
    assert_ne!(advised, [true, true], "one advice: {containment} {keeper}");
    (containment, keeper)
}

fn check() {
    let has_leaves = |containment: &Value| {
        containment["detail"].to_string().contains("task cgroups can be created")
    };

    let (containment, keeper) = findings(Some(Path::new(KEEPER)));
    assert!(keeper["detail"].to_string().contains("of this version"), "{keeper}");
    assert_eq!((&keeper["level"], &keeper["advice"]), (&"ok".into(), &"".into()));
    assert_eq!((&containment["level"], &containment["advice"]), (&"ok".into(), &"".into()));
    assert!(has_leaves(&containment) || containment["detail"] == "a keeper for each program");

    let (containment, keeper) = findings(None);
    assert!(keeper["detail"].to_string().contains("no `procledger-keeper`"), "{keeper}");
    let needed = !has_leaves(&containment);
    let advice = containment["advice"].to_string();
    assert_eq!(advice.contains("procledger-keeper"), needed, "{containment}");

    let (containment, keeper) = findings(Some(Path::new("/bin/true")));
    assert!(keeper["detail"].to_string().contains("is not a keeper"), "{keeper}");
    assert_ne!(keeper["advice"], "", "{keeper}");
    let level = if has_leaves(&containment) { "ok" } else { "warning" };
    assert_eq!((&keeper["level"], &containment["level"]), (&level.into(), &level.into()));
}

#[test]
fn a_keeper_is_reported_as_usable_missing_or_unusable() {
    check();
}

#[test]
fn a_user_without_cgroups_gets_the_same_findings() {
    if in_namespace_as_a_user("cli::doctor_keeper::a_user_without_cgroups_gets_the_same_findings") {
        check();
    }
}
