//! A list of processes that the former implementation left.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use crate::support::{Guard, Host, PidfdWatch, Place, in_namespace, is_alive, root};

/// Makes a list untrustworthy.
type Spoil = fn(&Path);

const BODY: &str = "while :; do sleep 1; done";

fn program(place: &Place, path: &Path) -> Guard {
    let mut command = Command::new(path);
    command.env("PROCLEDGER_IT_MARKER", place.marker());
    Guard(command.stdin(std::process::Stdio::null()).spawn().expect("a program"))
}

fn entry(task: &str, pid: u32, started: SystemTime) -> serde_json::Value {
    let time = chrono::DateTime::<chrono::Utc>::from(started).to_rfc3339();
    serde_json::json!({"task_id": task, "process_id": pid, "start_time": time})
}

fn write(path: &Path, entries: &[serde_json::Value]) {
    fs::write(path, serde_json::to_string_pretty(entries).expect("JSON")).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("its mode");
}

/// A place, the list's path, and the options of a host that reads it.
fn ground(name: &str) -> (Place, PathBuf, String) {
    let place = Place::new();
    let list = place.path().join("list.json");
    let log = place.path().join("log");
    let options = format!("export={} name={name} min-age=0 log={}", list.display(), log.display());
    (place, list, options)
}

/// Matches by name: so only in a namespace of its own, where its first process, this test, adopts
/// orphans.
#[test]
fn an_entry_is_ended_only_when_time_name_and_parent_agree() {
    const NAME: &str = "procledger-it-legacy-worker";
    if !in_namespace("orphans::legacy_list::an_entry_is_ended_only_when_time_name_and_parent_agree")
    {
        return;
    }
    let (place, list, options) = ground(NAME);
    let worker = place.script(NAME, BODY);
    let other = place.script("procledger-it-legacy-other", BODY);
    let now = SystemTime::now();
    let left = program(&place, &worker);
    let named_otherwise = program(&place, &other);
    let owned = place.child(&format!("{} & echo $! > owned; wait", worker.display()));
    let its_child = place.watch("owned");
    // A name match alone would find only the first one; the entries prove the owner of the others.
    let hour_ago = now.checked_sub(Duration::from_hours(1)).expect("a time");
    write(
        &list,
        &[
            entry("left", left.pid(), now),
            entry("renamed", named_otherwise.pid(), now),
            entry("owned", its_child.pid(), now),
            entry("another time", owned.pid(), hour_ago),
            entry("gone", 4_000_000, now),
        ],
    );
    let host = Host::start(&place, &options);
    assert!(PidfdWatch::on(left.pid()).is_dead());
    assert!(is_alive(named_otherwise.pid()) && is_alive(its_child.pid()) && is_alive(owned.pid()));
    let leak = "SELECT p.task_id, l.kind, p.origin, p.pid FROM leak AS l JOIN process AS p ON p.id = l.process
                WHERE p.root IS NULL";
    assert_eq!(place.sqlite3(leak), format!("left|orphan|imported|{}", left.pid()));
    let log = fs::read_to_string(place.path().join("log")).expect("a log");
    assert!(
        log.contains(&format!("Loaded 5 persisted processes from {}", list.display())),
        "{log}"
    );
    for (task, pid) in [
        ("renamed", named_otherwise.pid()),
        ("owned", its_child.pid()),
        ("another time", owned.pid()),
    ] {
        let line = format!("process {pid} for task {task} is left alone: ");
        assert!(log.contains(&line), "no `{line}` in {log}");
    }
    host.stop();
}

#[test]
fn a_list_that_another_user_could_have_written_ends_nothing() {
    const NAME: &str = "procledger-it-legacy-untrusted";
    // To give the list to another owner.
    if !root() {
        return;
    }
    if !in_namespace(
        "orphans::legacy_list::a_list_that_another_user_could_have_written_ends_nothing",
    ) {
        return;
    }
    let hostile: [(&str, Spoil); 3] = [
        ("a symlink", |list| {
            let real = list.with_extension("real");
            fs::rename(list, &real).expect("renamed");
            symlink(&real, list).expect("a link");
        }),
        ("another owner", |list| chown(list, Some(65534), None).expect("root may")),
        ("writable by the group", |list| {
            fs::set_permissions(list, fs::Permissions::from_mode(0o664)).expect("its mode");
        }),
    ];
    for (what, make) in hostile {
        let (place, list, _) = ground(NAME);
        // The name is not searched for: only the list leads to the process.
        let log = place.path().join("log");
        let worker = program(&place, &place.script(NAME, BODY));
        write(&list, &[entry("left", worker.pid(), SystemTime::now())]);
        make(&list);
        let mut host =
            Host::start(&place, &format!("no-reap name={NAME} min-age=0 log={}", log.display()));
        let answer = host.ask(&format!("import {}", list.display()));
        assert!(answer.starts_with("endings 0"), "{what}: {answer}");
        assert!(is_alive(worker.pid()), "{what}");
        host.stop();
    }
}

#[test]
fn a_malformed_list_is_renamed_and_the_start_continues() {
    let (place, list, _) = ground("unused");
    fs::write(&list, "[{\"task_id\": \"tas").expect("a file");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).expect("its mode");
    let mut host = Host::start(&place, &format!("export={}", list.display()));
    let kept = place.path().join("list.json.corrupt");
    assert_eq!(fs::read_to_string(kept).expect("kept"), "[{\"task_id\": \"tas");
    host.spawn("task", "exec sleep 3600");
    host.stop();
}
