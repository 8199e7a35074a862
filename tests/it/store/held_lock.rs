//! The ledger's lock is held for longer than any timeout, as by `BEGIN IMMEDIATE` typed into
//! `sqlite3` and left.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cli::command::Running,
    containment::task_cgroups::can_use_cgroups,
    spawn::gate_host::WriteLock,
    support::{Host, Place, at_once, until},
};

#[test]
fn ends_during_a_held_lock_are_recorded_once_it_is_free_and_the_tasks_can_run_again() {
    let place = Place::new();
    let end = place.path().join("end");
    let mut host = Host::start(&place, "");
    let left = host.spawn("left", "exec sleep 3600");
    let ends = host
        .spawn("ends", &format!("while [ ! -e {} ]; do sleep 0.05; done; exit 7", end.display()));

    let held = WriteLock::take(&place.ledger(), place.marker());
    fs::write(end, "").expect("a file");
    until("it ends", || ends.is_dead());
    assert_eq!(host.ask("wait ends"), "exit code 7");
    assert_eq!(host.ask("terminate left"), "1", "it is ended all the same");
    assert!(left.is_dead());
    let refused = host.ask("spawn new exec sleep 3600");
    assert!(refused.contains("another process holds its write lock, try again"), "{refused}");
    assert!(!place.alive().contains(&ends.pid()));
    let read = place.procledger(&["ps"]);
    assert!(read.status.success(), "readers do not wait");
    held.release();

    // On request: the next health pass, which would do it too, is 30 s away.
    for task in ["ends", "left", "new"] {
        host.spawn(task, "exec sleep 3600");
    }
    let rows = "SELECT task_id, end_reason, exit_code, exit_signal FROM history
        WHERE NOT descendant ORDER BY task_id";
    assert_eq!(place.sqlite3(rows), "ends|exited|7|\nleft|terminated||15");
    host.stop();
}

/// The first spawn records the cgroup of the instance. If that failed, all later programs ran in
/// session mode.
#[test]
fn a_first_spawn_during_a_held_lock_is_refused_and_the_next_program_has_its_cgroup() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let held = WriteLock::take(&place.ledger(), place.marker());
    let refused = host.ask("spawn task exec sleep 3600");
    assert!(refused.starts_with("error the program was not started: "), "{refused}");
    assert!(refused.contains("another process holds its write lock, try again"), "{refused}");
    held.release();
    host.spawn("task", "exec sleep 3600");
    assert_eq!(place.sqlite3("SELECT containment FROM process WHERE root IS NULL"), "cgroup");
    host.stop();
}

/// The program of a `run`; the lock is held from before its end until after that of `run`.
fn ends_under_the_lock(
    place: &Place,
    options: &[&str],
    script: &str,
    code: i32,
) -> (String, Duration) {
    let end = place.path().join("end");
    let script =
        format!("echo ready; while [ ! -e {} ]; do sleep 0.05; done; {script}", end.display());
    let running = Running::start(place, "task", options, &script);
    let held = WriteLock::take(&place.ledger(), place.marker());
    fs::write(end, "").expect("a file");
    let began = Instant::now();
    let answer = running.finish().expect(code);
    let took = began.elapsed();
    held.release();
    (answer.err, took)
}

fn kept(place: &Place) -> Vec<PathBuf> {
    let files =
        fs::read_dir(place.path()).expect("a folder").map(|file| file.expect("a file").path());
    files.filter(|path| path.to_string_lossy().contains("ledger.db-ends-")).collect()
}

fn row(place: &Place) -> String {
    place
        .sqlite3("SELECT state, end_reason, exit_code, exit_signal FROM process WHERE root IS NULL")
}

