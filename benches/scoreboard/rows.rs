//! Registering and ending processes, next to a bare statement.

use std::time::Duration;

use super::{
    bare::Bare,
    fixture::Fixture,
    former::Former,
    samples::{Samples, in_turns, timed},
    score::{Board, Line},
    sleepers::{Program, Sleepers},
};

/// Processes that are present during the measurement: the cost that grows with the load of the
/// machine becomes visible.
const OTHERS: usize = 200;

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(500, 2000);
    let sleepers = Sleepers::new(rounds.max(OTHERS));
    registering(board, &sleepers, rounds);
    drop(sleepers);
    let _others = Sleepers::new(OTHERS);
    ending(board, rounds);
}

fn registering(board: &mut Board, sleepers: &Sleepers, rounds: usize) {
    let fixture = Fixture::quiet();
    let folder = tempfile::tempdir().expect("a folder");
    let mut bare = Bare::at(&folder.path().join("bare.db"));
    let mut former = Former::tracking(&sleepers.pids[..OTHERS / 2]);
    let register = |round: usize| {
        let task = format!("task-{round}");
        let pid = sleepers.pids[round];
        timed(|| fixture.tracker.register(task, pid).expect("it is there")).0
    };
    let insert = |round: usize| bare.insert(&format!("task-{round}"), sleepers.pids[round]).0;
    let (ours, limit) = in_turns(rounds, register, insert);
    let mut former_samples = Samples::default();
    for round in 0..rounds / 4 {
        former_samples
            .add(timed(|| former.register(format!("task-{round}"), sleepers.pids[round])).0);
        former.unregister(sleepers.pids[round]);
    }
    board.add(
        Line::new("register a running process", &ours)
            .beside("bare INSERT", limit.median())
            .at_most(2.0)
            .former(former_samples.median()),
    );
    let floor = floor_of_registering(&mut bare, rounds / 2);
    board.add(
        Line::new("register a running process, beside its floor", &ours)
            .beside("pidfd_open, `stat`, `cmdline`, INSERT", floor.median()),
    );
    // Their ends do not matter here.
    std::mem::forget(fixture.tracker);
}

/// The minimum for a row: the process is pinned and read, and its row is committed. No process is
/// read twice, since the first read takes longest.
fn floor_of_registering(bare: &mut Bare, rounds: usize) -> Samples {
    let sleepers = Sleepers::new(rounds);
    let mut floor = Samples::default();
    for &pid in &sleepers.pids {
        let task = format!("task-{pid}");
        let (took, _pidfd) = timed(|| {
            let id = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let flags = rustix::process::PidfdFlags::empty();
            let pidfd = rustix::process::pidfd_open(id.expect("a pid"), flags).expect("it lives");
            for file in ["stat", "cmdline"] {
                std::hint::black_box(
                    std::fs::read(format!("/proc/{pid}/{file}")).expect("it lives"),
                );
            }
            bare.insert(&task, pid);
            pidfd
        });
        floor.add(took);
    }
    floor
}

/// The program is dead before the measurement, which covers reading its status, scanning for
/// strays, and recording the end.
fn ending(board: &mut Board, rounds: usize) {
    let fixture = Fixture::quiet();
    let folder = tempfile::tempdir().expect("a folder");
    let mut bare = Bare::at(&folder.path().join("bare.db"));
    let sleepers = Sleepers::new(OTHERS / 2);
    let mut former = Former::tracking(&sleepers.pids);
    let mut raw = Program::new(&["/bin/true"]);
    let end = |round: usize| {
        let mut process = fixture.spawn(&format!("task-{round}"), &["/bin/true"]);
        wait_dead(process.pid().get());
        timed(|| process.wait().expect("it ends")).0
    };
    let update = |round: usize| {
        let (_, row) = bare.insert(&format!("task-{round}"), 2);
        // A program runs and ends in between, as with ours, so both find the caches in the same
        // state.
        let child = raw.vfork();
        wait_dead(child.0.cast_unsigned());
        child.wait();
        bare.end(row)
    };
    let (ours, limit) = in_turns(rounds, end, update);
    let mut former_samples = Samples::default();
    for round in 0..rounds / 4 {
        let child = raw.vfork();
        let pid = child.0.cast_unsigned();
        former.register(format!("task-{round}"), pid);
        wait_dead(pid);
        former_samples.add(former_end(&mut former, child));
    }
    board.add(
        Line::new("end recorded", &ours)
            .beside("bare UPDATE", limit.median())
            .at_most(2.0)
            .former(former_samples.median()),
    );
}

fn former_end(former: &mut Former, child: super::sleepers::Raw) -> Duration {
    timed(|| {
        let pid = child.0.cast_unsigned();
        child.wait();
        former.unregister(pid);
    })
    .0
}

/// Waits until the process is a zombie, and leaves it one.
pub(crate) fn wait_dead(pid: u32) {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).expect("a child of ours");
}
