use std::{fs, os::unix::fs::symlink};

use super::{make_fifo, my_uid};
use crate::export::lock::{Lock, Take};

#[test]
fn one_instance_holds_the_lock_and_the_next_one_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let first = Lock::acquire(&path, my_uid()).unwrap().expect("free");
    assert!(Lock::acquire(&path, my_uid()).unwrap().is_none());
    drop(first);
    let second = Lock::acquire(&path, my_uid()).unwrap().expect("free again");
    assert!(path.exists());
    second.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_lock_file_that_is_not_ours_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let refused = |why: &str| {
        let error = Lock::acquire(&path, my_uid()).unwrap_err();
        assert!(error.is_denied(), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    };
    make_fifo(&path);
    refused("not a regular file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("not a regular file");
    fs::remove_dir(&path).unwrap();
    symlink(folder.path().join("elsewhere"), &path).unwrap();
    refused("symlink");
    assert!(!folder.path().join("elsewhere").exists());
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    let error = Lock::acquire(&path, my_uid() + 1).unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("belongs to uid"), "{error}");
}

#[test]
fn removing_a_lock_that_lost_its_name_leaves_the_new_holders_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let old = Lock::acquire(&path, my_uid()).unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    let new = Lock::acquire(&path, my_uid()).unwrap().unwrap();
    assert!(!old.is_named() && new.is_named());
    old.remove().unwrap();
    assert!(path.exists());
}

#[test]
fn a_lock_on_a_file_that_lost_its_name_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let first = Lock::acquire(&path, my_uid()).unwrap().unwrap();
    let opened = || fs::File::open(&path).unwrap();
    let (early, late) = (opened(), opened());
    assert!(matches!(Lock::take(early, &path, my_uid()).unwrap(), Take::Held));
    first.remove().unwrap();
    let _second = Lock::acquire(&path, my_uid()).unwrap().unwrap();
    assert!(matches!(Lock::take(late, &path, my_uid()).unwrap(), Take::Vanished));
}

#[test]
fn concurrent_takers_never_hold_the_lock_together() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.lock");
    let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let Some(lock) = Lock::acquire(&path, my_uid()).unwrap() else { continue };
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    // Long enough for the other threads to open the file that is about to be
                    // removed.
                    (0..50).for_each(|_| std::thread::yield_now());
                    taken.fetch_add(1, Ordering::SeqCst);
                    holders.fetch_sub(1, Ordering::SeqCst);
                    lock.remove().unwrap();
                }
            });
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 0);
}
