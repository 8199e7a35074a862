use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, TransactionBehavior};
use rustix::{fs::Mode, process::umask};

use super::fixture::*;
use crate::{
    error::Kind,
    model::{Millis, StopHow},
    store::{Schema, Store, Upgrade, trust::beside},
};

#[test]
fn a_new_ledger_is_private_in_wal_mode_and_current() {
    let f = Fixture::new();
    for suffix in ["", "-wal", "-shm", "-setup.lock"] {
        assert_eq!(mode(&f.store.beside(suffix)), 0o600, "{suffix}");
    }
    assert_eq!(f.store.schema(), Schema::latest());
    assert_eq!(f.number("PRAGMA application_id"), 0x706c_6467);
    assert_eq!(f.number("PRAGMA auto_vacuum"), 2, "incremental");
    assert!(f.store.check().expect("checked").is_empty());
    assert_eq!(f.store.owner_uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn each_connection_has_its_pragmas() {
    let f = Fixture::new();
    for (pragma, expected) in [
        ("PRAGMA busy_timeout", 5_000),
        ("PRAGMA synchronous", 1),
        ("PRAGMA foreign_keys", 1),
        ("PRAGMA trusted_schema", 0),
        ("PRAGMA journal_size_limit", 4 << 20),
    ] {
        let written =
            f.store.write("test", |tx| tx.query_one(pragma, [], |row| row.get::<_, i64>(0)));
        assert_eq!(written.expect("read"), expected, "{pragma} of the writer");
        assert_eq!(f.number(pragma), expected, "{pragma} of a reader");
    }
    assert_eq!(f.number("PRAGMA query_only"), 1);
}

/// The bundled SQLite has the fix of the WAL-reset bug.
#[cfg(feature = "bundled")]
#[test]
fn sqlite_is_new_enough() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", Store::sqlite_version());
}

#[test]
fn modes_hold_under_any_umask() {
    for mask in ["000", "777"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = child("store::tests::open::child_with_a_umask", folder.path());
        child.env("PROCLEDGER_TEST_UMASK", mask);
        run(child);
    }
}

#[test]
fn child_with_a_umask() {
    let Some(folder) = given_folder() else { return };
    let mask = std::env::var("PROCLEDGER_TEST_UMASK").expect("given");
    umask(Mode::from_raw_mode(u32::from_str_radix(&mask, 8).expect("octal")));
    let store = open(&file(&folder, "")).expect("opens");
    for suffix in ["", "-wal", "-shm", "-setup.lock"] {
        assert_eq!(mode(&store.beside(suffix)), 0o600, "{suffix} under {mask}");
    }
}

#[test]
fn a_current_ledger_is_opened_without_the_setup_lock() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    drop(open(&path).expect("created"));
    let held = fs::File::open(file(folder.path(), "-setup.lock")).expect("there");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let started = Instant::now();
    drop(open(&path).expect("opened"));
    assert!(started.elapsed() < Duration::from_secs(5), "did not wait for the lock");
}

#[test]
fn a_setup_that_was_cut_short_is_completed() {
    let cuts: [fn(&Path); 4] = [
        |folder| fs::write(file(folder, ""), "").expect("written"),
        // Under a umask of 0777 a crash leaves the file without any permission.
        |folder| {
            fs::write(file(folder, ""), "").expect("written");
            chmod(&file(folder, ""), 0);
        },
        |folder| {
            let connection = Connection::open(file(folder, "")).expect("opens");
            let wal = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL";
            connection.execute_batch(wal).expect("runs");
            chmod(&file(folder, ""), 0o600);
        },
        // The migration was not committed, and the WAL is still there.
        |folder| run(child("store::tests::open::child_that_dies_in_the_setup", folder)),
    ];
    for (index, cut) in cuts.into_iter().enumerate() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = file(folder.path(), "");
        cut(folder.path());
        let store = open(&path).unwrap_or_else(|e| panic!("cut {index}: {e:?}"));
        assert_eq!(store.schema(), Schema::latest(), "cut {index}");
        assert_eq!(mode(&path), 0o600, "cut {index}");
        let vacuum: i64 = store
            .read("test", |c| c.query_one("PRAGMA auto_vacuum", [], |row| row.get(0)))
            .expect("read");
        assert_eq!(vacuum, 2, "cut {index}");
    }
}

#[test]
fn child_that_dies_in_the_setup() {
    let Some(folder) = given_folder() else { return };
    let connection = Connection::open(file(&folder, "")).expect("opens");
    chmod(&file(&folder, ""), 0o600);
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             BEGIN IMMEDIATE; CREATE TABLE half (x); PRAGMA application_id = 1;",
        )
        .expect("runs");
    std::process::exit(0);
}

/// A released ledger of a schema before the table `ledger`.
fn old_ledger(path: &Path, schema: i64) {
    let fixture = format!("tests/fixtures/ledger-{schema}.db");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture), path).expect("copied");
    chmod(path, 0o600);
}

