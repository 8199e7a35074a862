//! The file beside the ledger in which a keeper lists the processes that it has ended, for the next
//! instance, which records them.
//!
//! A keeper that ends a tree has no host any more and reads no ledger. It lists each member in this
//! file before signalling it, and adds the outcome when that is known. The instance that settles
//! the root's row reads the file, records each member as a leak with its evidence, and removes the
//! file once that is committed.
//!
//! The file is a list of entries, each with its length and a checksum, and is only ever appended
//! to. If the keeper is killed, or the disk is full, the entries before that point are complete and
//! count; everything from the first incomplete one on is ignored. The file is not synced: after a
//! power cut there is nothing to record.
//!
//! - It is created with `O_EXCL` and mode 0600, and its name contains the token of its tree, which
//!   is random.
//! - It is read only if it is a regular file with one name, owned by the ledger's owner, not
//!   writable by others, and not larger than [`FILE_LIMIT`].
//! - Its content is data: a process that it lists is verified by its whole identity, like any
//!   recorded process.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, PidScope},
    model::Evidence,
    model::{ExitStatus, Millis, Outcome},
    sys::{
        keeper::protocol::{put, put_number, take_bytes, take_number, take_text},
        plain_file::open_as_is,
    },
    tracker::membership::process_info::ProcessInfo,
};

/// Version of the format. A file of another version is left alone.
const VERSION: u64 = 2;
/// Maximum size of the file, for some 100,000 members. A larger tree is ended nevertheless, but
/// members beyond the limit are not listed.
pub(crate) const FILE_LIMIT: u64 = 16 << 20;
/// Maximum length of a command; arguments beyond it are left out.
const COMMAND_LIMIT: usize = 4 << 10;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// A member of a tree that a keeper ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) info: ProcessInfo,
    /// `None` if the keeper was killed, or could not write, before the outcome was known.
    pub(crate) fate: Option<Fate>,
}

/// The outcome for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) outcome: Outcome,
    pub(crate) status: ExitStatus,
    pub(crate) died_after: Option<Duration>,
    /// The stop signal that ended it, if one did.
    pub(crate) stop_signal: Option<i32>,
}

/// The content of the file, as far as it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndLog {
    /// When the keeper began.
    pub(crate) began: Millis,
    /// How the root had ended before that, if it had.
    pub(crate) root_status: Option<ExitStatus>,
    /// The root first, if it was alive.
    pub(crate) members: Vec<Logged>,
}

impl EndLog {
    /// Returns the entry of a process.
    pub(crate) fn member(&self, identity: &Identity) -> Option<&Logged> {
        self.members.iter().find(|member| member.info.identity == *identity)
    }
}

/// Returns the path at which the keeper of a tree of this ledger leaves the file.
pub(crate) fn end_log_path(ledger: &Path, token: Uuid) -> PathBuf {
    ledger.with_file_name(format!("{}{}{SUFFIX}", prefix(ledger), token.simple()))
}

const SUFFIX: &str = ".ended";

fn prefix(ledger: &Path) -> String {
    format!("{}-keeper-", ledger.file_name().unwrap_or_default().to_string_lossy())
}

/// Returns the token in the name of such a file beside the ledger.
pub(crate) fn token_of_end_log(ledger: &Path, name: &str) -> Option<Uuid> {
    let token = name.strip_prefix(&prefix(ledger))?.strip_suffix(SUFFIX)?;
    Uuid::try_parse(token).ok().filter(|_| token.len() == 32)
}

/// Writes the file. A failure stops only the writing: the tree is ended with or without the file.
#[derive(Debug)]
pub(crate) struct EndLogWriter {
    file: Option<File>,
    written: u64,
}

