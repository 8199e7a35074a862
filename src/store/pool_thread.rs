//! The thread that opens the connections of every pool in this process. By default r2d2 would start
//! three threads for each pool.
//!
//! `scheduled_thread_pool` panics if the kernel cannot create a thread, as under `ulimit -u` or
//! `pids.max`. A panic must not reach a host that opens a ledger, let alone prevent every later
//! opening, so a thread is started as a trial first.

use std::{
    io,
    panic::catch_unwind,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

use scheduled_thread_pool::ScheduledThreadPool;

use crate::{
    error::{Error, Result},
    sys::without_signals,
};

/// Starts the thread unless it is running. It keeps the file access rights of the thread that
/// starts it, and serves all ledgers.
///
/// # Errors
///
/// Busy if no thread can be created. A later call tries again.
pub(super) fn pool_thread() -> Result<&'static Arc<ScheduledThreadPool>> {
    static POOL_THREAD: OnceLock<Arc<ScheduledThreadPool>> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());

    if let Some(pool_thread) = POOL_THREAD.get() {
        return Ok(pool_thread);
    }
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool_thread) = POOL_THREAD.get() {
        return Ok(pool_thread);
    }
    let tried = thread::Builder::new().spawn(|| ()).map_err(no_thread)?;
    // The trial thread does nothing that could panic.
    let _ = tried.join();
    // Another process of the user may take the place of the trial thread.
    let builder = ScheduledThreadPool::builder().num_threads(1);
    let builder = builder.thread_name_pattern("procledger-sql");
    // Signals to the host must reach the host's own threads: if this thread received SIGTERM, `run`
    // would end and leave its program running.
    let started = without_signals(|| catch_unwind(|| builder.build()));
    let started = started.map_err(|_| no_thread(io::Error::from_raw_os_error(libc::EAGAIN)))?;
    Ok(POOL_THREAD.get_or_init(|| Arc::new(started)))
}

fn no_thread(error: io::Error) -> Error {
    let what = "failed to start the ledger's thread: limit reached (`ulimit -u`, or a cgroup's pids.max), or no memory";
    Error::os(what, error)
}