#[test]
fn an_end_that_a_run_cannot_record_is_reported_saved_beside_the_ledger_and_recorded_by_the_next() {
    use std::os::unix::fs::PermissionsExt;
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        at_once(
            [("exit 7", 7, "ended|exited|7|"), ("kill -9 $$", 137, "ended|exited||9")],
            |(script, code, expected)| {
                let place = Place::new();
                let (err, _) =
                    ends_under_the_lock(&place, &["--containment", containment], script, code);
                let lines: Vec<&str> =
                    err.lines().filter(|line| line.contains("for task task (")).collect();
                assert_eq!(lines.len(), 1, "{containment}: {err}");
                assert!(lines[0].contains("could not be recorded; it is kept in `"), "{err}");
                assert!(lines[0].contains("another process holds its write lock"), "{err}");
                let files = kept(&place);
                assert_eq!(files.len(), 1, "{containment}");
                let mode = fs::metadata(&files[0]).expect("a file").permissions().mode();
                assert_eq!(mode & 0o777, 0o600);
                assert!(row(&place).starts_with("running|"));
                assert!(place.procledger(&["reap"]).status.success());
                assert_eq!(row(&place), expected, "{containment}");
                assert!(kept(&place).is_empty(), "it is taken once");
            },
        );
    });
}

/// The reason was read from the ledger, into which it could not be written.
#[test]
fn a_run_whose_limit_ended_the_program_during_a_held_lock_exited_with_0() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        let place = Place::new();
        let options = ["--containment", containment, "--max-runtime", "1s"];
        let obedient = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
        let running = Running::start(&place, "task", &options, obedient);
        let held = WriteLock::take(&place.ledger(), place.marker());
        let answer = running.finish().expect(124);
        held.release();
        let why = "procledger: task task was ended: ran for ";
        assert!(answer.err.lines().any(|line| line.starts_with(why)), "{containment}: {answer:#?}");
    });
}

/// Its row got the reason `orphan`, and `report` knew of no leak.
#[test]
fn an_orphan_that_a_run_could_not_record_was_in_no_report() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        let place = Place::new();
        let mut owner = place.child("exec sleep 3600");
        let pid = owner.pid().to_string();
        let options = ["--containment", containment, "--owner", &pid];
        let running = Running::start(&place, "task", &options, "echo ready; exec sleep 3600");
        let held = WriteLock::take(&place.ledger(), place.marker());
        owner.0.kill().expect("killed");
        running.finish().expect(128 + 15);
        held.release();
        assert_eq!(kept(&place).len(), 1, "{containment}");
        let leak = "SELECT count(*), min(kind), min(outcome), min(rule) GLOB 'its caller *', min(rule_key),
             min(evidence_key), min(stop_signal) FROM leak";
        assert_eq!(place.sqlite3(leak), "0||||||");
        // The second one finds the record gone.
        for _ in 0..2 {
            assert!(place.procledger(&["reap"]).status.success());
            assert_eq!(row(&place), "ended|orphan||15", "{containment}");
            let expected = "1|orphan|term|1|caller_ended|identity|15";
            assert_eq!(place.sqlite3(leak), expected, "{containment}");
        }
    });
}

/// Its rows were not in the file beside the ledger, so the next pass ended it as an orphan.
#[test]
fn a_reap_ended_what_a_run_had_left_on_purpose_and_could_not_record() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        for option in [&["--keep-strays"][..], &["--protect", "sleep"]] {
            let place = Place::new();
            let options = [&["--containment", containment], option].concat();
            let left = place.path().join("left");
            let script =
                format!("setsid sleep 3600 >/dev/null 2>&1 & echo $! > {}; exit 7", left.display());
            let (err, _) = ends_under_the_lock(&place, &options, &script, 7);
            assert!(err.contains("is left running on purpose, could not be recorded"), "{err}");
            let left = place.watch("left");
            assert!(!left.is_dead(), "{containment} {option:?}");
            for _ in 0..2 {
                let reap = place.procledger(&["reap"]);
                let text = String::from_utf8_lossy(&reap.stderr);
                assert!(reap.status.success(), "{containment} {option:?}: {text}");
                assert!(!left.is_dead(), "{containment} {option:?}");
                assert_eq!(row(&place), "ended|exited|7|", "{containment} {option:?}");
                let kept = "SELECT p.state, p.end_reason, l.kind, l.outcome, l.rule_key, p.pid
                    FROM leak AS l JOIN process AS p ON p.id = l.process";
                let key = if option.len() == 1 { "keeps_strays" } else { "protected" };
                let expected = format!("ended|released|stray|kept|{key}|{}", left.pid());
                assert_eq!(place.sqlite3(kept), expected, "{containment} {option:?}");
                assert!(self::kept(&place).is_empty());
            }
        }
    });
}

