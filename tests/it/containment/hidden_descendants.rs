//! Descendants that leave the session and wipe their environment are identified only by their
//! parent. The host is the parent of every root, so descent from the host is no reason to spare a
//! process.

use std::time::Duration;

use procledger::{Job, Stdio, Tracker};

use crate::support::{Place, namespaced, namespaces, until};

fn job(place: &Place, script: &str) -> Job {
    Job::new("task", "/bin/sh")
        .args(["-c", script, place.marker()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
}

/// `sh` that ends at SIGTERM at once, with a child in a session of its own that has no mark of ours
/// except its argument.
fn hidden(place: &Place) -> String {
    format!("setsid env -i /bin/sh -c 'while :; do sleep 1; done' {} & wait", place.marker())
}

#[test]
fn terminate_ends_a_child_that_left_its_session_and_wiped_its_environment() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("open");
    let mut process = tracker.spawn(job(&place, &hidden(&place))).expect("spawned");
    until("both run", || place.alive().len() >= 2);
    std::thread::sleep(Duration::from_millis(50));
    process.terminate().expect("terminated");
    assert_eq!(place.alive(), [0_u32; 0]);
}

/// In a container the host is often pid 1, and every orphan becomes its child.
#[test]
fn strays_that_become_children_of_the_host_are_ended() {
    let Ok(ledger) = std::env::var("PROCLEDGER_IT_AS_INIT") else {
        if !namespaces() {
            return;
        }
        let place = Place::new();
        let status = namespaced(std::env::current_exe().expect("this binary"))
            .args([
                "--exact",
                "containment::hidden_descendants::strays_that_become_children_of_the_host_are_ended",
            ])
            .env("PROCLEDGER_IT_AS_INIT", place.ledger())
            .status()
            .expect("unshare");
        assert!(status.success());
        return;
    };
    assert_eq!(std::process::id(), 1);
    let tracker = Tracker::builder(ledger).open().expect("open");
    let marker = Place::new();
    let mut process = tracker.spawn(job(&marker, "sleep 3600 & exit 0")).expect("spawned");
    process.wait().expect("ended");
    until("the stray is ended", || {
        !tracker.ledger().leaks(procledger::Query::new()).expect("leaks").is_empty()
    });
    until("nothing is left", || marker.alive().is_empty());
}
