//! The note that an instance writes into its lock file: the program image that holds the lock, the
//! first process of its PID namespace, and the process on whose behalf it acts.
//!
//! The file belongs to the instance and is removed with it, so a note never outlives the instance.
//! A note counts only in the very file into which it was written: a restored copy of a lock file is
//! free while the original is held. A lock file without a note, from an older version or on a full
//! disk, proves no more than its lock.

use std::{
    fmt,
    fs::File,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::OFlags;

use super::{
    exec_image::Image,
    file_lock::{HeldLock, open_plain},
};
use crate::{
    error::{Error, Result},
    identity::Pid,
};

/// The first line of a note: the type of the file and the version of its format.
const HEAD: &str = "procledger instance 1";
/// Longer than any note.
const NOTE_LIMIT: u64 = 1 << 10;

/// The content of a note; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The image that holds the lock.
    pub(crate) image: Option<Image>,
    /// Start tick and pidfd inode of the first process of the instance's PID namespace, if that is
    /// another process.
    pub(crate) init: Option<(u64, u64)>,
    /// The process on whose behalf the instance acts.
    pub(crate) caller: Option<NotedCaller>,
}

/// The process on whose behalf an instance acts, which is in the same PID namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NotedCaller {
    pub(crate) pid: Pid,
    pub(crate) start_tick: u64,
    pub(crate) pidfd_inode: Option<u64>,
    /// One line without secrets.
    pub(crate) command: String,
}

impl fmt::Display for NotedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.command)
    }
}

impl HeldLock {
    /// Writes the note into the lock file.
    ///
    /// # Errors
    ///
    /// If it cannot be written, for example because the disk is full. The lock is held
    /// nevertheless.
    pub(crate) fn write_note(&self, note: &Note) -> Result<()> {
        use std::fmt::Write as _;
        let mut file: &File = self.file();
        let failed = |error| Error::os("failed to write to the lock file", error);
        let mut text = format!("{HEAD}\ninode {}\n", file.metadata().map_err(failed)?.ino());
        if let Some(image) = note.image {
            let _ = writeln!(text, "image {image}");
        }
        if let Some((tick, inode)) = note.init {
            let _ = writeln!(text, "init {tick} {inode}");
        }
        if let Some(NotedCaller { pid, start_tick, pidfd_inode, command }) = &note.caller {
            let inode = pidfd_inode.unwrap_or(0);
            let _ = writeln!(text, "caller {pid} {start_tick} {inode} {command}");
        }
        // In one write, so that a reader sees all of it or nothing.
        file.write_all(text.as_bytes()).map_err(failed)
    }
}

/// Reads the note in the lock file at `path`, if it was written into this very file.
pub(crate) fn read_note(path: &Path, owner: u32) -> Option<Note> {
    note_in(&open_plain(path, OFlags::RDONLY, owner).ok()?)
}

/// Does the same for a lock file that is open.
pub(crate) fn note_in(file: &File) -> Option<Note> {
    let found = file.metadata().ok()?;
    let mut text = String::new();
    file.take(NOTE_LIMIT).read_to_string(&mut text).ok()?;
    parse(&text, found.ino())
}

fn parse(text: &str, inode: u64) -> Option<Note> {
    let mut lines = text.strip_suffix('\n')?.lines();
    if lines.next() != Some(HEAD) || lines.next() != Some(&format!("inode {inode}")) {
        return None;
    }
    let mut note = Note::default();
    for line in lines {
        let mut words = line.split(' ');
        match (words.next()?, words.next()?, words.next()) {
            ("image", digits, None) => note.image = Some(Image::parse(digits)?),
            ("init", tick, Some(inode)) => {
                note.init = Some((tick.parse().ok()?, inode.parse().ok()?));
            }
            ("caller", ..) => note.caller = Some(parse_caller(line)?),
            // A field of a later version is ignored.
            _ => {}
        }
    }
    Some(note)
}

fn parse_caller(line: &str) -> Option<NotedCaller> {
    let mut words = line.splitn(5, ' ').skip(1);
    Some(NotedCaller {
        pid: Pid::new(words.next()?.parse().ok()?)?,
        start_tick: words.next()?.parse().ok()?,
        pidfd_inode: Some(words.next()?.parse().ok()?).filter(|&inode| inode != 0),
        command: words.next()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        let pid = Pid::new(42).expect("a pid");
        let command = "python3 agent.py --all".to_owned();
        let caller = NotedCaller { pid, start_tick: 18, pidfd_inode: None, command };
        Note { image: Image::parse("00ff"), init: Some((17, 4711)), caller: Some(caller) }
    }

    #[test]
    fn a_note_is_read_back_from_its_own_file_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.lock");
        let owner = rustix::process::geteuid().as_raw();
        let read_note = |path: &Path| super::read_note(path, owner);
        let lock = HeldLock::create(&path, owner).expect("a lock");
        assert_eq!(read_note(&path), None, "nothing is written yet");
        lock.write_note(&note()).expect("written");
        assert_eq!(read_note(&path), Some(note()));
        let copy = folder.path().join("copy.lock");
        std::fs::copy(&path, &copy).expect("copied");
        assert_eq!(read_note(&copy), None, "a restored lock file is another one");
        assert_eq!(read_note(&folder.path().join("absent")), None);
        assert_eq!(read_note(folder.path()), None);
    }

    #[test]
    fn half_a_note_or_other_content_is_not_a_note() {
        let whole = "procledger instance 1\ninode 5\nimage 00000000000000ff\ninit 17 4711\n\
                     caller 42 18 0 python3 agent.py --all\n";
        assert_eq!(parse(whole, 5), Some(note()));
        assert_eq!(parse(whole, 6), None);
        for length in 0..whole.len() {
            let half = parse(&whole[..length], 5);
            assert!(half.is_none_or(|half| half != note()), "{length}");
        }
        for broken in ["", "\n", "x\ninode 5\n", "procledger instance 1\ninode 5\nimage xyz\n"] {
            assert_eq!(parse(broken, 5), None, "{broken:?}");
        }
        let later = "procledger instance 1\ninode 5\nimage ff\nmore of it\nalone\n";
        assert!(parse(later, 5).is_none_or(|note| note.image == Image::parse("ff")));
    }
}
