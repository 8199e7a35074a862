//! Every refusal names the path, says what to do, and leaves the disk as it was.

use std::{
    fs,
    os::unix::{
        fs::{chown, symlink},
        process::CommandExt,
    },
    path::Path,
    process::Command,
    time::Duration,
};

use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::fixture::*;
use crate::{
    error::Kind,
    store::{Store, trust::beside},
    tests::{root, skipped},
};

/// The user `nobody` on every distribution: a uid that is not ours.
const NOBODY: u32 = 65_534;

/// Checks that a ledger is refused in a folder that `prepare` has changed, and that the folder
/// stays untouched.
fn refused(prepare: impl FnOnce(&Path, &Path)) -> (Kind, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    prepare(folder.path(), &path);
    let before = snapshot(folder.path());
    let error = open(&path).err().unwrap_or_else(|| panic!("not refused: {before:?}"));
    assert_eq!(snapshot(folder.path()), before, "{error}: the folder was touched");
    assert!(error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
    (error.kind(), error.to_string())
}

fn ledger(path: &Path) {
    drop(open(path).expect("created"));
}

fn edit(path: &Path, sql: &str) {
    Connection::open(path).expect("opens").execute_batch(sql).expect("runs");
}

#[test]
fn a_ledger_of_a_newer_version_is_refused() {
    let (kind, message) = refused(|_, path| {
        ledger(path);
        edit(path, "PRAGMA user_version = 99");
    });
    assert_eq!(kind, Kind::Newer);
    assert!(message.contains("version 99") && message.contains("update"), "{message}");
}

/// The newer program is running, so its version is in the WAL only.
#[test]
fn a_newer_ledger_in_use() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    ledger(&path);
    let newer = Connection::open(&path).expect("opens");
    newer.execute_batch("PRAGMA user_version = 99").expect("runs");
    // Without the ledger itself, since closing a descriptor of it would drop the locks of `newer`.
    let seen = || {
        let sizes =
            ["-wal", "-setup.lock"].map(|suffix| fs::read(file(folder.path(), suffix)).ok());
        (sizes, fs::read_dir(folder.path()).expect("a folder").count())
    };
    let before = seen();
    assert_eq!(open(&path).expect_err("refused").kind(), Kind::Newer);
    assert_eq!(Store::open_read_only(&path).expect_err("refused").kind(), Kind::Newer);
    assert_eq!(seen(), before);
}

#[test]
fn a_database_of_another_application() {
    for sql in [
        "PRAGMA application_id = 7",
        "CREATE TABLE t (x)",
        "PRAGMA user_version = 1",
        "PRAGMA journal_mode = WAL; CREATE TABLE t (x)",
        "PRAGMA application_id = 0x706c6467; PRAGMA user_version = -1",
    ] {
        let (kind, _) = refused(|_, path| {
            edit(path, sql);
            chmod(path, 0o600);
        });
        assert_eq!(kind, Kind::NotALedger, "{sql}");
    }
}

#[test]
fn a_file_that_is_not_a_database() {
    for bytes in [b"x".to_vec(), b"task_id,pid\n".repeat(1_000), vec![0; 8_192]] {
        let (kind, message) = refused(|_, path| {
            fs::write(path, &bytes).expect("written");
            chmod(path, 0o600);
        });
        assert_eq!(kind, Kind::NotALedger, "{message}");
    }
}

#[test]
fn a_path_that_is_not_a_plain_file() {
    let (kind, message) = refused(|_, path| fs::create_dir(path).expect("made"));
    assert_eq!(kind, Kind::NotALedger);
    assert!(message.contains("is a folder"), "{message}");
    let (kind, message) = refused(|_, path| {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
    });
    assert_eq!(kind, Kind::NotALedger);
    assert!(message.contains("is a FIFO"), "{message}");
    let error = open(Path::new("/dev/null")).expect_err("refused");
    assert!(error.to_string().contains("is a device"), "{error}");
    let error = open(Path::new("/")).expect_err("refused");
    assert_eq!(error.kind(), Kind::InvalidInput);
}

#[test]
fn a_folder_that_does_not_exist() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("no/such/ledger.db");
    let error = open(&path).expect_err("refused");
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("no/such"), "{error}");
    assert!(!folder.path().join("no").exists());
}

