//! Many threads that spawn at the same time.

use std::{sync::Mutex, thread, time::Instant};

use super::{
    bare::Bare,
    fixture::Fixture,
    former::Former,
    gated,
    samples::{Samples, timed},
    score::{Board, Line},
    sleepers::Program,
    spawns::{bare, spawn},
};

const SPAWNS: usize = 1000;
const THREADS: usize = 8;

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(2, 5);
    let fixture = Fixture::quiet();
    spawn(&fixture, 0);
    let (mut serial, mut concurrent) = (Samples::default(), Samples::default());
    let (mut each, mut alone) = (Samples::default(), Samples::default());
    let [mut former_samples, mut unrecorded, mut recorded] = <[Samples; 3]>::default();
    for _ in 0..rounds {
        let (took, times) = timed(|| all(&fixture, 1));
        serial.add(took);
        alone.extend(times);
        let (took, times) = timed(|| all(&fixture, THREADS));
        concurrent.add(took);
        each.extend(times);
        former_samples.add(timed(former_spawns).0);
        unrecorded.extend(all_bare());
        recorded.extend(all_gated());
    }
    board.add(
        Line::new("1,000 spawns from 8 threads, in total", &concurrent)
            .beside("the same from one thread", serial.median())
            .at_most(1.0)
            .former(former_samples.median()),
    );
    board.add(
        Line::new("one of 1,000 spawns from 8 threads", &each)
            .beside("one of 1,000 from one thread", alone.median())
            .p99_at_most(1.3, &unrecorded),
    );
    board.add(
        Line::new("one of 1,000 bare ones from 8 threads", &unrecorded)
            .beside("one of 1,000 from one thread", alone.median()),
    );
    board.add(
        Line::new(
            "one of 1,000 from 8 threads, the floor: clone, `stat`, INSERT, execve",
            &recorded,
        )
        .beside("one of 1,000 bare ones from 8 threads", unrecorded.median()),
    );
}

/// Measures eight threads that commit a row before each program runs, one after another, and do
/// nothing else.
fn all_gated() -> Samples {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Mutex::new(Bare::at(&folder.path().join("bare.db")));
    on_threads(THREADS, |worker| {
        let mut program = Program::new(&["/bin/true"]);
        let mut times = Samples::default();
        for round in 0..SPAWNS / THREADS {
            let task = format!("crowd-{worker}-{round}");
            let commit = |pid| _ = ledger.lock().expect("no panic").insert(&task, pid);
            let (took, (child, _pidfd)) = timed(|| gated::spawn(&mut program, None, commit));
            child.wait();
            times.add(took);
        }
        times
    })
}

/// Runs `work` on this many threads, each with its number.
fn on_threads(count: usize, work: impl Fn(usize) -> Samples + Sync) -> Samples {
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..count).map(|worker| scope.spawn(move || work(worker))).collect();
        let mut all = Samples::default();
        for worker in workers {
            all.extend(worker.join().expect("no panic"));
        }
        all
    })
}

/// Measures eight threads that only clone and exec, and record nothing.
fn all_bare() -> Samples {
    on_threads(THREADS, |_| {
        let mut raw = Program::new(&["/bin/true"]);
        let mut times = Samples::default();
        (0..SPAWNS / THREADS).for_each(|_| times.add(bare(&mut raw)));
        times
    })
}

/// Spawns this many programs on this many threads; each program is waited for, and only its spawn
/// is timed.
fn all(fixture: &Fixture, threads: usize) -> Samples {
    on_threads(threads, |worker| {
        let mut times = Samples::default();
        for round in 0..SPAWNS / threads {
            let task = format!("crowd-{worker}-{round}");
            let start = Instant::now();
            let mut process = fixture.spawn(&task, &["/bin/true"]);
            times.add(start.elapsed());
            process.wait().expect("it ends");
        }
        times
    })
}

/// The registry of the former implementation has one lock, so eight threads take turns.
fn former_spawns() {
    let former = Mutex::new(Former::tracking(&[]));
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let former = &former;
            scope.spawn(move || {
                for round in 0..SPAWNS / THREADS {
                    let lock = || former.lock().expect("no panic");
                    let task = format!("crowd-{worker}-{round}");
                    let mut child = lock().spawn(task, &["/bin/true"]);
                    child.wait().expect("it ends");
                    lock().unregister(child.id());
                }
            });
        }
    });
}