impl EndLogWriter {
    /// Creates the file, which must not exist.
    pub(crate) fn create(
        path: &Path,
        token: Uuid,
        began: Millis,
        root_status: Option<ExitStatus>,
    ) -> Self {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).ok().map(File::from);
        let mut writer = Self { file, written: 0 };
        writer.append(HEADER, |body| {
            put_number(body, VERSION);
            body.extend_from_slice(token.as_bytes());
            put_number(body, began.0.cast_unsigned());
            put_optional(body, root_status, put_status);
        });
        writer
    }

    /// Lists a member, before it is signalled.
    pub(crate) fn member(&mut self, member: &ProcessInfo) {
        self.append(MEMBER, |body| {
            put_identity(body, &member.identity);
            let (code, pid) = member.evidence.code();
            body.push(code);
            put_number(body, u64::from(pid));
            put_number(body, u64::from(member.uid));
            put_span(body, member.age);
            put_number(body, member.rss);
            put_span(body, member.cpu);
            let mut left = COMMAND_LIMIT;
            let fits = member.command.iter().take_while(|word| {
                let fits = word.len() <= left;
                left -= word.len().min(left);
                fits
            });
            fits.for_each(|word| put(body, word.as_bytes()));
        });
    }

    /// Adds the outcome for a listed member.
    pub(crate) fn fate(&mut self, identity: &Identity, fate: &Fate) {
        self.append(FATE, |body| {
            put_identity(body, identity);
            put(body, fate.outcome.as_str().as_bytes());
            put_status(body, fate.status);
            put_optional(body, fate.died_after, put_span);
            put_optional(body, fate.stop_signal, put_signal);
        });
    }

    fn append(&mut self, kind: u8, content: impl FnOnce(&mut Vec<u8>)) {
        let Some(file) = &mut self.file else { return };
        let mut body = vec![kind];
        content(&mut body);
        let mut entry = Vec::with_capacity(body.len() + 16);
        put_number(&mut entry, body.len() as u64);
        entry.extend_from_slice(&body);
        put_number(&mut entry, checksum(&body));
        self.written += entry.len() as u64;
        // Nothing may follow an entry that was written in part.
        if self.written > FILE_LIMIT || file.write_all(&entry).is_err() {
            self.file = None;
        }
    }
}

const HEADER: u8 = 1;
const MEMBER: u8 = 2;
const FATE: u8 = 3;

/// Reads the file that the keeper of a tree left; `None` if there is none. `scope` is that of its
/// host.
///
/// # Errors
///
/// If there is a file that must not be trusted, or that is not one of ours.
pub(crate) fn read_end_log(
    path: &Path,
    owner: u32,
    token: Uuid,
    scope: PidScope,
) -> Result<Option<EndLog>> {
    let refused = |why: &str| {
        Error::new(
            Kind::Denied,
            format!("the keeper's record `{}` is not used: {why}", path.display()),
        )
    };
    // A FIFO that another user put there must not block this process.
    let file = match open_as_is(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(refused("it is a symlink")),
        Err(error) => {
            let message = format!("failed to open the keeper's record `{}`", path.display());
            return Err(Error::os(message, error));
        }
    };
    let failed = |error| {
        Error::os(format!("failed to read the keeper's record `{}`", path.display()), error)
    };
    let seen = file.metadata().map_err(failed)?;
    if !seen.is_file() || seen.nlink() != 1 {
        return Err(refused("it is not a regular file with one name"));
    }
    if seen.uid() != owner || seen.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(refused("it is not writable by the ledger's owner alone"));
    }
    if seen.len() > FILE_LIMIT {
        return Err(refused("it is too large"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    match parse(&bytes, token, scope) {
        Some(log) => Ok(Some(log)),
        // The keeper was killed, or the disk was full, before its first entry was complete.
        None if bytes.len() < SMALLEST => Ok(None),
        None => Err(refused("it is from another version, or damaged")),
    }
}

/// The size of a header entry without a status.
const SMALLEST: usize = 8 + 1 + 8 + 16 + 8 + 1 + 8;

/// Removes the file. A missing file is not a failure.
pub(crate) fn remove_end_log(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!("failed to remove the keeper's record `{}`: {error}", path.display());
        }
        _ => {}
    }
}

fn parse(bytes: &[u8], token: Uuid, scope: PidScope) -> Option<EndLog> {
    let mut rest = bytes;
    let mut header = next_entry(&mut rest)?;
    let mut log = take_header(&mut header, token).filter(|_| header.is_empty())?;
    while let Some(mut entry) = next_entry(&mut rest) {
        if take_entry(&mut entry, scope, &mut log).is_none() || !entry.is_empty() {
            break;
        }
    }
    Some(log)
}

/// Returns the body of the next entry, if it is complete.
fn next_entry<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let body = take_bytes(rest, length)?;
    (take_number(rest)? == checksum(body)).then_some(body)
}

fn take_header(body: &mut &[u8], token: Uuid) -> Option<EndLog> {
    let [HEADER] = take_bytes(body, 1)? else { return None };
    let same = take_number(body)? == VERSION && take_bytes(body, 16)? == token.as_bytes();
    let began = Millis(take_number(body)?.cast_signed());
    let root_status = take_optional(body, take_status)?;
    same.then_some(EndLog { began, root_status, members: Vec::new() })
}

