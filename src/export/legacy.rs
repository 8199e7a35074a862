//! Reads the JSON file that the former implementation left.
//!
//! The file names processes that may be signalled, so it is trusted only if no user but the
//! ledger's owner can have written it. The opened file is checked, never its name: no symlink is
//! followed and no FIFO is waited for.
//!
//! A file that is not a JSON array is renamed to `PATH.corrupt`, atomically and replacing an older
//! one, so that a crash leaves it under one of the two names. In an array each entry is validated
//! by itself. If an object has a key twice, the last one counts, as it did for the former
//! implementation.

use std::{
    collections::HashSet,
    fmt,
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use chrono::DateTime;
use rustix::{fs::OFlags, io::Errno};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::in_place;
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{Millis, TaskId},
    sys::{
        fs_user::act_as,
        plain_file::{FileId, open_as_is},
        trusted_path::controller_of_folder,
    },
};

/// Largest file that is read: some 100,000 processes, held in memory. A larger one is not a list of
/// processes.
const SIZE_MAX: u64 = 16 * 1024 * 1024;

/// Maximum number of lines about rejected entries in the log; another line gives the number of
/// entries beyond it.
const REJECTED_MAX: usize = 1000;

/// Maximum length of the excerpt of a rejected value in such a line, in characters.
const EXCERPT_MAX: usize = 60;

/// The result of reading the legacy file's path.
#[derive(Debug)]
pub(crate) enum Legacy {
    /// Nothing.
    Absent,
    /// A list.
    Entries {
        /// The processes that it names.
        entries: Vec<LegacyEntry>,
        /// A line for each entry that was skipped, safe for a terminal.
        rejected: Vec<String>,
    },
    /// A file that another user may have put there. It was not touched. With the reason.
    Untrusted(String),
    /// Not a list. It was renamed.
    Corrupt {
        /// Its name now.
        kept_as: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// One process that the former implementation had registered. Nothing in it was verified against
/// the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LegacyEntry {
    /// The task.
    pub(crate) task: TaskId,
    /// Its pid at that time.
    pub(crate) pid: Pid,
    /// When the former implementation started it.
    pub(crate) start_time: Millis,
}

/// Reads the file at `path`, which is trusted only if `trusted_uid` owns it and no other user can
/// write to it.
///
/// # Errors
///
/// If the file could not be read, or is corrupt and could not be renamed. The caller logs the error
/// and goes on.
pub(crate) fn read_legacy(path: &Path, trusted_uid: u32) -> Result<Legacy> {
    // The file may be renamed, in a folder that another user controls and could exchange meanwhile.
    let account = match controller_of_folder(path) {
        Ok(account) => account,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Legacy::Absent),
        Err(error) => return Err(failed("find", path, error)),
    };
    act_as(account, || read_here(path, trusted_uid))
}

fn read_here(path: &Path, trusted_uid: u32) -> Result<Legacy> {
    let file = match open_as_is(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Legacy::Absent),
        Err(Errno::LOOP) => return Ok(untrusted(path, "is a symlink")),
        Err(Errno::NXIO | Errno::NODEV) => return Ok(untrusted(path, "is not a regular file")),
        Err(Errno::ACCESS | Errno::PERM) => return Ok(untrusted(path, "cannot be opened by us")),
        Err(errno) => return Err(failed("open", path, errno)),
    };
    let found = file.metadata().map_err(|error| failed("examine", path, error))?;
    if let Some(why) = distrust(&found, trusted_uid) {
        return Ok(untrusted(path, &why));
    }
    match read_bounded(file, &found).map_err(|error| failed("read", path, error))? {
        None => keep_aside(path, &found, format!("it has more than {SIZE_MAX} bytes")),
        Some(text) => match parse(&text) {
            Ok(Parsed { entries, rejected, .. }) => Ok(Legacy::Entries { entries, rejected }),
            Err(reason) => keep_aside(path, &found, reason),
        },
    }
}

fn untrusted(path: &Path, why: &str) -> Legacy {
    Legacy::Untrusted(format!("the file `{}` {why}: inspect it, then remove it", path.display()))
}

fn distrust(found: &Metadata, trusted_uid: u32) -> Option<String> {
    let mode = found.permissions().mode();
    if !found.is_file() {
        Some("is not a regular file".to_owned())
    } else if found.uid() != trusted_uid {
        Some(format!("belongs to uid {}, not to uid {trusted_uid}", found.uid()))
    } else if mode & 0o022 != 0 {
        Some(format!("can be written by others (mode {:03o})", mode & 0o777))
    } else {
        None
    }
}

/// Returns the whole text; `None` if it is too long, even if it has grown only since its size was
/// read.
fn read_bounded(file: File, found: &Metadata) -> std::io::Result<Option<Vec<u8>>> {
    if found.len() > SIZE_MAX {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(SIZE_MAX + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= SIZE_MAX).then_some(text))
}