#[test]
fn a_migration_that_was_cut_short_has_not_happened() {
    for schema in 1..=3 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = file(folder.path(), "");
        old_ledger(&path, schema);
        run(child("store::tests::open::child_that_dies_in_a_migration", folder.path()));
        assert!(
            fs::metadata(file(folder.path(), "-wal")).expect("there").len() > 0,
            "it had begun"
        );
        let before = Store::open(&path, Upgrade::LeaveAsItIs).expect("opened");
        assert_eq!((before.schema() < Schema::LEDGER, before.uuid().expect("read")), (true, None));
        drop(before);
        let store = open(&path).expect("migrated");
        assert_eq!(store.schema(), Schema::latest());
        assert!(store.uuid().expect("read").is_some());
        assert!(store.check().expect("checked").is_empty());
    }
}

#[test]
fn child_that_dies_in_a_migration() {
    let Some(folder) = given_folder() else { return };
    let connection = Connection::open(file(&folder, "")).expect("opens");
    // The uncommitted part is in the WAL.
    let half = include_str!("../../../migrations/04-ledger/up.sql");
    connection
        .execute_batch(&format!(
            "PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE; {half} CREATE TABLE half (x);
             INSERT INTO half SELECT randomblob(4000) FROM process; PRAGMA user_version = 4;"
        ))
        .expect("runs");
    std::process::exit(0);
}

/// If the new ledger shared memory with the WAL of the old one, both would be damaged.
#[test]
fn files_of_a_removed_ledger_are_not_used_by_the_new_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    let old = open(&path).expect("created");
    old.add_instance(&instance("old", here(), 5)).expect("recorded");
    fs::remove_file(&path).expect("removed while it is open");
    let opens = || run(child("store::tests::open::child_that_opens_and_closes", folder.path()));
    opens();
    let refused =
        old.add_instance(&instance("old", here(), 6)).expect_err("no program would find it");
    assert!(refused.to_string().contains("was replaced by another file"), "{refused}");
    assert!(old.check().expect_err("nor is it read").to_string().contains("was replaced"));
    opens();
    let new = open(&path).expect("opened");
    drop(old);
    opens();
    let programs: Vec<_> =
        new.instances_to_check().expect("read").into_iter().map(|i| i.program).collect();
    assert_eq!(programs, ["child", "child", "child"]);
    assert!(new.check().expect("checked").is_empty());
}

#[test]
fn a_symlink_is_resolved_and_companions_are_beside_the_real_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("real")).expect("made");
    let real = folder.path().join("real/ledger.db");
    drop(open(&real).expect("created"));
    let link = folder.path().join("link.db");
    symlink("real/ledger.db", &link).expect("linked");
    let store = open(&link).expect("opened");
    assert_eq!(store.path(), real.canonicalize().expect("resolves"));
    assert!(real.with_file_name("ledger.db-wal").exists());
    assert!(!folder.path().join("link.db-wal").exists());
}

/// POSIX locks belong to the process. A second opening that closed the file by itself would drop
/// the locks of the first, and the next process to close the ledger would remove the WAL while it
/// is in use.
#[test]
fn a_second_opening_in_this_process_keeps_the_locks_of_the_first() {
    let f = Fixture::new();
    drop(open(f.store.path()).expect("opened"));
    drop(Store::open_read_only(f.store.path()).expect("opened"));
    run(child("store::tests::open::child_that_opens_and_closes", f.folder.path()));
    assert!(f.store.beside("-wal").exists(), "the other process removed the WAL");
    f.instance("after", 9);
    let seen = Store::open_read_only(f.store.path()).expect("opened");
    assert_eq!(seen.instances_to_check().expect("read").len(), 3);
}

#[test]
fn child_that_opens_and_closes() {
    let Some(folder) = given_folder() else { return };
    let store = open(&file(&folder, "")).expect("opens");
    store.add_instance(&instance("child", here(), 8)).expect("recorded");
}

