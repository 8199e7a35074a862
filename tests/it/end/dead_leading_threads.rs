//! Programs whose first thread has ended while others run on (`pthread_exit` in `main`). The kernel
//! shows them as zombies without arguments, environment or memory, and `cgroup.kill` does not reach
//! them. They belong to their tasks all the same.

use procledger::{ContainmentMode, Tracker};

use crate::{
    containment::{keepers::KEEPER, task_cgroups::can_use_cgroups},
    support::{PidfdWatch, Place, in_namespace_as_a_user, state, until},
};

/// Shell text that starts such a program: in a session of its own, without its parent, ignoring
/// SIGTERM, with the token of its task. Its pid is in the file `daemon`.
fn leaderless() -> String {
    let program = std::env::current_exe().expect("this binary");
    format!(
        "(trap '' TERM; export PROCLEDGER_IT_ZOMBIE_LEADER=1; setsid '{}' --exact \
           handle::as_a_host::as_a_zombie_leader --nocapture --test-threads=1 >/dev/null 2>&1 & \
           echo $! > daemon.new; mv daemon.new daemon)",
        program.display()
    )
}

fn seen_without_its_first_thread(place: &Place) -> PidfdWatch {
    let daemon = place.watch("daemon");
    until("its first thread ends", || state(daemon.pid()) == Some('Z'));
    assert!(!daemon.is_dead(), "another thread lives");
    daemon
}

fn ends_with_its_task(containment: ContainmentMode) {
    // 1. With a root that is ended.
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
    let tracker = tracker.monitor(false).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", leaderless());
    tracker.spawn(place.job("ended", &script)).expect("spawned");
    let daemon = seen_without_its_first_thread(&place);
    let report = tracker.terminate("ended").expect("ended");
    assert_eq!((report.ended(), report.survived()), (2, 0), "{containment:?}: {report:?}");
    assert!(daemon.is_dead(), "{containment:?}");
    tracker.shutdown().expect("an orderly end");

    // 2. With a root that ends by itself.
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
    let tracker = tracker.open().expect("a ledger");
    let script = format!("{}; while [ ! -e go ]; do sleep 0.05; done; exit 7", leaderless());
    let mut process = tracker.spawn(place.job("exits", &script)).expect("spawned");
    let daemon = seen_without_its_first_thread(&place);
    std::fs::write(place.path().join("go"), "").expect("the sign");
    assert_eq!(process.wait().expect("its status").code(), Some(7));
    until("its stray is ended", || daemon.is_dead());
    tracker.shutdown().expect("an orderly end");
    assert_eq!(place.sqlite3("SELECT count(*) FROM survivors"), "0", "{containment:?}");
}

#[test]
fn the_token_was_not_seen_in_a_session() {
    ends_with_its_task(ContainmentMode::Session);
}

#[test]
fn the_program_was_mistaken_for_a_hidden_process_in_a_users_session() {
    if in_namespace_as_a_user(
        "end::dead_leading_threads::the_program_was_mistaken_for_a_hidden_process_in_a_users_session",
    ) {
        ends_with_its_task(ContainmentMode::Session);
    }
}

#[test]
fn the_program_is_ended_under_a_keeper() {
    ends_with_its_task(ContainmentMode::Keeper);
}

#[test]
fn the_program_survived_a_kill_of_its_cgroup() {
    if can_use_cgroups() {
        ends_with_its_task(ContainmentMode::Cgroup);
    }
}
