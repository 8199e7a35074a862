//! A process may give itself any name: `/proc/PID/stat` of the real kernel, with names that mislead
//! parsers.

use std::{
    fs,
    process::{Command, Stdio},
};

use procledger::{Job, Outcome, Tracker};

use crate::support::{Guard, Place, canary, until};

/// 15 bytes at most (prctl(2), `PR_SET_NAME`), in the syntax of printf(1).
const NAMES: [&str; 8] = [
    "a) S 1 (b",
    ") R 1 1 1 1 0",
    "(((((",
    ")))))",
    "line\\nbreak",
    " ",
    "\\t) Z 2",
    "\\377\\376)",
];

/// Names itself, reports that it did, and stays.
fn script(name: &str) -> String {
    format!("printf '{name}' >/proc/$$/comm; : >\"$1\"; sleep 600; :")
}

#[test]
fn processes_with_misleading_names_are_spawned_registered_found_and_ended() {
    let place = Place::new();
    let mut canary = canary();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    for (number, name) in NAMES.iter().enumerate() {
        let ready = |what: &str| place.path().join(format!("{what}-{number}"));
        let spawned = format!("spawned-{number}");
        let job = Job::new(&spawned, "/bin/sh")
            .args(["-c", &script(name), place.marker()])
            .arg(ready("spawned"))
            .stdin(procledger::Stdio::null())
            .stdout(procledger::Stdio::null())
            .stderr(procledger::Stdio::null());
        let mut process = tracker.spawn(job).expect("spawned");
        let outside = Command::new("/bin/sh")
            .args(["-c", &script(name), place.marker()])
            .arg(ready("registered"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut outside = Guard(outside.expect("a shell"));
        until("both have their names", || {
            ready("spawned").exists() && ready("registered").exists()
        });
        let registered = format!("registered-{number}");
        tracker.register(&registered, outside.pid()).expect("registered");
        let comm = fs::read(format!("/proc/{}/comm", process.pid())).expect("a name");
        assert_ne!(comm, b"sh\n", "{name} was not taken");

        let pass = tracker.health_pass().expect("a pass");
        assert!(pass.endings.is_empty() && pass.errors.is_empty(), "{name}: {pass:?}");
        assert_eq!(tracker.ledger().roots().expect("rows").len(), 2, "{name}");

        for task in [&spawned, &registered] {
            let report = tracker.terminate(task).expect("ended");
            // The shell, and its `sleep` if that was started already.
            assert!(matches!(report.endings.len(), 1 | 2), "{name}: {report:?}");
            for ending in &report.endings {
                assert!(matches!(ending.outcome, Outcome::Term), "{name}: {ending:?}");
            }
        }
        process.wait().expect("waited");
        until("the registered one is dead", || !outside.is_running());
        assert!(tracker.ledger().roots().expect("rows").is_empty(), "{name}");
    }
    tracker.shutdown().expect("an orderly end");
    assert!(canary.is_running());
    assert_eq!(place.alive(), [0_u32; 0]);
}
