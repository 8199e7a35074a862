//! The JSON export where no rename can replace the file: a file that was mounted into a container,
//! a folder that cannot be written, a read-only file system. It was never written there, and
//! `doctor` reported no problem.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use procledger::Tracker;
use rustix::fs::{FlockOperation, flock};

use crate::{
    cli::command::{Answer, answer, procledger},
    docs::faults::{SmallDisk, run},
    support::{Host, Place, eventually, in_namespace, in_namespace_as_a_user, need, until},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Another file, mounted at `target` as a container runtime does it.
fn bind(file: &Path, target: &Path) {
    fs::write(target, "").expect("what is mounted over");
    run("mount", &["--bind", file.to_str().expect("UTF-8")], target);
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> = names
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

fn tasks(list: &Path) -> Vec<String> {
    let text = fs::read_to_string(list).expect("a list");
    let list: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let task = |entry: &serde_json::Value| entry["task_id"].as_str().expect("a task").to_owned();
    list.as_array().expect("a list").iter().map(task).collect()
}

/// The line `export` of `doctor`, which changes nothing in the export's folder.
fn doctor(place: &Place, export: &Path) -> (String, String, String) {
    let folder = export.parent().expect("a folder");
    let before =
        (names(folder), fs::read(export).ok(), fs::symlink_metadata(export).map(|f| f.ino()).ok());
    let export_option = export.to_str().expect("UTF-8");
    let said = answer(procledger(place).args(["--export", export_option, "doctor", "--json"]));
    let findings = said.json();
    let found =
        findings.as_array().expect("findings").iter().find(|line| line["check"] == "export");
    let found = found.unwrap_or_else(|| panic!("no line: {findings:#}"));
    let part = |name: &str| found[name].as_str().expect("text").to_owned();
    assert_eq!(said.code(), i32::from(part("level") == "problem"), "{findings:#}");
    let after =
        (names(folder), fs::read(export).ok(), fs::symlink_metadata(export).map(|f| f.ino()).ok());
    assert_eq!(after, before);
    (part("level"), part("detail"), part("advice"))
}

/// A list that follows the ledger from the first task to the last, under a file that stays the
/// same.
fn is_followed(place: &Place, export: &Path) {
    let inode = fs::metadata(export).expect("there").ino();
    let tracker = Tracker::builder(place.ledger()).export(export).open().expect("a ledger");
    let first = tracker.spawn(place.job("first", "exec sleep 3600")).expect("spawned");
    let long = "a-task-with-a-long-name".repeat(20);
    let mut second = tracker.spawn(place.job(&long, "exec sleep 3600")).expect("spawned");
    tracker.flush_export(PATIENCE).expect("written");
    assert_eq!(tasks(export), ["first", &long]);
    assert_eq!(tracker.export_error(), None);
    second.terminate().expect("ended");
    tracker.flush_export(PATIENCE).expect("written");
    assert_eq!(tasks(export), ["first"], "what is shorter is cut");
    drop(first);
    tracker.shutdown().expect("an orderly end");
    assert_eq!(fs::read_to_string(export).expect("there"), "[]\n", "nothing runs");
    assert_eq!(fs::metadata(export).expect("there").ino(), inode);
}

#[test]
fn a_file_that_was_mounted_at_the_path_was_never_written() {
    need!("mount");
    if !in_namespace(
        "export::export_in_place::a_file_that_was_mounted_at_the_path_was_never_written",
    ) {
        return;
    }
    // On the same file system, and on another one.
    let place = Place::new();
    let disk = SmallDisk::mount(&place, 1024);
    for source in [place.path().join("source.json"), disk.folder.join("source.json")] {
        let folder = place.path().join("container");
        fs::create_dir_all(&folder).expect("a folder");
        let export = folder.join("list.json");
        fs::write(&source, "[]").expect("a file");
        bind(&source, &export);
        is_followed(&place, &export);
        assert_eq!(names(&folder), ["list.json"], "no lock file and no temporary file");
        let (level, detail, advice) = doctor(&place, &export);
        assert_eq!(level, "warning");
        assert!(
            detail.contains("is a mount point") && advice.contains("mount its folder"),
            "{detail}"
        );

        // A host that is killed leaves its list; the next one corrects it.
        let mut host = Host::start(&place, &format!("export={}", export.display()));
        host.spawn("crashes", "exec sleep 3600");
        until("it is listed", || {
            fs::read_to_string(&export).is_ok_and(|text| text.contains("crashes"))
        });
        host.crash();
        assert_eq!(tasks(&export), ["crashes"]);
        is_followed(&place, &export);

        // By hand.
        let path = export.to_str().expect("UTF-8");
        answer(procledger(&place).args(["export", path])).expect(0);
        answer(procledger(&place).args(["report", "--format", "json", "-o", path])).expect(0);
        assert!(!tasks(&export).is_empty(), "the report of the crash");

        // Once it is no longer a mount point, lists are renamed into place.
        let tracker = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
        run("umount", &[], &export);
        let before = fs::metadata(&export).expect("there").ino();
        let _task = tracker.spawn(place.job("renamed", "exec sleep 3600")).expect("spawned");
        tracker.flush_export(PATIENCE).expect("written");
        assert_eq!(tasks(&export), ["renamed"]);
        assert_ne!(fs::metadata(&export).expect("there").ino(), before);
        tracker.shutdown().expect("an orderly end");
        assert_eq!(names(&folder), [""; 0]);
    }
}

/// A reader that takes the lock sees only complete lists; one that never releases it blocks
/// nothing.
#[test]
fn a_reader_that_locks_a_mounted_file_sees_complete_lists_and_blocks_nothing() {
    need!("mount");
    if !in_namespace(
        "export::export_in_place::a_reader_that_locks_a_mounted_file_sees_complete_lists_and_blocks_nothing",
    ) {
        return;
    }
    let place = Place::new();
    let (source, export) = (place.path().join("source.json"), place.path().join("list.json"));
    fs::write(&source, "[]").expect("a file");
    bind(&source, &export);
    let tracker = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    tracker.flush_export(PATIENCE).expect("written");
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut empty) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                let file = fs::File::open(&export).expect("there");
                flock(&file, FlockOperation::LockShared).expect("locked");
                let list = std::io::read_to_string(&file).expect("read");
                let list: Vec<serde_json::Value> =
                    serde_json::from_str(&list).unwrap_or_else(|e| panic!("{e}: {list}"));
                drop(file);
                // Not blocking the writer all the time: the locks of readers have priority.
                thread::sleep(Duration::from_millis(1));
                seen += 1;
                empty += usize::from(list.is_empty());
            }
            (seen, empty)
        });
        for round in 0..40 {
            let names = (0..round % 4).map(|number| format!("task-{number}").repeat(160));
            let mut all: Vec<_> = names
                .map(|name| tracker.spawn(place.job(&name, "exec sleep 3600")).expect("spawned"))
                .collect();
            tracker.flush_export(PATIENCE).expect("written");
            for process in &mut all {
                process.terminate().expect("ended");
            }
        }
        over.store(true, Ordering::Relaxed);
        reader.join().expect("no half list")
    });
    assert!(seen.0 > 40 && seen.1 < seen.0, "{seen:?} lists prove nothing");

    let held = fs::File::open(&export).expect("there");
    flock(&held, FlockOperation::LockShared).expect("locked");
    let _task = tracker.spawn(place.job("beside", "exec sleep 3600")).expect("spawned");
    tracker.flush_export(PATIENCE).expect("written all the same");
    assert_eq!(tasks(&export), ["beside"]);
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_full_disk_keeps_the_old_list_of_a_mounted_file() {
    need!("mount", "umount");
    if !in_namespace("export::export_in_place::a_full_disk_keeps_the_old_list_of_a_mounted_file") {
        return;
    }
    let place = Place::new();
    let disk = SmallDisk::mount(&place, 256);
    let (source, export) = (disk.folder.join("source.json"), place.path().join("list.json"));
    fs::write(&source, "[]").expect("a file");
    bind(&source, &export);
    let tracker = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    let _first = tracker.spawn(place.job("first", "exec sleep 3600")).expect("spawned");
    tracker.flush_export(PATIENCE).expect("written");
    disk.fill();
    let (level, detail, advice) = doctor(&place, &export);
    assert_eq!((level.as_str(), advice.as_str()), ("problem", ""), "{detail}");
    assert!(detail.contains("free some space on its disk"), "{detail}");
    // Larger than the page that it has.
    let names: Vec<_> = (0..8).map(|number| format!("task-{number}").repeat(160)).collect();
    let _tasks: Vec<_> = names
        .iter()
        .map(|name| tracker.spawn(place.job(name, "exec sleep 3600")).expect("tracked"))
        .collect();
    let error = eventually("it is reported", || tracker.export_error());
    assert!(error.contains("list.json") && error.contains("free some space"), "{error}");
    // The last list that fits its page, complete.
    let listed = tasks(&export);
    assert!(listed[0] == "first" && listed.len() < 9, "{listed:?}");
    disk.free();
    until("the new one is there", || tracker.export_error().is_none());
    assert_eq!(tasks(&export).len(), 9);
    tracker.shutdown().expect("an orderly end");
}

