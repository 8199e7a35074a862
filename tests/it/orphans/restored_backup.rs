//! A backup of a ledger is restored into the ledger's own file, so that it does not look like a
//! copy, after everything that it lists has ended and unrelated processes have got the PIDs.

use std::{
    fs,
    process::{Command, Stdio},
};

use rusqlite::{Connection, MAIN_DB};

use crate::{
    cli::command::containments,
    support::{Guard, Host, Place, eventually, in_namespace_with_init, sqlite3},
};

/// Starts sleepers until one has this PID.
fn unrelated_with(pid: u32) -> Guard {
    eventually("the PID is reused", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("steered");
        let sleeper = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn();
        Some(Guard(sleeper.expect("sleep"))).filter(|guard| guard.pid() == pid)
    })
}

#[test]
fn unrelated_processes_with_the_pids_of_a_restored_backup_survive() {
    if !in_namespace_with_init(
        "orphans::restored_backup::unrelated_processes_with_the_pids_of_a_restored_backup_survive",
    ) {
        return;
    }
    for containment in containments() {
        let place = Place::new();
        let keeper = if containment == "keeper" { "keeper" } else { "" };
        let options = format!("containment={containment} grace=100 {keeper}");
        let mut host = Host::start(&place, &options);
        let task = host.spawn("task", "sleep 3600 & wait");
        host.ask("health");
        let backup = place.path().join("backup.db");
        let from = Connection::open(place.ledger()).expect("a ledger");
        from.backup(MAIN_DB, &backup, None).expect("copied");
        drop(from);
        let pids = "SELECT pid FROM process UNION SELECT pid FROM instance
                    UNION SELECT keeper_pid FROM process WHERE keeper_pid IS NOT NULL";
        let pids: Vec<u32> =
            sqlite3(&backup, pids).lines().map(|pid| pid.parse().expect("a pid")).collect();
        assert!(pids.len() >= 2, "{containment}: {pids:?}");
        host.stop();
        assert!(task.is_dead(), "{containment}");
        let mut unrelated: Vec<Guard> = pids.iter().map(|pid| unrelated_with(*pid)).collect();
        // Into the same file: its inode stays.
        for former in ["ledger.db-wal", "ledger.db-shm"] {
            let _ = fs::remove_file(place.path().join(former));
        }
        fs::copy(&backup, place.ledger()).expect("restored");
        for verb in [&["health"][..], &["reap", "--dry-run"], &["reap"], &["kill", "--all"]] {
            let done = place.procledger(verb);
            assert!(done.status.success(), "{containment} {verb:?}: {done:?}");
            let alive = unrelated.iter_mut().all(Guard::is_running);
            assert!(alive, "{containment} {verb:?}: {done:?}");
        }
        assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
        assert_eq!(place.sqlite3("SELECT DISTINCT end_reason FROM process"), "gone");
        assert_eq!(place.sqlite3("SELECT count(*) FROM leak"), "0");
    }
}
