//! Jobs that are meant to outlive their host.

use crate::support::{Host, PidfdWatch, Place, is_alive, until};

fn start(place: &Place, program: &str) -> Host {
    Host::start(place, &format!("program={program}"))
}

/// A `survive` job with a daemon as its descendant, and a task that is to end with its host.
fn grow(place: &Place, host: &mut Host) -> ([PidfdWatch; 2], PidfdWatch) {
    let script = format!("setsid sleep 3600 & echo $! > {}/daemon; wait", place.path().display());
    let root = host.spawn_as("survive", "lasting", &script);
    ([root, place.watch("daemon")], host.spawn("passing", "exec sleep 3600"))
}

fn owner(place: &Place) -> String {
    place.sqlite3("SELECT owner FROM process WHERE task_id = 'lasting' AND root IS NULL")
}

#[test]
fn a_surviving_job_outlives_a_crash_and_is_adopted_only_by_the_same_program() {
    let place = Place::new();
    let mut host = start(&place, "api");
    let (lasting, passing) = grow(&place, &mut host);
    let first_owner = owner(&place);
    host.crash();

    let other = start(&place, "another");
    assert!(passing.is_dead(), "an unmarked process is an orphan for every instance");
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(lasting.iter().all(|one| is_alive(one.pid())), "another program's job is left");
    assert_eq!(owner(&place), first_owner);
    other.stop();

    let mut next = start(&place, "api");
    assert_eq!(next.ask("adopted"), "1");
    assert!(lasting.iter().all(|one| is_alive(one.pid())));
    assert_ne!(owner(&place), first_owner, "the owner has changed");
    let spawn = next.ask("spawn lasting exec sleep 3600");
    assert!(spawn.starts_with("error "), "the task runs: {spawn}");
    assert!(next.ask("terminate lasting").parse::<u32>().is_ok_and(|ended| ended >= 2));
    assert!(
        lasting.iter().all(PidfdWatch::is_dead),
        "the adopted tree can be ended, daemon and all"
    );
    next.stop();
    assert_eq!(place.sqlite3("SELECT count(*) FROM leaks WHERE task_id = 'lasting'"), "0");
}

#[test]
fn a_surviving_job_outlives_an_orderly_stop_and_its_end_is_noticed_by_the_next_run() {
    let place = Place::new();
    let mut host = start(&place, "api");
    let (lasting, passing) = grow(&place, &mut host);
    host.stop();
    assert!(passing.is_dead());
    assert!(lasting.iter().all(|one| is_alive(one.pid())), "a shutdown leaves it");
    assert_eq!(
        place.sqlite3("SELECT task_id, state FROM running WHERE NOT descendant"),
        "lasting|running"
    );

    let next = start(&place, "api");
    lasting[0].kill();
    let state = "SELECT state FROM process WHERE task_id = 'lasting' AND root IS NULL";
    until("its end is noticed", || place.sqlite3(state) == "ended");
    until("the daemon that it left is a stray", || lasting[1].is_dead());
    next.stop();
}