/// A container with a read-only root, and the file mounted into it: no lock file can be created
/// either.
#[test]
fn a_file_mounted_into_a_read_only_file_system_was_never_written() {
    need!("mount");
    if !in_namespace(
        "export::export_in_place::a_file_mounted_into_a_read_only_file_system_was_never_written",
    ) {
        return;
    }
    let place = Place::new();
    let disk = SmallDisk::mount(&place, 256);
    let (source, export) = (place.path().join("source.json"), disk.folder.join("list.json"));
    fs::write(&source, "[]").expect("a file");
    bind(&source, &export);
    run("mount", &["-o", "remount,bind,ro"], &disk.folder);
    is_followed(&place, &export);
    assert_eq!(doctor(&place, &export).0, "warning");

    // One instance writes, and then the next one.
    let first = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    let second = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    let _task = first.spawn(place.job("of-the-first", "exec sleep 3600")).expect("spawned");
    first.flush_export(PATIENCE).expect("written");
    let refused = second.flush_export(PATIENCE).expect_err("it is another's");
    assert!(refused.is_busy() && refused.to_string().contains("another instance"), "{refused}");
    first.shutdown().expect("an orderly end");
    let _task = second.spawn(place.job("of-the-second", "exec sleep 3600")).expect("spawned");
    until("the second has taken over", || {
        fs::read_to_string(&export).is_ok_and(|text| text.contains("of-the-second"))
    });
    second.shutdown().expect("an orderly end");
    assert_eq!(fs::read_to_string(&export).expect("there"), "[]\n");

    // Without the mount there is nothing to write.
    run("umount", &[], &export);
    let (level, detail, _) = doctor(&place, &export);
    assert_eq!(level, "problem", "{detail}");
    assert!(detail.contains("mount it writable") && detail.contains("Read-only"), "{detail}");
}