#[test]
fn a_symlink_that_leads_nowhere() {
    let (_, message) = refused(|_, path| symlink("gone.db", path).expect("linked"));
    assert!(message.contains("leads nowhere"), "{message}");
}

#[test]
fn a_ledger_that_others_can_write() {
    for bits in [0o620, 0o602, 0o666] {
        let (kind, message) = refused(|_, path| {
            ledger(path);
            chmod(path, bits);
        });
        assert_eq!(kind, Kind::Denied);
        assert!(message.contains("chmod go-w"), "{message}");
    }
}

#[test]
fn a_folder_that_others_can_write() {
    for bits in [0o770, 0o707, 0o777] {
        let (kind, _) = refused(|folder, path| {
            ledger(path);
            chmod(folder, bits);
        });
        assert_eq!(kind, Kind::Denied, "{bits:o}");
    }
}

#[test]
fn a_folder_above_that_others_can_write() {
    let top = tempfile::tempdir().expect("a temporary folder");
    let below = top.path().join("below");
    fs::create_dir(&below).expect("made");
    chmod(top.path(), 0o777);
    let error = open(&below.join("ledger.db")).expect_err("refused");
    assert_eq!(error.kind(), Kind::Denied);
    chmod(top.path(), 0o1777);
    open(&below.join("ledger.db")).expect("a sticky folder is fine");
}

#[test]
fn a_companion_that_is_not_the_owners() {
    let (kind, message) = refused(|folder, path| {
        ledger(path);
        fs::write(file(folder, "-wal"), "forged").expect("written");
        chmod(&file(folder, "-wal"), 0o666);
    });
    assert_eq!(kind, Kind::Denied);
    assert!(message.contains("ledger.db-wal"), "{message}");
    let (kind, _) = refused(|folder, path| {
        ledger(path);
        fs::remove_file(file(folder, "-shm")).expect("removed");
        symlink("ledger.db", file(folder, "-shm")).expect("linked");
    });
    assert_eq!(kind, Kind::Denied);
    let (kind, _) = refused(|folder, _| {
        chmod(folder, 0o1777);
        second_name(folder, "-setup.lock");
    });
    assert_eq!(kind, Kind::Denied);
}

/// Creates a file, and a hard link to it as a companion of the ledger.
fn second_name(folder: &Path, suffix: &str) {
    fs::write(folder.join("other"), "").expect("written");
    chmod(&folder.join("other"), 0o600);
    fs::hard_link(folder.join("other"), file(folder, suffix)).expect("linked");
}

/// `cp -al` makes backups of hard links; in a folder that only we can access they do no harm.
#[test]
fn a_backup_made_of_hard_links_is_accepted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    second_name(folder.path(), "-setup.lock");
    open(&file(folder.path(), "")).expect("opens");
}

#[test]
fn a_companion_of_another_user_in_a_sticky_folder() {
    if !root() {
        return;
    }
    let (kind, _) = refused(|folder, _| {
        chmod(folder, 0o1777);
        fs::write(file(folder, "-wal"), "forged").expect("written");
        chmod(&file(folder, "-wal"), 0o600);
        chown(file(folder, "-wal"), Some(NOBODY), None).expect("given away");
    });
    assert_eq!(kind, Kind::Denied);
}

#[test]
fn root_does_not_create_a_ledger_in_anothers_folder() {
    if !root() {
        return;
    }
    let (kind, _) = refused(|folder, _| chown(folder, Some(NOBODY), None).expect("given away"));
    assert_eq!(kind, Kind::Denied);
}

#[test]
fn root_opens_anothers_ledger_without_locking_its_owner_out() {
    let Some((folder, child)) = as_nobody("store::tests::refusals::child_creates_a_ledger") else {
        return;
    };
    run(child);
    let path = file(folder.path(), "");
    let store = open(&path).expect("root may");
    assert_eq!(store.owner_uid(), NOBODY);
    for suffix in ["-wal", "-shm", "-setup.lock"] {
        let owner = std::os::unix::fs::MetadataExt::uid(
            &fs::metadata(store.beside(suffix)).expect("there"),
        );
        assert_eq!(owner, NOBODY, "{suffix}");
    }
}

