//! With a keeper, a crash of the host used to leave no leak in the history. The keeper writes a
//! record beside the ledger, and the next opener imports it.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::{
    containment::keepers::{HOST, daemon, keepers},
    docs::faults::SmallDisk,
    support::{
        Host, PidfdWatch, Place, eventually, in_namespace, in_namespace_as_a_user, root, until,
    },
};

/// A root that ignores SIGTERM, a child of it, and a daemon with no session and no token.
fn script(place: &Place) -> String {
    let folder = place.path().display();
    format!(
        "{}; trap '' TERM; sleep 3600 & echo $! > {folder}/child; echo up > {folder}/up; while :; do sleep 0.1; done",
        daemon(place, "daemon.pid")
    )
}

fn records(place: &Place) -> Vec<PathBuf> {
    let names = fs::read_dir(place.path()).expect("a folder").map(|it| it.expect("a name").path());
    names.filter(|path| path.extension().is_some_and(|it| it == "ended")).collect()
}

fn leak_of(place: &Place, pid: u32) -> String {
    place.sqlite3(&format!(
        "SELECT l.kind, l.outcome, l.rule, l.evidence FROM leak AS l JOIN process AS p ON p.id = l.process WHERE p.pid = {pid}"
    ))
}

const RULE: &str = "its instance died, and its keeper ended it";

/// Each member of the tree is a leak, once, with its rule and its evidence.
fn check_recorded(place: &Place, root: &PidfdWatch, daemon: &PidfdWatch) {
    assert_eq!(leak_of(place, root.pid()), format!("orphan|kill|{RULE}|identity"));
    assert_eq!(leak_of(place, daemon.pid()), format!("orphan|term|{RULE}|below its keeper"));
    let rows = "SELECT end_reason, end_rule, state FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(rows), format!("orphan|{RULE}|ended"));
    let twice = "SELECT count(*) FROM (SELECT 1 FROM leak GROUP BY process HAVING count(*) > 1)";
    assert_eq!(place.sqlite3(twice), "0");
    let again =
        "SELECT count(*) FROM (SELECT 1 FROM process GROUP BY pid, start_tick HAVING count(*) > 1)";
    assert_eq!(place.sqlite3(again), "0");
    assert!(records(place).is_empty());
}

fn a_host_dies_and_the_next_one_records_what_its_keeper_ended() {
    let place = Place::new();
    let mut host = Host::start(&place, HOST);
    let root = host.spawn("task", &script(&place));
    let daemon = place.watch("daemon.pid");
    let child = place.watch("child");
    place.wait_for("up");
    host.crash();
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    assert!(root.is_dead() && daemon.is_dead() && child.is_dead());
    let [record] = &*records(&place) else { panic!("one record: {:?}", records(&place)) };
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(record).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // A requested pass ends no row before the record is imported.
    let health = place.procledger(&["health"]);
    assert!(
        String::from_utf8_lossy(&health.stdout).contains("reap") || !health.status.success(),
        "{health:?}"
    );
    Host::start(&place, HOST).stop();
    check_recorded(&place, &root, &daemon);
    assert!(
        leak_of(&place, child.pid()).starts_with("orphan|"),
        "{}",
        leak_of(&place, child.pid())
    );
    // The kernel reports the status since Linux 6.15.
    let status = place.sqlite3("SELECT coalesce(exit_signal, '9') FROM process WHERE root IS NULL");
    assert_eq!(status, "9");
    let report = place.procledger(&["report"]);
    assert!(String::from_utf8_lossy(&report.stdout).contains(RULE), "{report:?}");
}

#[test]
fn each_member_ended_by_the_keeper_is_a_leak_with_rule_and_evidence() {
    a_host_dies_and_the_next_one_records_what_its_keeper_ended();
}

#[test]
fn each_member_ended_by_the_keeper_of_an_ordinary_user_is_a_leak() {
    if in_namespace_as_a_user(
        "containment::keeper_end_log::each_member_ended_by_the_keeper_of_an_ordinary_user_is_a_leak",
    ) {
        a_host_dies_and_the_next_one_records_what_its_keeper_ended();
    }
}

