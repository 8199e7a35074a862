//! A limit on how long `ship` waits for an answer of the fleet's database.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    exit::{Exit, Result},
    output, threads,
};

/// The database may take a minute for a statement. A connection that hangs for longer is given up,
/// with its process: nothing is lost, as the ledger is the spool.
const HANG_LIMIT: Duration = Duration::from_mins(2);

/// Ends this process if the database does not answer: a connection may hang forever.
pub(super) struct Watchdog(Arc<Mutex<Option<Instant>>>);

impl Watchdog {
    /// Starts the thread that watches.
    pub(super) fn start() -> Result<Self> {
        let deadline = Arc::new(Mutex::new(None::<Instant>));
        let watched = Arc::clone(&deadline);
        threads::start("procledger-watchdog", move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                let deadline = *watched.lock().unwrap_or_else(PoisonError::into_inner);
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    output::warn(&format!(
                        "the fleet's database has not answered for {} s: the connection is given up",
                        HANG_LIMIT.as_secs()
                    ));
                    output::flush();
                    std::process::exit(Exit::FAILED.code());
                }
            }
        })?;
        Ok(Self(deadline))
    }

    /// Runs `work` within the limit.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let set = |deadline| *self.0.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        set(Some(Instant::now() + HANG_LIMIT));
        let done = work();
        set(None);
        done
    }
}
