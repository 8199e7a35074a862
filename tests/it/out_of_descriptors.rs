//! A root ends while its host has no descriptor left, so that `/proc` cannot be read. Its row was ended all the same, and what
//! it had left was known to nobody.

use std::{fs::File, time::Duration};

use procledger::{Job, Stdio};

use crate::{
    gate_host::{Given, play},
    support::{PATIENCE, Place, processes_with, until},
};

#[test]
fn what_a_root_leaves_while_nothing_can_be_seen_is_found_later() {
    let place = Place::new();
    play(&place, "out-of-descriptors", Duration::from_mins(2));
    assert_eq!(place.sqlite3("SELECT task_id, kind FROM leaks"), "task|stray");
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn body(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let script = "trap 'exit 0' TERM; sleep 3600 & while :; do sleep 0.02; done";
    let job = Job::new("task", "/bin/sh")
        .args(["-c", script, &given.marker])
        .env("STRAY_OF", &given.marker)
        .stdin(Stdio::null());
    let mut process = tracker.spawn(job).expect("it runs");
    let stray = || processes_with(&format!("STRAY_OF={}", given.marker)).len() > 1;
    until("it has started what it will leave", stray);
    assert_eq!(tracker.running().expect("readable").len(), 1);

    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    process.signal(libc::SIGTERM).expect("sent");
    process.wait_timeout(PATIENCE).expect("asked").expect("it ends");
    drop(all);

    assert_eq!(
        tracker.running().expect("readable").len(),
        1,
        "its row is all that leads to the stray"
    );
    until("the next look finds what it left", || {
        tracker.health_pass().expect("a pass");
        tracker.running().expect("readable").is_empty() && !stray()
    });
    tracker.shutdown().expect("an orderly end");
}
