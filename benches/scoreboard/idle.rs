//! A host with a thousand tasks that has nothing to do.

use std::{fs, thread, time::Duration};

use rustix::time::{ClockId, clock_gettime};

use super::{
    bare,
    fixture::Fixture,
    namespace::raise_descriptors,
    passes::{health_pass, read_stats},
    samples::in_turns,
    score::{Board, Line, Unit},
    sleepers::Sleepers,
};

const TASKS: usize = 1000;
/// A pass takes at most this much processor time for each task.
const OF_A_TASK: f64 = 1e4;

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let time = Duration::from_secs(board.scale().pick(3, 10));
    let sleepers = Sleepers::new(TASKS);
    let fixture = Fixture::with(|builder| builder.health_interval(Duration::from_hours(1)));
    for pid in &sleepers.pids {
        fixture.tracker.register(format!("sleepers-{pid}"), *pid).expect("it is there");
    }
    // By then the work after the last registration is done.
    thread::sleep(Duration::from_secs(1));
    let before = wake_ups();
    thread::sleep(time);
    let during = wake_ups() - before;
    board.add(
        Line::of(
            format!("wake-ups of an idle host with {TASKS} tasks, in {time:?}"),
            during as f64,
            Unit::Count,
        )
        .within(0.0),
    );
    let reader = bare::open(&fixture.path());
    let (passes, floor) = in_turns(
        board.scale().pick(5, 20),
        |_| processor_time(|| _ = health_pass(&fixture)),
        |_| {
            processor_time(|| {
                assert_eq!(read_stats(&sleepers.pids), TASKS);
                assert_eq!(bare::read_running(&reader), TASKS);
            })
        },
    );
    board.add(
        Line::new(format!("processor time of a health pass over {TASKS} tasks"), &passes)
            .beside("reading each stat + the rows", floor.median())
            .within(TASKS as f64 * OF_A_TASK),
    );
    std::mem::forget(fixture.tracker);
}

/// Returns the processor time that this process uses for `work`, in all threads.
fn processor_time(work: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    let before = now();
    work();
    Duration::from_nanos((now() - before).unsigned_abs())
}

/// Returns how often the other threads of this process have slept so far.
fn wake_ups() -> u64 {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let threads = fs::read_dir("/proc/self/task").expect("threads");
    let threads = threads.map(|thread| thread.expect("a thread").path());
    let others = threads.filter(|path| !path.ends_with(&own));
    let sleeps = |path: std::path::PathBuf| -> u64 {
        let status = fs::read_to_string(path.join("status")).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|count| count.trim().parse().ok()).expect("a count")
    };
    others.map(sleeps).sum()
}
