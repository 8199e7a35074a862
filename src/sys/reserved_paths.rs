//! Paths that are reserved for the ledger: writing to one would replace the ledger, or a file that
//! SQLite or a host keeps beside it.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Suffixes of the files beside a ledger: whole ones, then beginnings of suffixes.
const WHOLE: [&[u8]; 4] = [b"-wal", b"-shm", b"-journal", b"-setup.lock"];
const BEGINNINGS: [&[u8]; 3] = [b"-instance-", b"-ends-", b"-doctor-"];

/// Refuses to write `what` ("the export") to `path` if that is a file of the ledger.
///
/// # Errors
///
/// Invalid input.
pub fn refuse_as_output(ledger: &Path, path: &Path, what: &str) -> Result<()> {
    if !is_of_ledger(ledger, path) {
        return Ok(());
    }
    let (path, ledger) = (path.display(), ledger.display());
    Err(Error::invalid(format!(
        "{what} cannot be written to `{path}`, which belongs to the ledger `{ledger}`: choose another file"
    )))
}

/// Reports whether a path belongs to the ledger: by its name, since the ledger may not exist yet,
/// and by the file itself, which may have several names.
fn is_of_ledger(ledger: &Path, path: &Path) -> bool {
    if same_file(ledger, path) {
        return true;
    }
    // SQLite and hosts keep their files beside the target of a symlink.
    let ledger = fs::canonicalize(ledger).unwrap_or_else(|_| ledger.to_owned());
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (Some(own), Some(name)) = (ledger.file_name(), path.file_name()) else { return false };
    let Some(rest) = name.as_bytes().strip_prefix(own.as_bytes()) else { return false };
    let is_own = rest.is_empty()
        || WHOLE.contains(&rest)
        || BEGINNINGS.iter().any(|beginning| rest.starts_with(beginning));
    is_own && same_file(&folder_of(&ledger), &folder_of(&path))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).into()
}

fn same_file(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    file(one).is_some_and(|one| file(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_ledger_is_recognized_by_any_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let ledger = at("l.db");
        // The ledger does not exist yet.
        assert!(is_of_ledger(&ledger, &at("l.db")) && is_of_ledger(&ledger, &at("./l.db-wal")));
        fs::write(&ledger, "").expect("written");
        std::os::unix::fs::symlink("l.db", at("link")).expect("linked");
        fs::hard_link(&ledger, at("other")).expect("linked");
        for own in ["l.db", "l.db-shm", "l.db-instance-7.lock", "l.db-ends-7.json", "link", "other"]
        {
            assert!(is_of_ledger(&ledger, &at(own)), "{own}");
            assert!(is_of_ledger(&at("link"), &at(own)), "{own} of a link");
        }
        for another in ["l.db.json", "l.db-running.json", "l.json", "k.db", "sub/l.db", "l.db-walk"]
        {
            assert!(!is_of_ledger(&ledger, &at(another)), "{another}");
        }
    }
}