fn keep_aside(path: &Path, found: &Metadata, reason: String) -> Result<Legacy> {
    let mut kept_as = path.as_os_str().to_owned();
    kept_as.push(".corrupt");
    let kept_as = PathBuf::from(kept_as);
    if !FileId::of(found).is_at(path) {
        let message = format!("the file `{}` changed while it was read: try again", path.display());
        return Err(Error::new(Kind::Busy, message));
    }
    let kept = match std::fs::rename(path, &kept_as) {
        // The file stays in place and will be overwritten there, so its content is copied.
        Err(error) if in_place::is_about_the_place(&error) && found.len() <= SIZE_MAX => {
            copy(path, &kept_as).map_err(|_| error)
        }
        renamed => renamed,
    };
    kept.map_err(|error| {
        let (path, kept_as) = (path.display(), kept_as.display());
        Error::os(
            format!("the file `{path}` is not a list of processes ({reason}), and could not be kept as `{kept_as}`"),
            error,
        )
    })?;
    Ok(Legacy::Corrupt { kept_as, reason })
}

fn copy(path: &Path, to: &Path) -> std::io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    std::io::copy(&mut open_as_is(path, OFlags::RDONLY)?.take(SIZE_MAX), &mut new)?;
    new.persist(to).map(drop).map_err(|error| error.error)
}

fn failed(verb: &str, path: &Path, source: impl Into<std::io::Error>) -> Error {
    Error::os(format!("failed to {verb} the former list of processes `{}`", path.display()), source)
}

/// Parses an array of entries, or `null`; for any other text, returns what is wrong with it.
fn parse(text: &[u8]) -> Result<Parsed, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    serde_json::from_slice(text).map_err(|error| format!("it is not a list of processes: {error}"))
}

/// Properties of any text, for [`crate::fuzzing`].
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &[u8]) {
    match parse(text) {
        Ok(Parsed { entries, rejected, pids }) => {
            assert_eq!(entries.len(), pids.len(), "each pid once");
            assert!(rejected.len() <= REJECTED_MAX + 1);
            for line in rejected {
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert!(line.len() < 1_000, "{line:?}");
            }
        }
        Err(reason) => assert!(!reason.chars().any(char::is_control), "{reason:?}"),
    }
}

/// Parsed entries. They are validated one by one while the text is parsed, so the whole file is
/// never in memory as a tree.
#[derive(Default)]
struct Parsed {
    entries: Vec<LegacyEntry>,
    rejected: Vec<String>,
    pids: HashSet<Pid>,
}

impl Parsed {
    fn judge(&mut self, value: &Value) -> Result<(), String> {
        let object =
            value.as_object().ok_or_else(|| format!("{} is not an object", excerpt(value)))?;
        let entry = entry(object)?;
        if !self.pids.insert(entry.pid) {
            return Err(format!("pid {} was listed before", entry.pid));
        }
        self.entries.push(entry);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    /// Go writes `null` for a slice to which nothing was ever appended.
    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed::default();
        let (mut number, mut unlisted) = (0_u64, 0_u64);
        while let Some(value) = array.next_element::<Value>()? {
            number += 1;
            let Err(why) = parsed.judge(&value) else { continue };
            if parsed.rejected.len() < REJECTED_MAX {
                parsed.rejected.push(format!("entry {number}: {why}"));
            } else {
                unlisted += 1;
            }
        }
        if unlisted > 0 {
            parsed.rejected.push(format!("{unlisted} more entries were skipped"));
        }
        Ok(parsed)
    }
}

fn entry(object: &Map<String, Value>) -> Result<LegacyEntry, String> {
    let task = text(object, "task_id")?;
    let task = TaskId::new(task).map_err(|error| error.to_string())?;
    let number = field(object, "process_id")?;
    let pid = number.as_i64().and_then(Pid::new).ok_or_else(|| {
        format!("process_id {} is not a whole number from 1 to {}", excerpt(number), i32::MAX)
    })?;
    let start = text(object, "start_time")?;
    let start_time = DateTime::parse_from_rfc3339(start)
        .map(|time| Millis(time.timestamp_millis()))
        .map_err(|error| format!("start_time {} is not a date: {error}", excerpt(&start.into())))?;
    Ok(LegacyEntry { task, pid, start_time })
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let value = field(object, name)?;
    value.as_str().ok_or_else(|| format!("{name} {} is not a string", excerpt(value)))
}

fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Value, String> {
    object.get(name).ok_or_else(|| format!("{name} is missing"))
}

/// Returns the start of a value, with all characters that could move a terminal's cursor escaped.
fn excerpt(value: &Value) -> String {
    let text = match value {
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("{:?}", text.chars().take(EXCERPT_MAX).collect::<String>()),
        other => other.to_string(),
    };
    text.chars().take(2 * EXCERPT_MAX).collect()
}
