//! The units in docs/systemd, checked by the tool that knows what a unit may contain.

use std::{fs, process::Command};

use crate::{
    cli::command::{PROCLEDGER, answer, clean},
    orphans::watch_service::unit,
    support::{Place, need},
};

/// Since systemd 254; an older version reports an unknown key and continues.
const NEW_KEY: (&str, u32) = ("DelegateSubgroup", 254);

#[test]
fn systemd_analyze_accepts_the_units() {
    need!("systemd-analyze");
    let place = Place::new();
    let copies =
        ["procledger-watch.service", "procledger-ship.service", "my-api.service"].map(|name| {
            let text = fs::read_to_string(unit(name)).expect("a unit");
            let (before, after) = ("ExecStart=/usr/bin/", format!("ExecStart={PROCLEDGER} "));
            assert!(text.contains(before), "{name}");
            let copy = place.path().join(name);
            // The programs have to exist.
            fs::write(&copy, text.replace(before, &after)).expect("a copy");
            copy
        });
    let mut verify = Command::new("systemd-analyze");
    clean(&mut verify, &place);
    let answer = answer(verify.args(["verify", "--man=no"]).args(&copies)).expect(0);
    let is_too_new = |line: &&str| line.contains(NEW_KEY.0) && version(&place) < NEW_KEY.1;
    let lines: Vec<&str> = answer.err.lines().filter(|line| !is_too_new(line)).collect();
    assert_eq!(lines, [""; 0]);
}

fn version(place: &Place) -> u32 {
    let mut command = Command::new("systemd-analyze");
    clean(&mut command, place);
    let answer = answer(command.arg("--version")).expect(0);
    let number = answer.out.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("{answer:?}"))
}
