//! A host stops in order and is started again.

use crate::support::{Host, Place, is_alive, until};

#[test]
fn a_clean_stop_leaves_nothing_and_the_next_start_has_nothing_to_do() {
    let place = Place::new();
    let export = place.path().join("running.json");
    let options = format!("export={}", export.display());
    let mut host = Host::start(&place, &options);
    let trees = [
        host.spawn("plain", "exec sleep 3600"),
        host.spawn("family", "sleep 3600 & sleep 3600 & wait"),
        host.spawn("daemon", "setsid sleep 3600 & wait"),
    ];
    until("they run", || place.alive().len() >= 7);
    assert!(export.exists());
    host.stop();

    assert_eq!(place.alive(), [0_u32; 0], "nothing outlives a clean stop");
    assert!(trees.iter().all(|tree| tree.is_dead() && !is_alive(tree.pid())));
    assert!(!export.exists(), "the export is removed");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    let roots = "SELECT task_id, end_reason FROM process WHERE root IS NULL ORDER BY id";
    assert_eq!(place.sqlite3(roots), "plain|shutdown\nfamily|shutdown\ndaemon|shutdown");
    assert_eq!(place.sqlite3("SELECT DISTINCT end_reason FROM process"), "shutdown");
    assert_eq!(place.sqlite3("SELECT stopped_how FROM instance"), "clean");

    let again = Host::start(&place, &options);
    assert_eq!(place.sqlite3("SELECT count(*) FROM leaks"), "0");
    let pass =
        "SELECT checked, found, ended FROM pass WHERE kind = 'orphan' ORDER BY id DESC LIMIT 1";
    assert_eq!(place.sqlite3(pass), "0|0|0", "the pass is recorded though it found nothing");
    again.stop();
    let locks = std::fs::read_dir(place.path()).expect("the folder").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("-instance-"))
    });
    assert_eq!(locks.count(), 0, "no lock file is left");
}
