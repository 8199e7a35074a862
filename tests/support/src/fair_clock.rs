//! Time without that in which a processor was lacking.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// A clock that leaves out the time for which the threads of the watched processes, and the one
/// that reads it, were ready to run and waited for a processor: on a machine under load that may be
/// most of the time, and a program cannot help it. Sleeps and waits for anything else are counted
/// in full, so a wake-up that is missed or late still is. Where several threads wait for a
/// processor at once, each of them is left out.
#[derive(Debug)]
pub struct FairClock {
    began: Instant,
    reader: PathBuf,
    reader_waited: Duration,
    done: Arc<AtomicBool>,
    watcher: JoinHandle<Duration>,
}

impl FairClock {
    /// Starts the clock. `watched` lists the processes, and is called every few milliseconds.
    pub fn start(watched: impl Fn() -> Vec<u32> + Send + 'static) -> Self {
        let reader = fs::read_link("/proc/thread-self").expect("/proc");
        let reader = Path::new("/proc").join(reader);
        let reader_waited = waited(&reader).unwrap_or_default();
        let mut before = HashMap::new();
        look(&watched(), &mut before);
        let began = Instant::now();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let watcher = thread::spawn(move || {
            let mut sum = Duration::ZERO;
            while !is_done.load(Ordering::Acquire) {
                thread::sleep(BETWEEN_LOOKS);
                sum += look(&watched(), &mut before);
            }
            sum
        });
        Self { began, reader, reader_waited, done, watcher }
    }

    /// Reads and stops the clock.
    pub fn stop(self) -> Duration {
        let elapsed = self.began.elapsed();
        let reader = waited(&self.reader).unwrap_or_default().saturating_sub(self.reader_waited);
        self.done.store(true, Ordering::Release);
        let others = self.watcher.join().expect("no panic");
        elapsed.saturating_sub(reader + others)
    }
}

/// Returns for how long all threads of the processes have waited since the last look.
fn look(pids: &[u32], before: &mut HashMap<PathBuf, Duration>) -> Duration {
    let tasks = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
    let threads = tasks.flatten().flatten().map(|thread| thread.path());
    let new = threads.filter_map(|thread| {
        let now = waited(&thread)?;
        Some(now.saturating_sub(before.insert(thread, now).unwrap_or_default()))
    });
    new.sum()
}

/// Returns for how long a thread was ready to run and waited: the second field of
/// `/proc/PID/task/TID/schedstat` (Documentation/scheduler/sched-stats.rst).
fn waited(thread: &Path) -> Option<Duration> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
}