fn take_entry(body: &mut &[u8], scope: PidScope, log: &mut EndLog) -> Option<()> {
    match take_bytes(body, 1)? {
        [MEMBER] => {
            let member = take_member(body, scope)?;
            log.members.push(member);
        }
        [FATE] => {
            let identity = take_identity(body, scope)?;
            let outcome = Outcome::parse(take_text(body)?.to_str()?)?;
            let (status, died_after) = (take_status(body)?, take_optional(body, take_span)?);
            let stop_signal = take_optional(body, take_signal)?;
            let member = log.members.iter_mut().find(|member| member.info.identity == identity)?;
            member.fate = Some(Fate { outcome, status, died_after, stop_signal });
        }
        _ => return None,
    }
    Some(())
}

fn take_member(body: &mut &[u8], scope: PidScope) -> Option<Logged> {
    let identity = take_identity(body, scope)?;
    let [code] = take_bytes(body, 1)? else { return None };
    let evidence = Evidence::from_code(*code, Pid::new(i64::try_from(take_number(body)?).ok()?))?;
    let uid = u32::try_from(take_number(body)?).ok()?;
    let (age, rss, cpu) = (take_span(body)?, take_number(body)?, take_span(body)?);
    let mut command = Vec::new();
    while !body.is_empty() {
        command.push(take_text(body)?.into_string().ok()?);
    }
    let info = ProcessInfo { identity, evidence, command, rss, cpu, age, uid };
    Some(Logged { info, fate: None })
}

fn put_identity(body: &mut Vec<u8>, identity: &Identity) {
    put_number(body, u64::from(identity.pid.get()));
    put_number(body, identity.start_tick);
    put_optional(body, identity.pidfd_inode, put_number);
}

fn take_identity(body: &mut &[u8], scope: PidScope) -> Option<Identity> {
    Some(Identity {
        scope,
        pid: Pid::new(i64::try_from(take_number(body)?).ok()?)?,
        start_tick: take_number(body)?,
        pidfd_inode: take_optional(body, take_number)?,
    })
}

fn put_status(body: &mut Vec<u8>, status: ExitStatus) {
    let (kind, number) = match status {
        ExitStatus::Exited(code) => (0, code),
        ExitStatus::Signaled(signal) => (1, signal),
        ExitStatus::Unobserved => (2, 0),
    };
    body.push(kind);
    put_number(body, u64::from(number.cast_unsigned()));
}

fn take_status(body: &mut &[u8]) -> Option<ExitStatus> {
    let [kind] = take_bytes(body, 1)? else { return None };
    let number = u32::try_from(take_number(body)?).ok()?.cast_signed();
    match (kind, number) {
        (0, 0..=255) => Some(ExitStatus::Exited(number)),
        (1, 1..=127) => Some(ExitStatus::Signaled(number)),
        (2, 0) => Some(ExitStatus::Unobserved),
        _ => None,
    }
}

/// Writes a time span in milliseconds.
fn put_span(body: &mut Vec<u8>, span: Duration) {
    put_number(body, u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
}

fn take_span(body: &mut &[u8]) -> Option<Duration> {
    Some(Duration::from_millis(take_number(body)?))
}

fn put_signal(body: &mut Vec<u8>, signal: i32) {
    put_number(body, u64::from(signal.cast_unsigned()));
}

fn take_signal(body: &mut &[u8]) -> Option<i32> {
    i32::try_from(take_number(body)?).ok().filter(|signal| (1..=127).contains(signal))
}

fn put_optional<T>(body: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    body.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(body, value);
    }
}

/// Returns an optional value; the outer `None` means that it is malformed.
#[expect(clippy::option_option, reason = "the parser's own answer, around an optional value")]
fn take_optional<T>(
    body: &mut &[u8],
    take: impl FnOnce(&mut &[u8]) -> Option<T>,
) -> Option<Option<T>> {
    match take_bytes(body, 1)? {
        [0] => Some(None),
        [1] => take(body).map(Some),
        _ => None,
    }
}