#[test]
fn child_creates_a_ledger() {
    let Some(folder) = given_folder() else { return };
    drop(open(&file(&folder, "")).expect("opens"));
}

/// As another user: opens a ledger of root, and tries to write and read in a folder that it cannot
/// write to.
#[test]
fn another_user_is_refused() {
    let Some((folder, child)) = as_nobody("store::tests::refusals::child_of_another_user") else {
        return;
    };
    chown(folder.path(), Some(0), Some(0)).expect("taken back");
    chmod(folder.path(), 0o755);
    drop(open(&file(folder.path(), "")).expect("created by root"));
    fs::create_dir(folder.path().join("shut")).expect("made");
    let before = snapshot(folder.path());
    run(child);
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn child_of_another_user() {
    let Some(folder) = given_folder() else { return };
    let error = open(&file(&folder, "")).expect_err("another user's");
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    assert!(error.to_string().contains("belongs to uid 0"), "{error}");
    let error = open(&folder.join("shut/new.db")).expect_err("cannot be written");
    assert_eq!(error.kind(), Kind::Denied, "{error:?}");
    assert!(error.to_string().contains("cannot be written by uid"), "{error}");
}

#[test]
fn a_ledger_in_a_folder_that_cannot_be_written_is_still_read() {
    let Some((folder, mut child)) =
        as_nobody("store::tests::refusals::child_that_reads_a_shut_folder")
    else {
        return;
    };
    chown(folder.path(), Some(0), Some(0)).expect("taken back");
    let path = file(folder.path(), "");
    let store = open(&path).expect("created");
    store.add_instance(&instance("api", here(), 4)).expect("recorded");
    drop(store);
    chmod(folder.path(), 0o755);
    for suffix in ["", "-wal", "-shm"] {
        chmod(&file(folder.path(), suffix), 0o644);
    }
    let mut is_read = || {
        let before = snapshot(folder.path());
        run(&mut child);
        assert_eq!(snapshot(folder.path()), before);
    };
    is_read();
    // SQLite leaves no WAL when it closes the ledger.
    let all = Connection::open(&path).expect("opens");
    all.query_one("SELECT count(*) FROM instance", [], |_| Ok(())).expect("read");
    drop(all);
    assert!(!file(folder.path(), "-wal").exists());
    is_read();
}

#[test]
fn child_that_reads_a_shut_folder() {
    let Some(folder) = given_folder() else { return };
    let store = Store::open_read_only(&file(&folder, "")).expect("opened");
    assert_eq!(store.instances_to_check().expect("read").len(), 1);
}

/// Returns a folder of the user `nobody`, and a test to run as that user; `None` where we are not
/// root, or `nobody` cannot run this program.
fn as_nobody(test: &str) -> Option<(TempDir, Command)> {
    if !root() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let as_nobody = |test| {
        let mut command = child(test, folder.path());
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    };
    // Another user may not be able to reach the folder that this program was built in.
    if !as_nobody("no test of this name").output().is_ok_and(|output| output.status.success()) {
        skipped("another user cannot reach the folder that this program was built in");
        return None;
    }
    let command = as_nobody(test);
    Some((folder, command))
}

/// Beside an emptied file SQLite would remove the WAL; from another ledger it would return the
/// rows; without a WAL it would create a new one.
#[test]
fn a_reader_is_not_opened_on_a_file_that_replaced_the_ledger() {
    let without_wal = |path: &Path| {
        for suffix in ["-wal", "-shm"] {
            fs::remove_file(beside(path, suffix)).expect("removed");
        }
    };
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        ledger(&other);
        fs::rename(other, path).expect("replaced");
    };
    not_opened("emptied", |path| fs::write(path, "").expect("emptied"));
    not_opened("removed", |path| fs::remove_file(path).expect("removed"));
    not_opened("replaced", replace);
    not_opened("without its WAL", without_wal);
}

fn not_opened(what: &str, change: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    let store = open(&path).expect("created");
    change(&path);
    let before = snapshot(folder.path());
    store.another_reader(Duration::from_millis(100)).expect_err(what);
    assert_eq!(snapshot(folder.path()), before, "{what}: the folder was touched");
}