#[test]
fn a_watch_records_what_the_keeper_ended_at_once() {
    let place = Place::new();
    let mut host = Host::start(&place, HOST);
    let root = host.spawn("task", &script(&place));
    let daemon = place.watch("daemon.pid");
    place.wait_for("up");
    let mut watch = Command::new(env!("CARGO_BIN_EXE_procledger"));
    watch.arg("--db").arg(place.ledger()).arg("watch").env("PROCLEDGER_IT_MARKER", place.marker());
    let watch = crate::support::Guard(watch.spawn().expect("a watch"));
    until("it watches", || place.sqlite3("SELECT count(*) FROM instance") == "2");
    host.crash();
    let done = "SELECT count(*) FROM process WHERE state <> 'ended'";
    until("the row has ended", || place.sqlite3(done) == "0");
    assert!(root.is_dead() && daemon.is_dead());
    // It is removed after the commit that the row shows.
    until("the keeper's record is removed", || records(&place).is_empty());
    drop(watch);
    check_recorded(&place, &root, &daemon);
}

#[test]
fn invariant_08_the_next_host_opens_once_the_keeper_has_ended_the_tree() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{HOST} grace=1500"));
    let root = host.spawn("task", &script(&place));
    let daemon = place.watch("daemon.pid");
    place.wait_for("up");
    host.crash();
    assert!(!root.is_dead(), "it has a grace");
    let mut next = Host::start(&place, HOST);
    assert!(root.is_dead() && daemon.is_dead());
    assert_eq!(next.ask("running"), "0");
    check_recorded(&place, &root, &daemon);
    next.stop();
}

#[test]
fn a_stopped_keeper_is_continued_when_the_next_host_opens() {
    let place = Place::new();
    let mut host = Host::start(&place, HOST);
    let root = host.spawn("task", &script(&place));
    let daemon = place.watch("daemon.pid");
    place.wait_for("up");
    let keeper = crate::support::pidfd(keepers(&place.ledger())[0]).expect("alive");
    rustix::process::pidfd_send_signal(&keeper, rustix::process::Signal::STOP).expect("stopped");
    host.crash();
    assert!(!root.is_dead());
    Host::start(&place, HOST).stop();
    assert!(keepers(&place.ledger()).is_empty());
    check_recorded(&place, &root, &daemon);
}

#[test]
fn a_keeper_killed_while_it_ends_the_tree_leaves_a_record_by_which_the_rest_is_found() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{HOST} grace=3000"));
    // The daemon ignores SIGTERM as well: only the record leads to it.
    let folder = place.path().display();
    let hidden =
        place.script("hidden", "trap '' TERM; cd /; echo $$ > \"$1\"; while :; do sleep 0.1; done");
    let text = format!(
        "(setsid env -i {} {folder}/daemon.pid {} </dev/null >/dev/null 2>&1 &); trap '' TERM; while :; do sleep 0.1; done",
        hidden.display(),
        place.marker()
    );
    let root = host.spawn("task", &text);
    let daemon = place.watch("daemon.pid");
    let keeper = PidfdWatch::on(keepers(&place.ledger())[0]);
    host.crash();
    eventually("both are named", || {
        let record = records(&place).pop()?;
        (fs::metadata(record).ok()?.len() > 200).then_some(())
    });
    // They are recorded before they are signalled; the keeper is killed during its grace period.
    std::thread::sleep(Duration::from_millis(50));
    keeper.kill();
    assert!(!root.is_dead() && !daemon.is_dead());
    Host::start(&place, "grace=100").stop();
    assert!(root.is_dead() && daemon.is_dead(), "the record leads to both");
    assert!(
        leak_of(&place, daemon.pid()).starts_with("orphan|kill|"),
        "{}",
        leak_of(&place, daemon.pid())
    );
    assert!(records(&place).is_empty());
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn an_opener_killed_while_it_imports_the_record_loses_and_duplicates_nothing() {
    for round in 0..12 {
        let place = Place::new();
        let mut host = Host::start(&place, HOST);
        let root = host.spawn("task", &script(&place));
        let daemon = place.watch("daemon.pid");
        place.wait_for("up");
        host.crash();
        until("the keeper is gone", || keepers(&place.ledger()).is_empty());
        let mut opener = Command::new(env!("CARGO_BIN_EXE_procledger"));
        opener.arg("--db").arg(place.ledger()).arg("reap");
        opener.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut opener = opener.spawn().expect("a reap");
        std::thread::sleep(Duration::from_millis(round * 8));
        opener.kill().expect("killed");
        opener.wait().expect("reaped");
        let reaped = place.procledger(&["reap"]);
        assert!(reaped.status.success(), "{reaped:?}");
        check_recorded(&place, &root, &daemon);
    }
}

