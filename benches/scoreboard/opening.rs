//! Opening a ledger that contains nothing to reap.

use std::{path::Path, time::Duration};

use procledger::{ContainmentMode, Tracker};

use super::{
    bare,
    former::Former,
    samples::{Samples, in_turns, timed},
    score::{Board, Line},
    sleepers::Sleepers,
};

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(60, 300);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    let (ours, limit) = beside_bare(&path, rounds);
    let sleepers = Sleepers::new(20);
    let former = Former::tracking(&sleepers.pids);
    let mut former_samples = Samples::default();
    (0..rounds / 4).for_each(|_| former_samples.add(timed(|| former.start()).0));
    let mut floor = Samples::default();
    (0..rounds).for_each(|round| floor.add(open_least(&path, round)));
    board.add(
        Line::new("open, nothing to reap, beside its floor", &ours)
            .beside("bare open, lock file, INSERT of an instance and of a pass", floor.median()),
    );
    board.add(
        Line::new("open, nothing to reap", &ours)
            .beside("bare open", limit.median())
            .at_most(2.0)
            .former(former_samples.median()),
    );
}

pub(crate) fn beside_bare(path: &Path, rounds: usize) -> (Samples, Samples) {
    open(path);
    in_turns(rounds, |_| open(path), |_| open_bare(path))
}

/// Time until a program could be spawned. The orderly shutdown is not measured.
fn open(path: &Path) -> Duration {
    let builder = Tracker::builder(path).containment(ContainmentMode::Session);
    let (took, tracker) = timed(|| builder.open().expect("a ledger"));
    tracker.shutdown().expect("an orderly end");
    took
}

/// The minimum that an instance needs: a bare open, a locked file that shows that it lives, its
/// row, and the row of the pass that found nothing to reap, which is committed before anything may
/// be spawned.
fn open_least(path: &Path, round: usize) -> Duration {
    let lock = path.with_extension(format!("lock-{round}"));
    let (took, held) = timed(|| {
        let file = std::fs::File::create_new(&lock).expect("a lock");
        file.lock().expect("locked");
        let connection = bare::open(path);
        bare::insert_instance(&connection);
        assert_eq!(bare::read_running(&connection), 0);
        bare::insert_pass(&connection);
        (file, connection)
    });
    drop(held);
    std::fs::remove_file(lock).expect("removed");
    took
}

/// The limit: a connection with the same pragmas that has read the running rows and recorded its
/// own instance.
fn open_bare(path: &Path) -> Duration {
    let (took, connection) = timed(|| {
        let connection = bare::open(path);
        assert_eq!(bare::read_running(&connection), 0);
        connection
            .execute("UPDATE instance SET stopped_at = stopped_at WHERE id = 1", [])
            .expect("written");
        connection
    });
    drop(connection);
    took
}
