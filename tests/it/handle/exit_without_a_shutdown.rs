//! A host that ends by `exit` without a shutdown, as with a tracker in a `static`: nothing is
//! dropped then.

use procledger::Tracker;

use crate::{
    containment::keepers,
    support::{Host, Place, root, stays, until},
};

fn left_by_exit(place: &Place, options: &str) -> crate::support::PidfdWatch {
    let mut host = Host::start(place, options);
    let program = host.spawn("task", "exec sleep 3600");
    host.send("exit");
    host.end();
    program
}

#[test]
fn in_a_session_or_a_cgroup_programs_run_on_until_the_ledger_is_opened_again() {
    for options in ["containment=session", "containment=cgroup"] {
        if options.ends_with("cgroup") && !root() {
            continue;
        }
        let place = Place::new();
        let program = left_by_exit(&place, options);
        stays("it lives on", || !program.is_dead());
        // The remedy that the page names: an opener, which `watch` is as well.
        let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
        assert!(program.is_dead(), "{options}");
        let leak = "SELECT kind, outcome FROM leak";
        assert_eq!(place.sqlite3(leak), "orphan|term", "{options}");
        tracker.shutdown().expect("an orderly end");
    }
}

#[test]
fn under_a_keeper_programs_end_with_their_host() {
    let place = Place::new();
    let program = left_by_exit(&place, keepers::HOST);
    until("its keeper ends it", || program.is_dead());
}

#[test]
fn a_watch_ends_the_orphans_of_such_a_host() {
    let place = Place::new();
    let mut host = Host::start(&place, "containment=session");
    let program = host.spawn("task", "exec sleep 3600");
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_procledger"));
    watch.arg("--db").arg(place.ledger()).arg("watch").stdin(std::process::Stdio::null());
    let watch = crate::support::Guard(watch.spawn().expect("it runs"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!program.is_dead());
    host.send("exit");
    host.end();
    until("it is ended", || program.is_dead());
    drop(watch);
}
