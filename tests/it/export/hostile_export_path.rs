//! An obstacle at the path of the JSON export: a FIFO, a folder, a symlink, another user's file, a
//! full disk. The host tracks in every case, at once, and no file of another user is touched.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    time::{Duration, Instant},
};

use procledger::Tracker;

use crate::{
    docs::faults::{SmallDisk, run},
    support::{Host, Place, copy_program, eventually, in_namespace, need, root, until},
};

/// A host that opens at once and tracks, with that export; returns the error that it reported if it
/// could not be written.
fn export_of_a_host(place: &Place, export: &Path) -> Option<String> {
    let log = place.path().join("log");
    let began = Instant::now();
    let mut host =
        Host::start(place, &format!("export={} log={}", export.display(), log.display()));
    host.spawn("task", "exec sleep 3600");
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for something");
    let error = eventually("it is exported, or the reason is reported", || {
        let is_there = fs::symlink_metadata(export).is_ok_and(|file| file.is_file())
            && fs::read_to_string(export).is_ok_and(|text| text.contains("\"task\""));
        let text = fs::read_to_string(&log).expect("a log");
        let error = text.lines().find(|line| line.contains("ERROR") && line.contains("export"));
        if is_there { Some(None) } else { error.map(|line| Some(line.to_owned())) }
    });
    host.stop();
    error
}

#[test]
fn a_fifo_is_replaced_without_waiting_for_its_other_end() {
    need!("mkfifo");
    let place = Place::new();
    let export = place.path().join("list.json");
    run("mkfifo", &[], &export);
    assert_eq!(export_of_a_host(&place, &export), None);
    assert!(!export.exists(), "an orderly end removes what we wrote");
}

#[test]
fn a_symlink_is_replaced_and_its_target_is_unchanged() {
    let place = Place::new();
    let (export, precious) = (place.path().join("list.json"), place.path().join("precious"));
    fs::write(&precious, "mine").expect("a file");
    symlink(&precious, &export).expect("a symlink");
    assert_eq!(export_of_a_host(&place, &export), None);
    assert_eq!(fs::read_to_string(&precious).expect("still there"), "mine");
}

#[test]
fn a_folder_is_left_in_place_and_reported() {
    let place = Place::new();
    let export = place.path().join("list.json");
    fs::create_dir(&export).expect("a folder");
    fs::write(export.join("precious"), "mine").expect("a file");
    let error = export_of_a_host(&place, &export).expect("it cannot be written");
    assert!(error.contains("is a folder: choose another path"), "{error}");
    assert_eq!(fs::read_to_string(export.join("precious")).expect("still there"), "mine");
}

#[test]
fn another_users_file_in_a_sticky_folder_is_left_in_place_and_reported() {
    need!("setpriv");
    if !root() {
        return;
    }
    let place = Place::new();
    let folder = place.path().join("sticky");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).expect("its mode");
    let export = folder.join("list.json");
    fs::write(&export, "[]").expect("a file");
    chown(&export, Some(61235), Some(61235)).expect("another user's");
    // root may replace it; another ordinary user may not.
    let ledger = place.path().join("ledger.db");
    chown(place.path(), Some(61234), Some(61234)).expect("given");
    let log = place.path().join("log");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=61234", "--regid=61234", "--clear-groups", "--inh-caps=-all"]);
    let binary = place.path().join("host");
    copy_program(std::env::current_exe().expect("this binary"), &binary);
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("its mode");
    command.arg(binary);
    let options = format!("export={} log={}", export.display(), log.display());
    let mut host = Host::launch_by(command, &place, &ledger, &options);
    assert_eq!(host.answer(), "open 0");
    host.spawn("task", "exec sleep 3600");
    until("it is reported", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("belongs to uid 61235"))
    });
    host.stop();
    assert_eq!(fs::read_to_string(&export).expect("still there"), "[]");
}

#[test]
fn on_a_full_disk_the_old_list_is_kept_until_there_is_space() {
    need!("mount", "umount");
    if !in_namespace(
        "export::hostile_export_path::on_a_full_disk_the_old_list_is_kept_until_there_is_space",
    ) {
        return;
    }
    let place = Place::new();
    let disk = SmallDisk::mount(&place, 256);
    let export = disk.folder.join("list.json");
    let tracker = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    tracker.spawn(place.job("first", "exec sleep 3600")).expect("spawned");
    tracker.flush_export(Duration::from_secs(10)).expect("written");
    let before = fs::read(&export).expect("a list");
    disk.fill();
    tracker.spawn(place.job("second", "exec sleep 3600")).expect("tracking goes on");
    let error = eventually("it is reported", || tracker.export_error());
    assert!(error.contains("list.json") && error.contains("No space left"), "{error}");
    assert_eq!(fs::read(&export).expect("a list"), before, "the old one is whole");
    let names = || fs::read_dir(&disk.folder).expect("a folder").count();
    assert_eq!(names(), 3, "the list, its lock and what fills the disk");
    disk.free();
    until("the new one is there", || {
        fs::read_to_string(&export).is_ok_and(|text| text.contains("\"second\""))
    });
    until("all is well", || tracker.export_error().is_none());
    tracker.shutdown().expect("an orderly end");
}

/// As large as a file on the disk can be, and with as many entries as a list may have.
#[test]
fn a_huge_list_of_the_former_implementation_does_not_delay_the_start() {
    let place = Place::new();
    let list = place.path().join("list.json");
    let file = fs::File::create(&list).expect("a file");
    file.set_len(1 << 30).expect("a gigabyte, none of it on the disk");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).expect("its mode");
    let began = Instant::now();
    let tracker = Tracker::builder(place.ledger()).export(&list).open().expect("a ledger");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let errors = &tracker.startup_report().errors;
    assert!(
        errors.len() == 1 && errors[0].contains("it has more than 16777216 bytes"),
        "{errors:?}"
    );
    assert_eq!(fs::metadata(place.path().join("list.json.corrupt")).expect("kept").len(), 1 << 30);
    tracker.shutdown().expect("an orderly end");

    let entry = |pid: u32| {
        format!(r#"{{"task_id":"t","process_id":{pid},"start_time":"2020-01-01T00:00:00Z"}}"#)
    };
    let mine = std::process::id();
    let entries: Vec<String> = (0..50_000)
        .map(|number| entry(4_000_000 + number))
        .chain([entry(mine), entry(1)])
        .collect();
    fs::write(&list, format!("[{}]", entries.join(","))).expect("a list");
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).expect("its mode");
    let began = Instant::now();
    let tracker = Tracker::builder(place.ledger()).export(&list).open().expect("a ledger");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(tracker.startup_report().ended(), 0);
    tracker.shutdown().expect("an orderly end");
}
