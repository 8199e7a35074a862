//! Closes a ledger: decides whether its WAL is copied back, and waits for its pool of readers.

use std::{sync::mpsc, time::Duration};

use rusqlite::config::DbConfig;

use super::{
    ledger_files::LedgerFiles, open_connection::KEPT_WAL_BYTES, pool_thread::pool_thread,
    writer::Writer,
};

/// How long closing waits for a connection that is being opened, perhaps for another ledger.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Leaves a small WAL for the next opening: the connections do not copy it back when they close.
/// Copying it back and starting a new one takes four fsyncs, which is longer than everything else
/// that a short command does. The writer copies a large WAL back.
pub(super) fn keep_small_wal(files: &LedgerFiles, writer: Option<&Writer>) {
    if files.has_small_wal(KEPT_WAL_BYTES) {
        return;
    }
    if let Some(writer) = writer.and_then(Writer::try_take)
        && let Err(error) = writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
    {
        tracing::debug!("the WAL is not copied back: {error}");
    }
}

/// Waits for the pool's thread to finish its work. Until then it may hold the pool, and would close
/// the connections itself, some time after this returned, or never if the process ends first.
pub(super) fn wait_for_pool_thread() {
    let (done, wait) = mpsc::channel();
    // The thread is running, since there is a pool.
    let Ok(pool_thread) = pool_thread() else { return };
    pool_thread.execute(move || {
        let _ = done.send(());
    });
    let _ = wait.recv_timeout(CLOSE_PATIENCE);
}