#[test]
fn a_full_disk_or_a_removed_folder_does_not_stop_a_keeper_from_ending_its_tree() {
    // Inside a user namespace the keeper's file belongs to an unknown user, and root there does not
    // use it.
    if !root()
        || !in_namespace(
            "containment::keeper_end_log::a_full_disk_or_a_removed_folder_does_not_stop_a_keeper_from_ending_its_tree",
        )
    {
        return;
    }
    for is_full in [true, false] {
        let place = Place::new();
        let disk = SmallDisk::mount(&place, 4096);
        let mut host = Host::start_on(&place, &disk.ledger(), HOST);
        let root = host.spawn("task", &script(&place));
        let daemon = place.watch("daemon.pid");
        place.wait_for("up");
        if is_full {
            disk.fill();
        } else {
            for name in fs::read_dir(&disk.folder).expect("a folder").flatten() {
                fs::remove_file(name.path()).expect("removed");
            }
        }
        host.crash();
        until("all are dead", || root.is_dead() && daemon.is_dead() && place.alive().is_empty());
        if is_full {
            disk.free();
            until("the keeper is gone", || keepers(&disk.ledger()).is_empty());
            Host::start_on(&place, &disk.ledger(), HOST).stop();
            let open = "SELECT count(*) FROM process WHERE state <> 'ended'";
            assert_eq!(crate::support::sqlite3(&disk.ledger(), open), "0");
        }
    }
}

#[test]
fn an_exit_code_that_the_host_did_not_record_in_time_is_in_the_history() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{HOST} no-monitor"));
    let folder = place.path().display();
    let text = format!(
        "{}; while [ ! -e {folder}/go ]; do sleep 0.05; done; exit 7",
        daemon(&place, "daemon.pid")
    );
    let root = host.spawn("task", &text);
    let daemon = place.watch("daemon.pid");
    fs::write(place.path().join("go"), "").expect("the sign");
    until("the root has ended", || root.is_dead());
    host.crash();
    until("the keeper is gone", || keepers(&place.ledger()).is_empty());
    Host::start(&place, HOST).stop();
    let row = "SELECT end_reason, exit_code FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(row), "exited|7");
    assert_eq!(leak_of(&place, root.pid()), "", "it ended by itself");
    assert!(
        leak_of(&place, daemon.pid()).starts_with("orphan|term|"),
        "{}",
        leak_of(&place, daemon.pid())
    );
}

#[test]
fn a_record_that_another_user_could_have_written_is_ignored_and_blocks_nothing() {
    for kind in ["fifo", "symlink", "writable"] {
        let place = Place::new();
        let mut host = Host::start(&place, HOST);
        let root = host.spawn("task", "exec sleep 3600");
        let unrelated = place.child("exec sleep 3600");
        host.crash();
        until("the keeper is gone", || keepers(&place.ledger()).is_empty());
        let [record] = &*records(&place) else { panic!("one record: {:?}", records(&place)) };
        let other = place.path().join("other");
        match kind {
            "fifo" => {
                fs::remove_file(record).expect("removed");
                nix::unistd::mkfifo(record, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
            }
            "symlink" => {
                fs::rename(record, &other).expect("renamed");
                std::os::unix::fs::symlink(&other, record).expect("a link");
            }
            _ => {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
                fs::set_permissions(record, mode).expect("a mode");
            }
        }
        let reaped = place.procledger(&["reap"]);
        let said = String::from_utf8_lossy(&reaped.stderr).into_owned();
        assert!(
            said.contains("the keeper's record") && said.contains("is not used"),
            "{kind}: {said}"
        );
        assert!(root.is_dead());
        assert_eq!(place.sqlite3("SELECT end_reason FROM process"), "gone", "{kind}");
        assert!(crate::support::is_alive(unrelated.pid()));
    }
}
