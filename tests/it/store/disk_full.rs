//! The disk that the ledger is on is full for a while.

use std::{fs, path::Path, time::Duration};

use procledger::Tracker;

use crate::{
    docs::faults::{SmallDisk, run},
    support::{PidfdWatch, Place, in_namespace, need, procledger, sqlite3, until},
};

#[test]
fn on_a_full_disk_nothing_starts_and_ends_are_recorded_later() {
    need!("mount", "umount");
    if !in_namespace("store::disk_full::on_a_full_disk_nothing_starts_and_ends_are_recorded_later")
    {
        return;
    }
    let place = Place::new();
    let disk = SmallDisk::mount(&place, 2048);
    let ledger = disk.ledger();
    let tracker = Tracker::builder(&ledger).monitor(false).open().expect("a ledger");
    let left = tracker.spawn(place.job("left", "exec sleep 3600")).expect("spawned");
    let ends = place.job("ends", "while [ ! -e end ]; do sleep 0.05; done; exit 7");
    let mut ends = tracker.spawn(ends).expect("spawned");
    let (left, ending) = (PidfdWatch::on(left.pid().get()), PidfdWatch::on(ends.pid().get()));

    disk.fill();
    let refused = tracker.spawn(place.job("new", ": > ran")).expect_err("there is no room");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "{refused:?}");
    assert!(refused.to_string().contains("its disk is full, free some space"), "{refused}");
    assert!(!refused.to_string().contains('\n'));
    assert!(!place.path().join("ran").exists());
    fs::write(place.path().join("end"), "").expect("a file");
    until("it ends", || ending.is_dead());
    let status = ends.wait_timeout(Duration::from_secs(20)).expect("a status");
    assert_eq!(status.expect("it has ended"), procledger::ExitStatus::Exited(7));
    let report = tracker.terminate("left").expect("ended all the same");
    assert!(left.is_dead());
    assert_eq!(report.ended(), 1);
    assert!(!report.errors.is_empty(), "{report:?}");
    let pass = tracker.health_pass().expect("looked");
    assert!(pass.errors.iter().any(|line| line.contains("its disk is full")), "{pass:?}");
    // A reader still sees what is recorded.
    let ps = procledger(&ledger, &["ps"]);
    assert!(ps.status.success(), "{}", String::from_utf8_lossy(&ps.stderr));
    let doctor = procledger(&ledger, &["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.contains("problem  space: 0 MiB are free"), "{doctor}");

    disk.free();
    tracker.health_pass().expect("a pass");
    let rows = "SELECT task_id, end_reason, exit_code, exit_signal FROM history
        WHERE NOT descendant ORDER BY task_id";
    assert_eq!(sqlite3(&ledger, rows), "ends|exited|7|\nleft|terminated||15");
    let mut new = tracker.spawn(place.job("new", "exit 0")).expect("there is room");
    new.wait().expect("it ran");
    tracker.shutdown().expect("an orderly end");
    assert_eq!(sqlite3(&ledger, "PRAGMA integrity_check"), "ok");
}

/// SQLite reports the same error as for a missing permission.
#[test]
fn a_file_system_without_inodes_or_mounted_read_only_was_reported_as_a_missing_permission() {
    need!("mount", "umount");
    if !in_namespace(
        "store::disk_full::a_file_system_without_inodes_or_mounted_read_only_was_reported_as_a_missing_permission",
    ) {
        return;
    }
    let place = Place::new();
    let disk = SmallDisk::mount_with(&place, "size=4096k,nr_inodes=20,mode=755");
    let ledger = disk.ledger();
    let refused = |ledger: &Path, args: &[&str], what: &str| {
        let output = procledger(ledger, args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}");
        assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
        assert!(text.contains(what) && !text.contains("permission"), "{args:?}: {text}");
    };
    let run_it = ["run", "--task", "task", "--", "true"];
    assert!(procledger(&ledger, &run_it).status.success());

    for suffix in ["-wal", "-shm"] {
        fs::remove_file(disk.folder.join(format!("ledger.db{suffix}"))).expect("a file");
    }
    let fillers = (0..20).map(|number| fs::write(disk.folder.join(format!("file{number}")), ""));
    assert!(fillers.filter_map(Result::err).any(|e| e.raw_os_error() == Some(libc::ENOSPC)));
    let writing = [&run_it[..], &["reap"], &["kill", "task"], &["health"]];
    for args in writing.iter().chain(&[&["ps"][..], &["report"]]) {
        refused(&ledger, args, "no inode left");
    }
    let new = disk.folder.join("new.db");
    refused(&new, &run_it, "no inode left");

    fs::remove_file(disk.folder.join("file0")).expect("a file");
    run("mount", &["-o", "remount,bind,ro"], &disk.folder);
    for args in writing {
        refused(&ledger, args, "mounted read-only");
    }
    refused(&new, &run_it, "mounted read-only");
}