#[test]
fn a_run_does_not_wait_for_a_held_lock_at_each_step() {
    let place = Place::new();
    // The processes that it leaves are found in several scans, each of which records them before
    // they are ended.
    let strays = "for n in 1 2 3 4; do (trap '' TERM; while :; do sleep 0.05; done) & done; exit 7";
    let (_, took) =
        ends_under_the_lock(&place, &["--containment", "session", "--grace", "100ms"], strays, 7);
    // Twice the whole timeout of 5 s: at the first write, and at the last attempt.
    assert!(took < Duration::from_secs(18), "{took:?}");
    assert!(place.alive().is_empty());
    assert!(place.procledger(&["reap"]).status.success());
    assert_eq!(row(&place), "ended|exited|7|");
}

#[test]
fn a_run_that_got_two_signals_during_a_held_lock_left_its_tree_running() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    let asked: [(&[&str], &[Signal]); 2] =
        [(&[], &[Signal::TERM, Signal::INT]), (&["--grace", "100ms"], &[Signal::TERM])];
    at_once(containments, |containment| {
        at_once(asked, |(options, signals)| {
            let place = Place::new();
            let options = [&["--containment", containment], options].concat();
            let stubborn = "trap '' TERM INT; echo up; while :; do sleep 0.05; done";
            let running = Running::start(&place, "task", &options, stubborn);
            let held = WriteLock::take(&place.ledger(), place.marker());
            for signal in signals {
                running.signal(*signal);
            }
            let answer = running.finish().expect(128 + 9);
            assert_eq!(place.alive().len(), 1, "the holder of the lock, {containment}: {answer:?}");
            held.release();
            assert!(place.procledger(&["reap"]).status.success());
            assert_eq!(row(&place), "ended|terminated||9", "{containment}");
        });
    });
}

#[test]
fn a_file_of_ends_that_no_instance_wrote_changes_nothing() {
    let place = Place::new();
    let (_, _) = ends_under_the_lock(&place, &["--containment", "session"], "exit 7", 7);
    let file = kept(&place).pop().expect("a file");
    let text = fs::read_to_string(&file).expect("text");
    let folder = tempfile::tempdir().expect("a folder");
    let elsewhere = folder.path().join("ends");
    fs::write(&elsewhere, &text).expect("a copy");
    let half = &text[..text.len() / 2];
    let unknown = text.replacen('{', "{\"more\":1,", 1);
    let other_row = text.replace("\"start_tick\":", "\"start_tick\":1");
    let other_code = text.replace("\"exit_code\":7", "\"exit_code\":700");
    let odd = ["", "null", "[]", half, &unknown, &other_row, &other_code];
    // A record of an instance that this ledger does not know.
    let random = "0123456789abcdef0123456789abcdef";
    let of_no_instance = place.path().join(format!("ledger.db-ends-{random}.json"));
    fs::rename(&file, &of_no_instance).expect("renamed");
    assert!(place.procledger(&["reap"]).status.success());
    assert_eq!(row(&place), "ended|gone||");
    for text in odd {
        let _ = fs::remove_file(&file);
        write_private(&file, text);
        assert!(place.procledger(&["reap"]).status.success(), "{text}");
        assert_eq!(row(&place), "ended|gone||", "{text}");
    }
    // A record that another user could have written is not used either.
    let _ = fs::remove_file(&file);
    std::os::unix::fs::symlink(&elsewhere, &file).expect("a link");
    assert!(place.procledger(&["reap"]).status.success());
    assert_eq!(row(&place), "ended|gone||");
    // The real record is, though the row was ended in the meantime; and everything that comes after
    // that changes nothing.
    for text in [text.clone(), text.replace("\"exit_code\":7", "\"exit_code\":9")] {
        let _ = fs::remove_file(&file);
        write_private(&file, &text);
        assert!(place.procledger(&["reap"]).status.success());
        assert_eq!(row(&place), "ended|exited|7|");
        assert!(!file.exists());
    }
}

fn write_private(path: &Path, text: &str) {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.expect("a file").write_all(text.as_bytes()).expect("written");
}
