//! The export of a tracker, which is notified of changes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::lock::lock;
use crate::{
    error::{Error, Kind, Result},
    export::Exporter,
    store::Store,
};

/// The export, if there is one. Set when the tracker is opened, taken by the shutdown, read by
/// every thread that changes the ledger.
#[derive(Default)]
pub(in crate::tracker) struct ExportNotifier(Mutex<Option<Arc<Exporter>>>);

impl ExportNotifier {
    /// Starts the export. If it cannot be written, that is an error in the log and in `doctor`, and
    /// tracking goes on.
    pub(in crate::tracker) fn start(&self, path: PathBuf, store: &Store) {
        let counters = Arc::clone(store.counters());
        let exporter = store.export_reader().and_then(|mut rows| {
            Exporter::start(path, store.owner_uid(), counters, move || rows.update())
        });
        match exporter {
            Ok(exporter) => {
                exporter.notify();
                *lock(&self.0) = Some(Arc::new(exporter));
            }
            Err(error) => tracing::error!("the export is off: {error}"),
        }
    }

    /// Notifies the exporter that the ledger has changed; never waits for it.
    pub(in crate::tracker) fn notify(&self) {
        if let Some(exporter) = lock(&self.0).as_ref() {
            exporter.notify();
        }
    }

    /// Waits until all changes so far are written.
    pub(in crate::tracker) fn flush(&self, timeout: Duration) -> Result<()> {
        // The lock is not held meanwhile, since spawns take it to notify the exporter.
        let exporter = lock(&self.0).clone();
        match exporter {
            Some(exporter) => exporter.flush(timeout),
            None => Err(Error::new(Kind::NotFound, "the tracker has no export")),
        }
    }

    pub(in crate::tracker) fn last_error(&self) -> Option<String> {
        lock(&self.0).as_ref().and_then(|exporter| exporter.last_error())
    }

    /// Ends the export and removes its file. If a thread is flushing the export, both stay, and the
    /// next instance replaces the file.
    pub(in crate::tracker) fn finish(&self) -> Result<()> {
        let exporter = lock(&self.0).take();
        exporter.and_then(Arc::into_inner).map_or(Ok(()), Exporter::finish)
    }
}
