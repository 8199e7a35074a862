//! A FIFO, a device, a socket, a folder or a symlink in place of one of the ledger's files:
//! `doctor`, `reap` and `run` waited forever for its other end. Each `answer` here is bounded.

use std::{
    fs,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, FlockOperation, Mode, flock, makedev, mknodat},
    process::Signal,
};

use crate::{
    cli::command::{Running, answer, procledger},
    support::{Place, sqlite3, until},
};

/// Its name, and how to create one.
type Kind = (&'static str, fn(&Path));

/// Every kind of non-regular file that this user can create.
fn kinds() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = vec![
        ("a FIFO", |path| {
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        }),
        ("a symlink to a FIFO", |path| {
            let fifo = path.with_extension("fifo");
            mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
            symlink(fifo, path).expect("a link");
        }),
        // Not by bind(2), whose path has at most 108 bytes.
        ("a socket", |path| {
            mknodat(CWD, path, FileType::Socket, Mode::RUSR | Mode::WUSR, 0).expect("a socket");
        }),
        ("a folder", |path| fs::create_dir(path).expect("a folder")),
    ];
    if rustix::process::geteuid().is_root() {
        // The console of a serial line that does not exist: opening it may wait for a carrier.
        kinds.push(("a device", |path| {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(4, 64)).expect("a device");
        }));
    }
    kinds
}

fn remove(path: &Path) {
    for path in [path, &path.with_extension("fifo")] {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    }
}

const VERBS: [&[&str]; 5] =
    [&["doctor"], &["ps"], &["reap"], &["run", "--task", "t", "--", "true"], &["metrics"]];

#[test]
fn opening_an_object_in_place_of_a_companion_file_blocked() {
    let place = Place::new();
    answer(procledger(&place).args(["run", "--task", "t", "--", "true"])).expect(0);
    for suffix in ["-wal", "-shm", "-journal", "-setup.lock"] {
        let path = PathBuf::from(format!("{}{suffix}", place.ledger().display()));
        for (kind, make) in kinds() {
            remove(&path);
            make(&path);
            for args in VERBS {
                let answer = answer(procledger(&place).args(args));
                assert_ne!(answer.code(), 0, "{kind} as {suffix}, {args:?}: {answer:?}");
                let said = format!("{}{}", answer.out, answer.err);
                assert!(said.contains(&format!("ledger.db{suffix}")), "{kind}, {args:?}: {said}");
            }
        }
        remove(&path);
    }
    answer(procledger(&place).args(["run", "--task", "again", "--", "true"])).expect(0);
}

#[test]
fn opening_an_object_in_place_of_the_ledger_blocked() {
    let place = Place::new();
    for (kind, make) in kinds() {
        remove(&place.ledger());
        make(&place.ledger());
        for args in VERBS {
            let answer = answer(procledger(&place).args(args));
            assert_ne!(answer.code(), 0, "{kind}, {args:?}: {answer:?}");
        }
    }
}

/// The lock of a host that crashed. Its death cannot be verified then, so its programs are left and
/// reported.
#[test]
fn opening_an_object_in_place_of_an_instances_lock_blocked() {
    let place = Place::new();
    let running = Running::start(&place, "left", &[], "echo up; exec sleep 300");
    running.crash();
    let name = sqlite3(&place.ledger(), "SELECT lock_name FROM instance WHERE stopped_at IS NULL");
    let lock = place.path().join(&name);
    assert!(lock.exists(), "{name}");
    for (kind, make) in kinds() {
        remove(&lock);
        make(&lock);
        let found = answer(procledger(&place).arg("doctor")).expect(0);
        assert!(found.out.contains("unknown"), "{kind}: {found:?}");
        let reaped = answer(procledger(&place).arg("reap")).expect(3);
        assert!(reaped.out.contains(&name) || reaped.err.contains(&name), "{kind}: {reaped:?}");
        assert_eq!(place.alive().len(), 1, "{kind}: ended on a guess");
        answer(procledger(&place).args(["run", "--task", "other", "--", "true"])).expect(0);
        assert!(lock.symlink_metadata().is_ok(), "{kind}: what is no lock is not removed");
    }
    remove(&lock);
    answer(procledger(&place).arg("reap")).expect(0);
    until("what was left is ended", || place.alive().is_empty());
}

/// A lock file that no row names is removed; an object with its name that is not a file stays.
#[test]
fn opening_an_object_with_the_name_of_a_stale_lock_blocked() {
    let place = Place::new();
    answer(procledger(&place).args(["run", "--task", "t", "--", "true"])).expect(0);
    let lock = place.path().join(format!("ledger.db-instance-{:032x}.lock", 7));
    for (kind, make) in kinds() {
        make(&lock);
        answer(procledger(&place).arg("reap")).expect(0);
        assert!(lock.symlink_metadata().is_ok(), "{kind}");
        remove(&lock);
    }
    fs::write(&lock, "").expect("a file");
    answer(procledger(&place).arg("reap")).expect(0);
    assert!(!lock.exists(), "a stale lock is removed");
}

#[test]
fn opening_an_object_in_place_of_the_exports_lock_blocked() {
    let place = Place::new();
    let export = place.path().join("list.json");
    let lock = place.path().join("list.json.lock");
    for (kind, make) in kinds() {
        make(&lock);
        let mut command = procledger(&place);
        command.arg("--export").arg(&export).args(["run", "--task", "t", "--", "true"]);
        let ran = answer(&mut command).expect(0);
        assert!(ran.err.contains("list.json.lock"), "{kind}: {ran:?}");
        let mut doctor = procledger(&place);
        answer(doctor.arg("--export").arg(&export).arg("doctor"));
        remove(&lock);
    }
}

#[test]
fn opening_a_log_file_that_is_a_fifo_without_a_reader_blocked() {
    let place = Place::new();
    answer(procledger(&place).args(["run", "--task", "t", "--", "true"])).expect(0);
    let log = place.path().join("log");
    mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
    let refused = answer(procledger(&place).arg("--log-file").arg(&log).arg("ps")).expect(1);
    assert!(refused.complaint().contains("failed to open the log file"), "{refused:?}");
}

/// The signals of a `run` were blocked for as long as its ledger was being opened: here for the
/// 30 s that another setup may take.
#[test]
fn a_run_that_waited_for_another_setup_did_not_react_to_signals() {
    let place = Place::new();
    let lock = fs::File::create(place.path().join("ledger.db-setup.lock")).expect("a file");
    rustix::fs::fchmod(&lock, Mode::RUSR | Mode::WUSR).expect("a mode");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let args = ["run", "--task", "t", "--", "touch", "ran"];
        let child = procledger(&place).args(args).current_dir(place.path()).spawn();
        let child = child.expect("the command");
        thread::sleep(Duration::from_millis(500));
        let fd = crate::support::pidfd(child.id()).expect("it waits");
        let sent = Instant::now();
        rustix::process::pidfd_send_signal(&fd, signal).expect("a signal");
        let ended = crate::cli::command::finish(child);
        assert!(sent.elapsed() < Duration::from_secs(10), "{ended:?}");
        assert_eq!(ended.status.signal(), Some(signal.as_raw()), "{ended:?}");
        assert!(!place.path().join("ran").exists());
    }
    drop(lock);
    answer(procledger(&place).args(["run", "--task", "t", "--", "true"])).expect(0);
}
