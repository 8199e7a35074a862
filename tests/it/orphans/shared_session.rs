//! A registered process shares the session of the program that registered it.

use crate::support::{Host, PidfdWatch, Place, canary};

#[test]
fn a_registered_process_is_ended_with_its_descendants_and_nothing_else_of_its_session() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let mut canary = canary();
    // All three are children of this test, in its session: so are the host and all other processes
    // of the test.
    let registered = place.child("sleep 3600 & echo $! > below; wait");
    let mut sibling = place.child("exec sleep 3600");
    let below = place.watch("below");
    assert_eq!(host.ask(&format!("register task {}", registered.pid())), "done");
    let other = host.spawn("other", "exec sleep 3600");

    assert_eq!(host.ask("terminate task"), "2");
    assert!(PidfdWatch::on(registered.pid()).is_dead() && below.is_dead());
    assert!(sibling.is_running() && canary.is_running() && !other.is_dead());
    assert_eq!(host.ask("running"), "1");

    let registered = place.child("exec sleep 3600");
    assert_eq!(host.ask(&format!("register task {}", registered.pid())), "done");
    host.crash();
    Host::start(&place, "").stop();
    assert!(PidfdWatch::on(registered.pid()).is_dead(), "and so after a crash");
    assert!(sibling.is_running() && canary.is_running());
    assert_eq!(
        place.sqlite3("SELECT DISTINCT containment FROM process WHERE origin = 'registered'"),
        "none"
    );
}
