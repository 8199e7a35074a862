//! Checks an open ledger's file system and files before they are used.

use std::path::Path;

use super::{Store, failure::failed};
use crate::{error::Result, sys::filesystem};

impl Store {
    /// Fails if the ledger is on a network file system, which the error names.
    pub(crate) fn check_file_system(&self) -> Result<()> {
        filesystem::check_local(self.folder())
    }

    /// Returns the free bytes on the ledger's file system.
    pub(crate) fn free_bytes(&self) -> Result<u64> {
        filesystem::free_bytes(self.folder())
    }

    /// Returns the names of the files beside the ledger that begin with its name; none if its
    /// folder cannot be listed.
    pub(crate) fn names_beside(&self) -> Vec<String> {
        let Ok(_acting) = self.act_as_owner() else { return Vec::new() };
        let ledger = self.path().file_name().unwrap_or_default().to_string_lossy();
        let found = self.folder().read_dir().into_iter().flatten().flatten();
        let names = found.filter_map(|found| found.file_name().into_string().ok());
        names.filter(|name| name.starts_with(&*ledger)).collect()
    }

    fn folder(&self) -> &Path {
        self.path().parent().unwrap_or_else(|| self.path())
    }

    /// Fails if the open files are no longer those at the ledger's path.
    pub(crate) fn check_not_replaced(&self) -> Result<()> {
        self.files().check()
    }

    /// Copies a WAL that was removed while it was open into the ledger, as far as readers allow it;
    /// its content would otherwise be lost when the last connection closes. Does nothing if a new
    /// WAL exists.
    pub(crate) fn save_lost_wal(&self) -> Result<()> {
        if !self.files().has_lost_its_wal() {
            return Ok(());
        }
        let doing = "write back the WAL";
        let writer = self.writer(doing)?;
        let _acting = self.act_as_owner()?;
        writer
            .query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .map_err(|e| failed(self.path(), doing, e))
    }
}