/// Copying it back and starting a new one takes four fsyncs.
#[test]
fn closing_leaves_a_small_wal_and_copies_a_large_one_back() {
    let f = Fixture::new();
    f.store.live().expect("a reader is open too");
    let Fixture { folder, store, me, .. } = f;
    let names = || -> Vec<_> { snapshot(folder.path()).into_keys().skip(1).collect() };
    let all = ["", "-setup.lock", "-shm", "-wal"].map(|suffix| file(folder.path(), suffix));
    let path = store.path().to_owned();
    drop(store);
    assert_eq!(names(), all);
    // The remaining files are complete, and the next opening uses them.
    let wal = |path: &Path| fs::metadata(path.with_file_name("ledger.db-wal")).expect("a WAL");
    let before = wal(&path).ino();
    let store = open(&path).expect("opened");
    assert!(store.stop_instance(me, StopHow::Clean, Millis(5)).expect("its row is there"));
    assert_eq!(wal(&path).ino(), before);
    drop(store);
    // All files together can be moved.
    let moved = path.with_file_name("moved.db");
    for suffix in ["", "-wal", "-shm"] {
        fs::rename(file(folder.path(), suffix), beside(&moved, suffix)).expect("moved");
    }
    let store = open(&moved).expect("opened");
    assert!(!store.stop_instance(me, StopHow::Clean, Millis(6)).expect("it is stopped"));
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        fs::rename(beside(&moved, suffix), file(folder.path(), suffix)).expect("moved back");
    }
    let store = open(&path).expect("opened");
    let big = "CREATE TABLE big (x); INSERT INTO big VALUES (zeroblob(2000000))";
    store.write("test", |tx| tx.execute_batch(big)).expect("written");
    drop(store);
    assert_eq!(names(), all[..2]);
}

#[test]
fn a_write_waits_for_another_process_and_a_read_does_not() {
    let f = Fixture::new();
    let (began, wait) = mpsc::channel();
    let path = f.store.path().to_owned();
    let other = thread::spawn(move || {
        let mut other = Connection::open(path).expect("opens");
        let held = other.transaction_with_behavior(TransactionBehavior::Immediate).expect("begins");
        began.send(()).expect("heard");
        thread::sleep(Duration::from_millis(300));
        held.rollback().expect("rolled back");
    });
    wait.recv().expect("held");
    let started = Instant::now();
    f.store.live().expect("read beside it");
    assert!(started.elapsed() < Duration::from_millis(250), "the reader did not wait");
    assert!(f.store.stop_instance(f.me, StopHow::Clean, Millis(5)).expect("waited"));
    other.join().expect("no panic");
}

/// SQLite refuses a transaction that began as a reader at once if another connection has written
/// since, whatever the timeout.
#[test]
fn writers_that_read_first_wait_for_each_other() {
    let f = Fixture::new();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (path, me) = (f.store.path().to_owned(), f.me);
            thread::spawn(move || {
                let store = open(&path).expect("opens");
                for n in 0..50 {
                    let new = process(me, &format!("task-{writer}-{n}"), 10 + n);
                    store.insert_one(&here(), &new).expect("inserted");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("no error");
    }
    assert_eq!(f.store.live().expect("read").len(), 200);
}

#[test]
fn vacuum_releases_pages_and_tolerates_readers() {
    let f = Fixture::new();
    f.sql("CREATE TABLE big (x)", []);
    f.sql("INSERT INTO big SELECT randomblob(1000000) FROM (VALUES (1), (2), (3))", []);
    f.vacuum();
    let full = fs::metadata(f.store.path()).expect("there").len();
    f.sql("DROP TABLE big", []);
    let reader = Connection::open(f.store.path()).expect("opens");
    reader.execute_batch("BEGIN; SELECT * FROM instance").expect("reads");
    let connection = f.store.maintenance_connection().expect("opens");
    while connection.free_pages(100).expect("a reader is not an error").done > 0 {}
    let began = Instant::now();
    assert!(!connection.checkpoint(true).expect("a reader is not an error"));
    assert!(began.elapsed() < Duration::from_secs(2), "it does not wait for the reader");
    reader.execute_batch("COMMIT").expect("done");
    f.vacuum();
    let small = fs::metadata(f.store.path()).expect("there").len();
    assert!(small + 2_900_000 < full, "{small} of {full} bytes are left");
    assert_eq!(fs::metadata(f.store.beside("-wal")).expect("there").len(), 0);
    assert_eq!(f.number("PRAGMA busy_timeout"), 5_000);
}

#[test]
fn a_damaged_reference_is_found_by_the_check() {
    let f = Fixture::new();
    let other = Connection::open(f.store.path()).expect("opens");
    other
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             INSERT INTO pass (instance, kind, started_at, duration_us, checked, found, ended,
               survived, unknown) VALUES (999, 'health', 1, 1, 1, 1, 1, 1, 1)",
        )
        .expect("damaged");
    let problems = f.store.check().expect("checked");
    assert_eq!(problems, ["pass 1 refers to a row of instance that does not exist"]);
}

#[test]
fn a_write_that_fails_leaves_nothing_and_frees_the_writer() {
    let f = Fixture::new();
    let missing = crate::model::InstanceId(999);
    let batch = [process(f.me, "a", 10), process(missing, "b", 11)];
    let error = f.insert_all(batch).expect_err("no such owner");
    assert_eq!(error.kind(), Kind::Other);
    assert!(error.to_string().contains("failed to record a process in the ledger"), "{error}");
    assert!(f.store.live().expect("read").is_empty(), "neither was committed");
    f.insert(process(f.me, "a", 10));
}
