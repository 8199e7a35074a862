//! `doctor` and the JSON export: could it be written now?

use std::{
    fs::{Metadata, symlink_metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::doctor::{Finding, Level, finding, whole};
use crate::export::{Prospect, prospect};

/// Tries what an exporter does, short of changing the list: `owner` is the ledger's, whose file it is.
pub(super) fn export(path: &Path, owner: u32) -> Finding {
    let shown = path.display();
    let there = symlink_metadata(path).ok();
    let user = rustix::process::geteuid().as_raw();
    if user != owner && user != 0 {
        let detail =
            format!("{}; not tried: the ledger belongs to uid {owner}", now(path, there.as_ref()));
        return finding("export", Level::Ok, detail, "");
    }
    match prospect(path, owner) {
        Ok(Prospect::Replaced) => {
            let detail = format!(
                "{}; a new list was written beside it for a trial, and not renamed to it, since a host may be using it",
                now(path, there.as_ref())
            );
            finding("export", Level::Ok, detail, "")
        }
        Ok(Prospect::InPlace { mounted: true }) => finding(
            "export",
            Level::Warning,
            format!(
                "`{shown}` is a mount point: it is written in place (it was opened for a trial, and not written to), and a reader may see a part of a list"
            ),
            "mount its folder instead of the file, or let readers take flock(2) with LOCK_SH",
        ),
        Ok(Prospect::InPlace { mounted: false }) => finding(
            "export",
            Level::Warning,
            format!(
                "nothing can be renamed to `{shown}`: it is written in place (it was opened for a trial, and not written to), and a reader may see a part of a list"
            ),
            "let its owner write the folder",
        ),
        // The message says what to do; a second advice might contradict it.
        Ok(Prospect::Fails(error)) | Err(error) => {
            finding("export", Level::Problem, whole(&error), "")
        }
    }
}

fn now(path: &Path, there: Option<&Metadata>) -> String {
    let shown = path.display();
    match there {
        None => format!("`{shown}` is not there: nothing writes it now"),
        Some(file) if file.is_file() => format!("`{shown}` is there, of uid {}", file.uid()),
        Some(_) => format!("`{shown}` is not a regular file, and will be replaced"),
    }
}
