//! A ledger is copied while its host continues: both ways of docs/ledger.md give a complete copy.

use std::{
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    thread,
};

use procledger::{Job, Stdio, Tracker};

use crate::{
    cli::command::run,
    store::ledger_page::doc,
    support::{Place, need, sqlite3},
};

/// The commands of the page.
fn commands() -> String {
    let page = doc("ledger.md");
    let (_, page) = page.split_once("\n## Backup and copy\n").expect("its section");
    let (_, block) = page.split_once("```sh\n").expect("its commands");
    block.split_once("```").expect("a closed block").0.to_owned()
}

#[test]
fn a_backup_taken_during_writes_is_complete() {
    need!("sqlite3");
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let (spawned, done) = (AtomicI64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let number = spawned.load(Ordering::Acquire) + 1;
                let job = Job::new(format!("task-{number}"), "/bin/true").stdin(Stdio::null());
                tracker.spawn(job).expect("it runs").wait().expect("it ends");
                spawned.store(number, Ordering::Release);
            }
        });
        // Also when an assertion fails: the scope waits for the writer.
        let _stop = Stop(&done);
        let commands = commands();
        assert!(commands.contains(".backup") && commands.contains("VACUUM INTO"), "{commands}");
        for _ in 0..10 {
            crate::support::until("it writes", || spawned.load(Ordering::Acquire) > 0);
            let before = spawned.load(Ordering::Acquire);
            let mut shell = Command::new("sh");
            let ran = shell.args(["-euc", &commands]).current_dir(place.path()).output();
            let ran = ran.expect("a shell");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            for copy in ["copy.db", "compact.db"] {
                let copy = place.path().join(copy);
                // One more may be committed than is counted.
                let after = spawned.load(Ordering::Acquire) + 1;
                assert_eq!(sqlite3(&copy, "PRAGMA integrity_check"), "ok");
                assert_eq!(sqlite3(&copy, "PRAGMA foreign_key_check"), "");
                let rows = sqlite3(&copy, "SELECT count(*) FROM process");
                let rows: i64 = rows.parse().expect("a number");
                assert!((before..=after).contains(&rows), "{before} <= {rows} <= {after}");
                let last = sqlite3(&copy, "SELECT max(id) FROM process");
                assert_eq!(last, rows.to_string(), "none is missing in between");
                let open = "SELECT count(*) FROM process WHERE state <> 'ended'";
                assert!(matches!(sqlite3(&copy, open).as_str(), "0" | "1"), "of one transaction");
                let mode = std::fs::metadata(&copy).expect("there").permissions().mode();
                assert_eq!(mode & 0o077, 0, "no other user can read it");
                std::fs::remove_file(&copy).expect("removed");
            }
        }
    });
    assert!(spawned.load(Ordering::Acquire) > 10, "there were writes meanwhile");
    tracker.shutdown().expect("an orderly end");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn doctor_advised_to_restore_a_backup_right_after_a_restore() {
    let place = Place::new();
    let runs = |task: &str| run(&place, &["run", "--task", task, "--", "true"]);
    let backup = place.path().join("backup.db");
    runs("before").expect(0);
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    ledger.backup(rusqlite::MAIN_DB, &backup, None).expect("copied");
    drop(ledger);
    runs("after").expect(0);
    std::fs::copy(&backup, place.ledger()).expect("restored");

    assert!(runs("refused").expect(125).complaint().contains("remove that `-wal` and the `-shm`"));
    let doctor = run(&place, &["doctor"]).expect(1).out;
    let (_, advice) = doctor.split_once("\nproblem  ledger: ").expect("a problem");
    let advice = advice.lines().nth(1).expect("its advice");
    assert_eq!(advice.trim(), "-> see the message", "{doctor}");
    for suffix in ["-wal", "-shm"] {
        let path = place.path().join(format!("ledger.db{suffix}"));
        std::fs::remove_file(path).expect("removed");
    }
    runs("again").expect(0);
    assert_eq!(place.sqlite3("SELECT group_concat(task_id) FROM history"), "again,before");
}
