//! Writing to stdout and stderr. Never use `println!`: it panics when the reader is gone.
//!
//! A service must not hang because its log is not read: after [`write_from_threads`] all output
//! passes through [`BoundedOutput`]s, which keep a bounded amount, drop the rest, and report how
//! much was dropped. `run`, which should start no thread for this, drops lines that nothing reads
//! after [`drop_unread_lines`].

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind, Write},
    mem,
    os::fd::AsFd,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    process::ExitCode,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use procledger::paths::{Account, controller};
use rustix::event::{PollFd, PollFlags};
use serde::Serialize;

use crate::{
    bounded_output::BoundedOutput,
    exit::{Exit, Failure, Result},
    poll::poll_within,
    render::{escape, escape_json},
};

/// The destination of all output once no write may wait for a reader.
static ASIDE: OnceLock<[BoundedOutput; 2]> = OnceLock::new();

/// Time within which an active reader takes the last output.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Whether unread lines on stderr are dropped.
static DROPS: AtomicBool = AtomicBool::new(false);

/// Lines on stderr that were dropped since the last one that was written. Written under the lock of
/// stderr.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Makes all further writes independent of their readers. Starts two threads, so call it after
/// signals were blocked.
///
/// # Errors
///
/// A thread cannot be started.
pub(crate) fn write_from_threads() -> Result<()> {
    if ASIDE.get().is_none() {
        let out = BoundedOutput::new(io::stdout, "standard output")?;
        let _ = ASIDE.set([out, BoundedOutput::new(io::stderr, "standard error")?]);
    }
    Ok(())
}

/// Gives readers a moment to take the last output, before the process ends.
pub(crate) fn flush() {
    for output in ASIDE.get().into_iter().flatten() {
        output.flush(LAST_WORDS);
    }
}

/// Returns whether stdout still had a reader at the last write.
pub(crate) fn reader() -> Reader {
    match ASIDE.get() {
        Some([out, _]) if out.has_lost_its_reader() => Reader::Gone,
        _ => Reader::There,
    }
}

/// Writes `text` and a newline to stdout; [`reader`] shows later whether it is read.
pub(crate) fn print_aside(text: &str) {
    match ASIDE.get() {
        Some([out, _]) => out.push(text.as_bytes()),
        None => drop(print_line(text)),
    }
}

/// Whether stdout still has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    /// The reader is gone, as after `ps | head -1`: nothing more needs to be written, and nothing
    /// failed.
    Gone,
}

/// Writes `text` to stdout.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<Reader> {
    if let Some([out, _]) = ASIDE.get() {
        for line in text.as_ref().split_inclusive(|&byte| byte == b'\n') {
            out.push(line.strip_suffix(b"\n").unwrap_or(line));
        }
        return Ok(reader());
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error.into()),
    }
}

/// Writes `text` and a newline to stdout.
pub(crate) fn print_line(text: &str) -> Result<Reader> {
    print(format!("{text}\n"))
}

/// Atomically replaces `file` by one that contains `bytes`: on a full disk the old one stays. A
/// file that is not regular, such as a pipe, is written in place, and so is one that no rename can
/// replace, such as a file mounted into a container; a link is followed. If root names a file in
/// another user's folder, or a link of that user, it is written with that user's access.
pub(crate) fn to_file(file: &Path, bytes: &[u8]) -> Result<()> {
    let failed =
        |error: io::Error| Failure::because(format!("failed to write {}", file.display()), &error);
    let owner = controller(file).map_err(failed)?;
    let _acting = owner.as_ref().map(Account::act).transpose()?;
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    if fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        return fs::write(&target, bytes).map_err(failed);
    }
    match replace(&target, bytes) {
        Err(error) if is_about_the_place(&error) => {
            // Report the first error, which has the reason; the second usually says only that the
            // file does not exist.
            write_in_place(&target, bytes).map_err(|_| failed(error))
        }
        answer => answer.map_err(failed),
    }
}

fn replace(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mode = fs::metadata(target).map_or(0o666, |found| found.mode() & 0o777);
    let mut new = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .prefix(".procledger-")
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    new.write_all(bytes)?;
    new.persist(target).map(drop).map_err(|error| error.error)
}

/// Returns whether the error means that no rename is possible: a mount point, a folder or file
/// system that is not writable.
fn is_about_the_place(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    )
}

fn write_in_place(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = fs::File::options().write(true).open(target)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)
}

/// Formats `value` as indented JSON and a newline, safe to show on a terminal.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| escape_json(text) + "\n")
        .map_err(|error| Failure::because("failed to write JSON", &error))
}

/// Writes a list to stdout as [`json`] would format it, in parts: it may have 50 MB. Each element
/// is formatted already, with its indentation.
pub(crate) fn print_json_list<'a>(elements: impl IntoIterator<Item = &'a str>) -> Result<Reader> {
    const PART: usize = 64 << 10;
    let mut text = String::new();
    let mut before = "[\n";
    for element in elements {
        text.push_str(before);
        text.push_str(element);
        before = ",\n";
        if text.len() >= PART {
            let part = mem::replace(&mut text, String::with_capacity(PART));
            if let Reader::Gone = print(escape_json(part))? {
                return Ok(Reader::Gone);
            }
        }
    }
    text.push_str(if before == "[\n" { "[]\n" } else { "\n]\n" });
    print(escape_json(text))
}

/// Prints the message of a failure, and returns the exit code of the command.
pub(crate) fn conclude(result: Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            warn(&failure.message);
            failure.exit.into()
        }
    }
}

/// Prints `procledger: message` to stderr, escaped, as one line.
pub(crate) fn warn(message: &str) {
    to_stderr(&format!("procledger: {}", escape(message)));
}

/// Prints `text` and a newline to stderr. An error is ignored: there is no other place to report
/// it.
pub(crate) fn to_stderr(text: &str) {
    if let Some([_, err]) = ASIDE.get() {
        return err.push(text.as_bytes());
    }
    let mut stderr = io::stderr().lock();
    if !DROPS.load(Ordering::Relaxed) {
        let _ = stderr.write_all(format!("{text}\n").as_bytes());
        return;
    }
    let dropped = DROPPED.load(Ordering::Relaxed);
    // After a line that was not read, the next one does not wait.
    let limit = if dropped == 0 { LAST_WORDS } else { Duration::ZERO };
    let dropped_before = match dropped {
        0 => String::new(),
        1 => "procledger: 1 line was dropped: standard error was not read\n".to_owned(),
        _ => format!("procledger: {dropped} lines were dropped: standard error was not read\n"),
    };
    let written = write_within(&mut stderr, &format!("{dropped_before}{text}\n"), limit);
    DROPPED.store(if written { 0 } else { dropped + 1 }, Ordering::Relaxed);
}

/// Limits how long each further line on stderr waits for a reader. Otherwise a pipe or a terminal
/// that nothing reads would block the process forever, and with it the task that it owns.
pub(crate) fn drop_unread_lines() {
    DROPS.store(true, Ordering::Relaxed);
}

/// Writes `text` in parts that a pipe takes as a whole once it is writable; returns `false` if a
/// part could not be written within `limit`.
fn write_within(to: &mut (impl Write + AsFd), text: &str, limit: Duration) -> bool {
    for part in text.as_bytes().chunks(libc::PIPE_BUF) {
        let ready = poll_within(&mut [PollFd::new(&*to, PollFlags::OUT)], Some(limit));
        if ready == Ok(0) {
            return false;
        }
        // An error is ignored, as in `to_stderr`.
        let _ = to.write_all(part);
    }
    true
}
