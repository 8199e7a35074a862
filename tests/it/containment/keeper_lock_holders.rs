//! A descendant of a keeper that holds a file with the name of an instance's lock was taken for a
//! host of the ledger, and outlived the keeper together with all its siblings.

use crate::{
    containment::keepers::{HOST, daemon, keepers},
    support::{Host, PidfdWatch, Place, need, until},
};

/// A host of a task with a hidden daemon and a hidden holder of the lock file `lock`, which is
/// killed.
fn check(place: &Place, lock: &str, mode: &str) {
    need!("flock");
    let folder = place.path().display();
    place.script(
        "holder",
        &format!("exec 9{mode}\"{folder}/{lock}\"; flock 9 || exit 1; echo $$ > {folder}/holder.pid; read x < {folder}/never"),
    );
    let mut host = Host::start(place, HOST);
    let script = format!(
        "{}; (setsid env -i {folder}/holder {} </dev/null >/dev/null 2>&1 &); exec sleep 3600",
        daemon(place, "daemon.pid"),
        place.marker()
    );
    let root = host.spawn("task", &script);
    let all_watched = ["daemon.pid", "holder.pid"].map(|name| place.watch(name));
    host.crash();
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    assert!(root.is_dead(), "{lock}");
    assert!(all_watched.iter().all(PidfdWatch::is_dead), "{lock}: {all_watched:?}");
    Host::start(place, HOST).stop();
    assert_eq!(place.alive(), [0_u32; 0], "{lock}");
}

#[test]
fn a_file_named_like_a_lock_does_not_make_its_holder_a_host() {
    check(&Place::new(), "ledger.db-instance-mine", ">");
    check(&Place::new(), "ledger.db-instance-0123456789abcdef0123456789abcdef.lock", ">");
}

#[test]
fn the_lock_of_a_dead_instance_does_not_make_its_holder_a_host() {
    let place = Place::new();
    // Its row exists, its file is signed, and its lock is free.
    Host::start(&place, "no-reap").crash();
    let lock = place.sqlite3("SELECT lock_name FROM instance");
    let kept = place.path().join("kept");
    std::fs::copy(place.path().join(&lock), &kept).expect("a copy");
    assert_ne!(std::fs::read_to_string(&kept).expect("signed"), "");
    // The next opener removes it; the task holds a copy of its former content.
    std::fs::rename(&kept, place.path().join("ledger.db-instance-dead.lock")).expect("renamed");
    check(&place, "ledger.db-instance-dead.lock", "<>");
}

#[test]
fn the_signature_of_the_live_host_does_not_make_another_process_a_host() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let host = Host::start_on(&elsewhere, &place.ledger(), "");
    let lock = place.sqlite3("SELECT lock_name FROM instance");
    let text = std::fs::read_to_string(place.path().join(lock)).expect("signed");
    assert!(text.contains(&format!("\nhost {} ", host.pid())), "{text}");
    std::fs::write(place.path().join("ledger.db-instance-copied.lock"), text).expect("a copy");
    check(&place, "ledger.db-instance-copied.lock", "<>");
    host.stop();
}