/// Returns a checksum (FNV-1a), which only has to detect a torn write.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    const TOKEN: Uuid = Uuid::from_u128(0x1234);

    fn scope() -> PidScope {
        PidScope {
            machine_id: None,
            boot_id: Uuid::from_u128(7),
            pid_namespace: 1,
            boottime_offset: 0,
        }
    }

    fn me() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn logged(pid: i64, evidence: Evidence) -> Logged {
        let pid = Pid::new(pid).expect("a pid");
        let info = ProcessInfo {
            identity: Identity { scope: scope(), pid, start_tick: 99, pidfd_inode: Some(5) },
            evidence,
            uid: 1000,
            age: Duration::from_millis(1500),
            rss: 4096,
            cpu: Duration::from_millis(20),
            command: vec!["sh".into(), "-c".into(), "ünïcode \n".into()],
        };
        Logged { info, fate: None }
    }

    /// Returns a file with two members; the outcome of the first one is known.
    fn written(folder: &Path) -> (PathBuf, EndLog) {
        let path = end_log_path(&folder.join("ledger.db"), TOKEN);
        let mut writer = EndLogWriter::create(&path, TOKEN, Millis(42), None);
        let mut first = logged(10, Evidence::Root);
        let second = logged(11, Evidence::ChildOf(first.info.identity.pid));
        writer.member(&first.info);
        writer.member(&second.info);
        let fate = Fate {
            outcome: Outcome::Term,
            status: ExitStatus::Signaled(2),
            died_after: Some(Duration::from_millis(7)),
            stop_signal: Some(2),
        };
        writer.fate(&first.info.identity, &fate);
        first.fate = Some(fate);
        (path, EndLog { began: Millis(42), root_status: None, members: vec![first, second] })
    }

    #[test]
    fn a_written_log_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = written(folder.path());
        assert_eq!(read_end_log(&path, me(), TOKEN, scope()).expect("trusted"), Some(log));
        let mode = std::fs::metadata(&path).expect("a file").mode();
        assert_eq!(mode & 0o777, 0o600);
        let name = path.file_name().expect("a name").to_str().expect("text");
        assert_eq!(token_of_end_log(&folder.path().join("ledger.db"), name), Some(TOKEN));
        assert_eq!(token_of_end_log(&folder.path().join("other.db"), name), None);
        remove_end_log(&path);
        remove_end_log(&path);
        assert_eq!(read_end_log(&path, me(), TOKEN, scope()).expect("none"), None);
    }

    #[test]
    fn the_entries_before_a_cut_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, log) = written(folder.path());
        let bytes = std::fs::read(&path).expect("read");
        let mut seen = Vec::new();
        for cut in 0..bytes.len() {
            let Some(part) = parse(&bytes[..cut], TOKEN, scope()) else { continue };
            assert!(part.members.len() <= log.members.len());
            seen.push(part.members.len());
            std::fs::write(&path, &bytes[..cut]).expect("written");
            assert_eq!(read_end_log(&path, me(), TOKEN, scope()).expect("trusted"), Some(part));
        }
        seen.dedup();
        assert_eq!(seen, [0, 1, 2]);
        for cut in 0..SMALLEST {
            std::fs::write(&path, &bytes[..cut]).expect("written");
            assert_eq!(read_end_log(&path, me(), TOKEN, scope()).expect("not begun"), None);
        }
    }

    #[test]
    fn a_file_that_others_may_have_written_is_refused_and_nothing_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, _) = written(folder.path());
        let refused = |why: &str| {
            let error = read_end_log(&path, me(), TOKEN, scope()).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
        };
        let set_mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        };
        set_mode(0o620);
        refused("not writable by the ledger's owner alone");
        set_mode(0o600);
        assert!(read_end_log(&path, me() + 1, TOKEN, scope()).is_err(), "another one's");
        assert!(read_end_log(&path, me(), Uuid::from_u128(9), scope()).is_err(), "another tree's");
        let second = folder.path().join("second");
        std::fs::hard_link(&path, &second).expect("a link");
        refused("one name");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&second, &path).expect("a link");
        refused("symlink");
        assert!(EndLogWriter::create(&path, TOKEN, Millis(0), None).file.is_none());
        std::fs::remove_file(&path).expect("removed");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        refused("regular file");
        std::fs::remove_file(&path).expect("removed");
        let file = File::create(&path).expect("a file");
        file.set_len(FILE_LIMIT + 1).expect("its length");
        refused("too large");
    }

    proptest! {
        #[test]
        fn noise_is_never_parsed_as_a_member(noise: Vec<u8>, at in any::<prop::sample::Index>()) {
            let folder = tempfile::tempdir().expect("a folder");
            let (path, log) = written(folder.path());
            let mut bytes = std::fs::read(&path).expect("read");
            bytes.truncate(at.index(bytes.len()));
            bytes.extend(noise);
            if let Some(read) = parse(&bytes, TOKEN, scope()) {
                for member in read.members {
                    prop_assert!(log.members.iter().any(|known| known.info.identity == member.info.identity));
                }
            }
        }
    }
}
