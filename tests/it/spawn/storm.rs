//! Thousands of spawns from four threads of a host whose process group is flooded with signals,
//! beside threads that allocate and threads that use errno: between clone and exec the child shares
//! all of that with its host.

#![expect(unsafe_code, reason = "handlers, errno, and signals to the own group")]

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use procledger::{ExitStatus, Job, Stdio, Tracker};

use crate::{
    spawn::gate_host::{Given, children, descriptors, in_another_process, note},
    support::{Place, long, sampled, until},
};

pub(crate) fn spawns() -> u32 {
    if long() { 200_000 } else { sampled(2_000, 20_000) }
}

/// Two storms at once take ten times as long, not twice, on two cores.
pub(crate) static ONE_STORM: Mutex<()> = Mutex::new(());

#[test]
fn spawns_during_a_flood_of_signals_end_as_expected() {
    let _one = ONE_STORM.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    in_another_process(&place, "storm", Duration::from_mins(10));
    let wanted = u64::from(spawns());
    assert_eq!(
        place.sqlite3("SELECT state, end_reason, exit_code, exit_signal, count(*) FROM process GROUP BY 1, 2, 3, 4"),
        format!("ended|exited|0||{}\nended|exited|1||{}", wanted / 2, wanted / 2),
    );
    assert_eq!(place.alive(), [0_u32; 0]);
}

/// Signals that the host handles, and that its children must never receive.
const SIGNALS: [i32; 6] =
    [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGTERM, libc::SIGHUP, libc::SIGWINCH];

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handler(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

fn handle_signals() {
    for signal in SIGNALS {
        // SAFETY: a zeroed `sigaction` with a handler that does nothing but count. Without
        // SA_RESTART: every call of the host may be interrupted.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as extern "C" fn(i32) as libc::sighandler_t;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        assert_eq!(result, 0);
    }
}

/// Also used below a seccomp filter, where each spawning thread calls `prepare` first.
pub(crate) fn body(given: &Given, threads: u32, spawns: u32) {
    handle_signals();
    let tracker = given.builder().open().expect("a ledger");
    rage(&tracker, threads, spawns, || {});
    tracker.shutdown().expect("an orderly end");
}

pub(crate) fn rage(tracker: &Tracker, threads: u32, spawns: u32, prepare: impl Fn() + Sync) {
    handle_signals();
    // SAFETY: getpgid(2) of this process.
    let group = unsafe { libc::getpgid(0) };
    assert_eq!(group.cast_unsigned(), std::process::id(), "a group of its own");
    // One round first, so that threads, connections and stacks exist.
    tracker.spawn(job("warm-up-0", 0)).and_then(|mut one| one.wait()).expect("true");
    let before = descriptors();
    let done = AtomicBool::new(false);
    let (sent, foreign, checks) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| storm_group(&done, &sent));
        scope.spawn(|| allocate(&done));
        for errno in [12345, 23456] {
            let (done, foreign, checks) = (&done, &foreign, &checks);
            scope.spawn(move || live_on_errno(errno, done, foreign, checks));
        }
        let (prepare, tracker) = (&prepare, &tracker);
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    prepare();
                    spawn_all(tracker, thread, spawns / threads);
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Release);
        for result in results {
            result.expect("all right");
        }
    });
    note(&format!(
        "{spawns} spawns in {:?}, {} storms sent, {} signals handled, {} errno checks",
        began.elapsed(),
        sent.load(Ordering::Relaxed),
        HANDLED.load(Ordering::Relaxed),
        checks.load(Ordering::Relaxed),
    ));
    assert_eq!(foreign.load(Ordering::Relaxed), 0, "a thread saw an errno that is not its own");
    assert!(HANDLED.load(Ordering::Relaxed) > u64::from(spawns / 10), "no storm");
    until("no zombie is left", || children().is_empty());
    until("no descriptor is left", || descriptors().len() <= before.len());
}

fn job(task: &str, code: u32) -> Job {
    let program = if code == 0 { "/bin/true" } else { "/bin/false" };
    // The scan for strays costs far more than the spawn, and these programs have none.
    let job = Job::new(task, program).keep_strays(true);
    job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn spawn_all(tracker: &Tracker, thread: u32, count: u32) {
    // The first one stands for the warm-up, so that the sums are even.
    let first = u32::from(thread == 0);
    for number in first..count {
        let code = number % 2;
        let task = format!("{thread}-{number}");
        let mut process = tracker.spawn(job(&task, code)).expect("spawned");
        let status = process.wait().expect("waited");
        assert_eq!(status, ExitStatus::Exited(code.cast_signed()), "{task}");
    }
}

/// To the group, which contains every child until its setsid(2), and to the process.
fn storm_group(done: &AtomicBool, sent: &AtomicU64) {
    while !done.load(Ordering::Acquire) {
        for signal in SIGNALS {
            // SAFETY: kill(2) on our own group, whose leader we are: 0 cannot refer to an unrelated
            // process.
            assert_eq!(unsafe { libc::kill(0, signal) }, 0);
            // SAFETY: raise in this thread.
            assert_eq!(unsafe { libc::raise(signal) }, 0);
        }
        sent.fetch_add(SIGNALS.len() as u64, Ordering::Relaxed);
        // Without a pause two cores would do nothing else.
        thread::sleep(Duration::from_micros(100));
    }
}

fn allocate(done: &AtomicBool) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let mut seed = 7_usize;
    while !done.load(Ordering::Acquire) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = (seed >> 33) % 200_000 + 1;
        let fill = u8::try_from(size % 251).expect("small");
        kept.push(vec![fill; size]);
        if kept.len() > 64 {
            for one in kept.drain(..32) {
                let fill = u8::try_from(one.len() % 251).expect("small");
                assert!(one.iter().all(|&byte| byte == fill), "memory was overwritten");
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn live_on_errno(own: i32, done: &AtomicBool, foreign: &AtomicU64, checks: &AtomicU64) {
    // SAFETY: the address of this thread's errno, valid while the thread lives.
    let errno = unsafe { libc::__errno_location() };
    while !done.load(Ordering::Acquire) {
        // SAFETY: as above; volatile, since only signal handlers and wrong code change it between.
        unsafe { errno.write_volatile(own) };
        for _ in 0..200 {
            std::hint::spin_loop();
        }
        // SAFETY: as above.
        if unsafe { errno.read_volatile() } != own {
            foreign.fetch_add(1, Ordering::Relaxed);
        }
        let error = std::fs::metadata("/no/such/file").expect_err("not there");
        if error.raw_os_error() != Some(libc::ENOENT) {
            foreign.fetch_add(1, Ordering::Relaxed);
        }
        checks.fetch_add(2, Ordering::Relaxed);
        thread::sleep(Duration::from_micros(100));
    }
}
