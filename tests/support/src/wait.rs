//! Waiting with a limit, and waiting for several things at once.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longer than any wait takes on a busy machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Runs one case for each item, all at the same time: most of them wait.
pub fn at_once<T: Send>(items: impl IntoIterator<Item = T>, case: impl Fn(T) + Sync) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    thread::scope(|scope| {
        for item in items {
            let (case, name) = (&case, name.clone());
            let started = thread::Builder::new().name(name).spawn_scoped(scope, move || case(item));
            started.expect("a thread");
        }
    });
}

/// Waits until `condition` returns a value. A condition that takes long, such as one that looks at
/// all processes, is checked less often: what it waits for needs the processors as well.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let began = Instant::now();
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        thread::sleep((began.elapsed() * 3).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}

/// Checks every millisecond; returns whether the condition became true in time.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Checks for half a second that a condition keeps holding: a change would take milliseconds.
#[track_caller]
pub fn stays(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        assert!(condition(), "did not stay so: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for the start of a tick, so that all that follows can happen within it.
pub fn await_tick() {
    let tick = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_nsec / 10_000_000
    };
    let first = tick();
    while tick() == first {
        std::hint::spin_loop();
    }
}