/// What is placed at the first path; the second one is a file that must not change.
type Prepare = fn(&Path, &Path);

/// What can be written, and what cannot be replaced, as an ordinary user; no file of another user
/// is touched.
#[test]
fn in_a_read_only_folder_only_the_users_own_file_is_written() {
    need!("mount");
    if !in_namespace_as_a_user(
        "export::export_in_place::in_a_read_only_folder_only_the_users_own_file_is_written",
    ) {
        return;
    }
    let place = Place::new();
    let folder = place.path().join("folder");
    let precious = place.path().join("precious");
    let export = folder.join("list.json");
    let prepare: [(&str, Prepare); 5] = [
        ("a file of ours", |export, _| fs::write(export, "[]").expect("a file")),
        ("another name of a file", |export, precious| {
            fs::hard_link(precious, export).expect("linked");
        }),
        ("a symlink", |export, precious| symlink(precious, export).expect("linked")),
        ("a FIFO", |export, _| run("mkfifo", &[], export)),
        ("nothing", |_, _| {}),
    ];
    for (what, prepare) in prepare {
        fs::create_dir(&folder).expect("a folder");
        fs::write(&precious, "[ ]").expect("a file");
        prepare(&export, &precious);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).expect("its mode");
        if what == "a file of ours" {
            is_followed(&place, &export);
            let (level, detail, advice) = doctor(&place, &export);
            assert_eq!(level, "warning", "{detail}");
            assert_eq!(advice, "let its owner write to the folder");
        } else {
            let log = place.path().join("log");
            let mut host =
                Host::start(&place, &format!("export={} log={}", export.display(), log.display()));
            host.spawn("tracked", "exec sleep 3600");
            until("it is reported", || {
                fs::read_to_string(&log).is_ok_and(|text| text.contains("the export is off"))
            });
            host.stop();
            if what != "a FIFO" {
                let (level, detail, advice) = doctor(&place, &export);
                assert_eq!((level.as_str(), advice.as_str()), ("problem", ""), "{what}: {detail}");
            }
        }
        assert_eq!(fs::read_to_string(&precious).expect("there"), "[ ]", "{what}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
        fs::remove_dir_all(&folder).expect("removed");
    }
}

