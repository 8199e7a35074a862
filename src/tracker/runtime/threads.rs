//! The threads of a tracker, which its shutdown joins.

use std::{
    io,
    sync::{Arc, Mutex},
    thread::{Builder, JoinHandle},
};

use super::lock::lock;
use crate::sys::without_signals;

/// The threads of a tracker, except those that have finished. Each thread that starts another one
/// adds it; the shutdown takes them all.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    /// Starts a thread that receives no signals of the host.
    pub(in crate::tracker) fn start(
        &self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let thread = without_signals(|| Builder::new().name(name.into()).spawn(work))?;
        let mut threads = lock(&self.0);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Runs `work` on a new thread, or on the calling thread if none can be created.
    pub(in crate::tracker) fn run(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let slot = Arc::new(Mutex::new(Some(work)));
        let theirs = Arc::clone(&slot);
        let take = |slot: &Mutex<Option<_>>| lock(slot).take();
        let run = move || {
            if let Some(work) = take(&theirs) {
                work();
            }
        };
        if self.start(name, run).is_err()
            && let Some(work) = take(&slot)
        {
            work();
        }
    }

    /// Waits for all threads, and for those that they start meanwhile.
    pub(in crate::tracker) fn join(&self) {
        loop {
            let threads = std::mem::take(&mut *lock(&self.0));
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                // One of our own threads may drop the last handle.
                if thread.thread().id() != std::thread::current().id() {
                    let _ = thread.join();
                }
            }
        }
    }
}
