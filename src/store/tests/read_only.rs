use std::fs;

use super::fixture::*;
use crate::{
    error::Kind,
    model::{Millis, PassKind, StopHow},
    store::Store,
};

#[test]
fn a_missing_ledger_is_named_and_not_created() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = file(folder.path(), "");
    let error = Store::open_read_only(&path).expect_err("not there");
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("ledger.db"), "{error}");
    fs::write(&path, "").expect("written");
    assert_eq!(Store::open_read_only(&path).expect_err("empty").kind(), Kind::NotFound);
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn reading_changes_nothing() {
    let Fixture { folder, store, .. } = Fixture::new();
    drop(store);
    let contents = || {
        let mut all = snapshot(folder.path());
        // SQLite rebuilds the index of the WAL, which has no data of its own, and the time of the
        // folder changes.
        all.remove(folder.path());
        all.remove(&file(folder.path(), "-shm"));
        all
    };
    let before = contents();
    let store = Store::open_read_only(&file(folder.path(), "")).expect("opened");
    assert_eq!(store.instances_to_check().expect("read").len(), 1);
    assert!(store.check().expect("checked").is_empty());
    drop(store);
    assert_eq!(contents(), before);
}

#[test]
fn reading_works_beside_a_live_writer() {
    let f = Fixture::new();
    let reader = Store::open_read_only(f.store.path()).expect("opened");
    assert!(reader.live().expect("read").is_empty());
    f.insert(process(f.me, "a", 10));
    assert_eq!(reader.live().expect("read").len(), 1, "sees what is committed later");
    assert_eq!(reader.file(), f.store.file());
    assert_eq!(reader.path(), f.store.path());
}

/// A writer that opens the ledger after the reader, which was the only one.
#[test]
fn a_reader_sees_a_writer_that_opens_the_ledger_later() {
    let Fixture { folder, store, me } = Fixture::new();
    drop(store);
    let path = file(folder.path(), "");
    let reader = Store::open_read_only(&path).expect("opened");
    let writer = open(&path).expect("opened");
    writer.insert_one(&here(), &process(me, "a", 10)).expect("inserted");
    assert_eq!(reader.live().expect("read").len(), 1);
    drop(writer);
    assert_eq!(reader.live().expect("read").len(), 1);
}

#[test]
fn every_write_is_refused() {
    let f = Fixture::new();
    let id = f.insert(process(f.me, "a", 10));
    let store = Store::open_read_only(f.store.path()).expect("opened");
    let errors = [
        store.add_instance(&instance("x", here(), 2)).err(),
        store.stop_instance(f.me, StopHow::Clean, Millis(1)).err(),
        store.insert_one(&here(), &process(f.me, "b", 11)).err(),
        store.claim(&[id], f.me, None, None).err(),
        store.record_pass(f.me, &pass(PassKind::Health, 1)).err(),
        store.forget(&[id], "a", Millis(1)).err(),
        store.maintenance_connection().err(),
    ];
    for error in errors {
        let error = error.expect("refused");
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("opened for reading only"), "{error}");
    }
    let raw = store.read("test", |c| c.execute("DELETE FROM process", []));
    assert!(raw.is_err(), "not even by a statement of our own");
}