/// A container's user ids: the file belongs to a user of the host. It is written only where only
/// root could have mounted it.
#[test]
fn a_mounted_file_of_another_user_is_written_only_in_a_folder_of_the_host() {
    need!("mount");
    let name = "export::export_in_place::a_mounted_file_of_another_user_is_written_only_in_a_folder_of_the_host";
    if !crate::support::root() || !in_namespace(name) {
        return;
    }
    let place = Place::new();
    for (mode, written) in [(0o755, true), (0o1777, false)] {
        let (source, folder) = (place.path().join("source.json"), place.path().join("folder"));
        let export = folder.join("list.json");
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("its mode");
        fs::write(&source, "[]").expect("a file");
        chown(&source, Some(61235), Some(61235)).expect("given");
        bind(&source, &export);
        if written {
            is_followed(&place, &export);
        } else {
            let tracker =
                Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
            let error = eventually("it is reported", || tracker.export_error());
            assert!(error.contains("is a mount point and belongs to uid 61235"), "{error}");
            tracker.shutdown().expect("an orderly end");
            assert_eq!(fs::read_to_string(&export).expect("there"), "[]");
            assert_eq!(doctor(&place, &export).0, "problem");
        }
        run("umount", &[], &export);
        fs::remove_dir_all(&folder).expect("removed");
    }
}

/// A malformed list is backed up before it is overwritten, also where it cannot be renamed.
#[test]
fn a_malformed_list_at_a_mount_point_is_copied_before_it_is_overwritten() {
    need!("mount");
    if !in_namespace(
        "export::export_in_place::a_malformed_list_at_a_mount_point_is_copied_before_it_is_overwritten",
    ) {
        return;
    }
    for text in ["[{\"task_id\": \"cut o", "", "[]\n]\n"] {
        let place = Place::new();
        let (source, export) = (place.path().join("source.json"), place.path().join("list.json"));
        fs::write(&source, text).expect("a file");
        bind(&source, &export);
        is_followed(&place, &export);
        let kept = fs::read_to_string(place.path().join("list.json.corrupt"));
        assert_eq!(kept.expect("kept"), text);
        run("umount", &[], &export);
    }
}

#[test]
fn doctor_reported_no_problem_for_an_export_that_could_not_be_written() {
    need!("mount", "umount");
    if !in_namespace(
        "export::export_in_place::doctor_reported_no_problem_for_an_export_that_could_not_be_written",
    ) {
        return;
    }
    let place = Place::new();
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    let disk = SmallDisk::mount(&place, 256);
    let export: PathBuf = disk.folder.join("list.json");
    let (level, detail, _) = doctor(&place, &export);
    assert!(level == "ok" && detail.contains("does not exist"), "{detail}");
    fs::write(&export, "[]").expect("a file");
    let (level, detail, _) = doctor(&place, &export);
    assert!(level == "ok" && detail.contains("not renamed to it"), "{detail}");

    let problem = |why: &str, advice: &str| {
        let (level, detail, second) = doctor(&place, &export);
        assert_eq!((level.as_str(), second.as_str()), ("problem", ""), "one advice: {detail}");
        assert!(detail.contains(why) && detail.contains(advice), "{detail}");
    };
    disk.fill();
    problem("No space left", "free some space on its disk");
    disk.free();
    run("mount", &["-o", "remount,bind,ro"], &disk.folder);
    problem("Read-only", "mount it writable");
    run("mount", &["-o", "remount,bind,rw"], &disk.folder);
    // An obstacle at the path of the lock file.
    let lock = disk.folder.join("list.json.lock");
    symlink("elsewhere", &lock).expect("a symlink");
    problem("list.json.lock` is a symlink", "remove it");
    fs::remove_file(&lock).expect("removed");
    // A folder at the path; no parent folder.
    fs::remove_file(&export).expect("removed");
    fs::create_dir(&export).expect("a folder");
    let Answer { out, .. } =
        answer(procledger(&place).args(["--export", export.to_str().expect("UTF-8"), "doctor"]))
            .expect(1);
    assert!(out.contains("is a folder: choose another path"), "{out}");
    let missing = place.path().join("no/such/list.json");
    let missing = missing.to_str().expect("UTF-8");
    let Answer { out, .. } =
        answer(procledger(&place).args(["--export", missing, "doctor"])).expect(1);
    assert!(out.contains("cannot be used: create it"), "{out}");
}
