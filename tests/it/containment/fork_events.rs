//! A daemon that leaves its session and wipes its environment between two health passes, and a host
//! that crashes then.

use crate::support::{Host, PidfdWatch, Place, canary, stays, until};

/// The interval is so long that no health pass finds it.
const SESSION: &str = "containment=session interval=3600000";
const EVIDENCE: &str = "forked below it, as the kernel reported";

/// Forks twice, and has a session, an empty environment and a working directory of its own; its pid
/// is in `FILE`. It waits without helpers, which would be hidden as well, and have rows of their
/// own.
fn daemon(place: &Place, file: &str) -> String {
    let path = place.path().join(file);
    let fifo = path.with_extension("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    format!(
        "(setsid env -i /bin/sh -c 'cd /; exec 3<> {}; echo $$ > {}; read line <&3' {} > /dev/null 2>&1 &)",
        fifo.display(),
        path.display(),
        place.marker()
    )
}

/// Whether the kernel reports forks here, according to `doctor`; if not, the test checks only that.
fn forks_are_reported(place: &Place) -> bool {
    let output = place.procledger(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let finding = findings.as_array().expect("an array").iter().find(|one| one["check"] == "forks");
    let detail = finding.expect("doctor says it")["detail"].as_str().expect("text").to_owned();
    let reported = detail.starts_with("the kernel reports them");
    assert!(reported || detail.starts_with("fork events unavailable ("), "{detail}");
    if !reported {
        println!("not shown here: {detail}");
    }
    reported
}

fn reported_rows(place: &Place) -> String {
    place.sqlite3(&format!("SELECT pid FROM process WHERE evidence = '{EVIDENCE}' ORDER BY pid"))
}

fn has_row(place: &Place, watched: &PidfdWatch) -> bool {
    reported_rows(place).lines().any(|pid| pid == watched.pid().to_string())
}

#[test]
fn a_hidden_daemon_is_recorded_at_once_and_ended_after_a_crash() {
    let place = Place::new();
    if !forks_are_reported(&place) {
        return;
    }
    let mut canary = canary();
    let mut host = Host::start(&place, SESSION);
    let script = format!("{}; exec sleep 3600", daemon(&place, "hidden"));
    let program = host.spawn("task", &script);
    let hidden = place.watch("hidden");
    until("it has a row", || has_row(&place, &hidden));
    let task = format!("SELECT task_id, origin FROM process WHERE pid = {}", hidden.pid());
    assert_eq!(place.sqlite3(&task), "task|descendant");
    assert!(!has_row(&place, &program), "what does not hide needs none");

    host.crash();
    assert!(!hidden.is_dead());
    let reaped = place.procledger(&["reap"]);
    assert!(reaped.status.success(), "{reaped:?}");
    assert!(hidden.is_dead() && program.is_dead());
    until("nothing is left", || place.alive().is_empty());
    assert!(canary.is_running());
}

#[test]
fn a_process_that_hides_long_after_its_fork_is_recorded_as_well() {
    let place = Place::new();
    if !forks_are_reported(&place) {
        return;
    }
    let mut host = Host::start(&place, SESSION);
    let script = format!("(sleep 0.5; {}); exec sleep 3600", daemon(&place, "hidden"));
    host.spawn("task", &script);
    let hidden = place.watch("hidden");
    until("it has a row", || has_row(&place, &hidden));
    host.stop();
    assert!(hidden.is_dead());
}

#[test]
fn unrelated_and_helper_processes_that_hide_nothing_get_no_row() {
    let place = Place::new();
    if !forks_are_reported(&place) {
        return;
    }
    let mut host = Host::start(&place, SESSION);
    host.spawn(
        "task",
        &format!("while :; do /bin/true; sleep 0.1; done & {}; wait", daemon(&place, "hidden")),
    );
    let storm = "i=0; while [ $i -lt 2000 ]; do /bin/true; i=$((i+1)); done; setsid env -i sleep 1; echo > stormed";
    let mut unrelated = place.child(storm);
    let hidden = place.watch("hidden");
    until("the listener is at work", || has_row(&place, &hidden));
    place.wait_for("stormed");
    until("it is over", || !unrelated.is_running());
    let rows = format!(
        "SELECT count(*) FROM process WHERE evidence = '{EVIDENCE}' AND command NOT LIKE '%{}%'",
        place.marker()
    );
    stays("no other process has a row", || place.sqlite3(&rows) == "0");
    host.stop();
}

#[test]
fn fork_events_are_received_only_while_a_root_runs_in_session_mode() {
    let place = Place::new();
    if !forks_are_reported(&place) {
        return;
    }
    let mut host = Host::start(&place, SESSION);
    assert_eq!(listeners(&host), 0);
    let program = host.spawn("task", "exec sleep 3600");
    until("it listens", || listeners(&host) == 1);
    host.spawn("other", "exec true");
    stays("one is enough", || listeners(&host) == 1);
    program.kill();
    until("it does not listen any more", || listeners(&host) == 0);
    host.spawn("later", "exec sleep 3600");
    until("it listens again", || listeners(&host) == 1);
    host.stop();
}

/// Threads of the host, by the first 15 characters of their name.
fn listeners(host: &Host) -> usize {
    let all = crate::support::threads(host.pid());
    all.iter().filter(|name| name.starts_with("procledger-fork")).count()
}
