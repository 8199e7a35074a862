//! The handle to the writer thread.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    json_file::Target,
    writer_thread::{Ending, Held, Shared, Writer},
};
use crate::{
    error::{Error, Kind, Result},
    metrics::Counters,
    model::ExportUpdate,
    sys::{process_mark::ProcessMark, without_signals},
};

/// Keeps a JSON file in step with its source, from a thread of its own.
///
/// Stopping or dropping it joins the thread, so the caller must not hold a lock that the source
/// waits for. In a forked child, which has no such thread, all calls do nothing or return an error.
pub(crate) struct Exporter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Held>>,
    path: PathBuf,
    process: ProcessMark,
}

impl Exporter {
    /// Takes the lock, or stays passive if another instance has it, and starts the thread, which
    /// writes at once.
    ///
    /// `source` returns what has changed since its last successful call; the first time, and after
    /// an error, all rows. `owner_uid` owns the ledger: if root acts on its behalf, the lock and
    /// the file are given to that user. `counters` counts the writes.
    ///
    /// # Errors
    ///
    /// When the folder is missing, a folder is at the path, or the lock file belongs to another
    /// user.
    pub(crate) fn start(
        path: PathBuf,
        owner_uid: u32,
        counters: Arc<Counters>,
        source: impl FnMut() -> Result<ExportUpdate> + Send + 'static,
    ) -> Result<Self> {
        let target = Target::new(&path, owner_uid)?;
        let lock = target.act(|| target.lock())?;
        let shared = Arc::new(Shared::new(lock.is_none()));
        let writer = Writer::new(target, lock, Box::new(source), Arc::clone(&shared), counters);
        let builder = thread::Builder::new().name("procledger-export".to_owned());
        let thread = without_signals(|| builder.spawn(move || writer.run()))
            .map_err(|error| Error::os("failed to start the export thread", error))?;
        Ok(Self { shared, thread: Some(thread), path, process: ProcessMark::new() })
    }

    /// Reports that the source has changed. Never waits for the file.
    pub(crate) fn notify(&self) {
        if self.is_here() {
            self.shared.lock().requested += 1;
            self.shared.wake.notify_one();
        }
    }

    /// Waits until everything notified before is in the file.
    ///
    /// # Errors
    ///
    /// Busy if another instance writes the file, or if writing took too long; then the message
    /// contains the last error.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<()> {
        if !self.is_here() {
            return Err(Error::new(
                Kind::Closed,
                "the export thread does not run in a forked child",
            ));
        }
        let state = self.shared.lock();
        let wanted = state.requested;
        let (state, _) = self
            .shared
            .done
            .wait_timeout_while(state, timeout, |state| state.settled < wanted)
            .unwrap_or_else(PoisonError::into_inner);
        let path = self.path.display();
        if state.settled < wanted {
            let why = state.last_error.as_deref().unwrap_or("the writer has not finished");
            let message = format!("the export `{path}` was not written in {timeout:?}: {why}");
            return Err(Error::new(Kind::Busy, message));
        }
        if state.passive {
            return Err(Error::new(
                Kind::Busy,
                format!("the export `{path}` is written by another instance, which holds its lock"),
            ));
        }
        Ok(())
    }

    /// Returns why the file is not up to date; `None` if the last write succeeded.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.is_here().then(|| self.shared.lock().last_error.clone()).flatten()
    }

    /// Returns how often the file was replaced.
    #[cfg(test)]
    pub(crate) fn writes(&self) -> u64 {
        if self.is_here() { self.shared.lock().writes } else { 0 }
    }

    /// Reports whether another instance writes the file.
    #[cfg(test)]
    pub(crate) fn is_passive(&self) -> bool {
        self.is_here() && self.shared.lock().passive
    }

    /// Writes pending changes, in one attempt, and ends the thread. The file stays. Dropping does
    /// the same.
    #[cfg(test)]
    pub(crate) fn stop(mut self) {
        drop(self.end(Ending::Stop));
    }

    /// Ends the thread, and removes the lock file and, if it is still the one that we wrote, the
    /// export.
    ///
    /// # Errors
    ///
    /// When one of them could not be removed.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.end(Ending::Finish).map_or(Ok(()), Held::remove)
    }

    fn end(&mut self, ending: Ending) -> Option<Held> {
        let thread = self.thread.take().filter(|_| self.is_here())?;
        self.shared.lock().ending = Some(ending);
        self.shared.wake.notify_one();
        // The source may own the last handle, and the thread cannot wait for itself.
        if thread.thread().id() == thread::current().id() {
            return None;
        }
        thread.join().ok()
    }

    /// Reports whether this is the process that started the thread: a forked child has a copy of
    /// the mutex, which may be locked.
    fn is_here(&self) -> bool {
        self.process.is_of_this_process()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.end(Ending::Stop));
    }
}
