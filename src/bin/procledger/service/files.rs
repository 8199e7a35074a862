//! Which ledgers there are.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What a ledger's file looks like from outside. A worker that failed is tried again when it is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    file: (u64, u64),
    owner: (u32, u32),
    size: u64,
    changed: (i64, i64),
}

/// `None` where there is no file.
pub(super) fn mark(path: &Path) -> Option<Mark> {
    let file = fs::metadata(path).ok()?;
    Some(Mark {
        file: (file.dev(), file.ino()),
        owner: (file.uid(), file.mode()),
        size: file.size(),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

/// Every `*.db` in a folder; nothing where it cannot be read.
pub(super) fn in_folder(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "db"))
        .filter(|path| path.is_file())
        .collect()
}

/// The folder whose entries tell whether a ledger is there.
pub(super) fn folder_of(ledger: &Path) -> &Path {
    ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
