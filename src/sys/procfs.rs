//! The files of `/proc`.
//!
//! Parsers take bytes, so that tests can pass captured input. Reading goes through one descriptor on `/proc` that stays open,
//! and `ENOENT` or `ESRCH` is a result, not an error: the process is gone, or hidden from us (`hidepid`).

use std::{cell::RefCell, ffi::OsStr, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use uuid::Uuid;

use super::snapshot::Stat;
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
};

/// `PROC_SUPER_MAGIC` in `linux/magic.h`.
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// Clock ticks per second in `/proc`: `USER_HZ`, 100 on every architecture that this crate supports (`proc_pid_stat(5)`).
pub(crate) const TICKS_PER_SECOND: u64 = 100;
/// The duration of one tick.
pub(crate) const TICK: Duration = Duration::from_millis(1000 / TICKS_PER_SECOND);
/// The environment variable that links a tree to its row.
pub(crate) const TOKEN_VARIABLE: &str = "PROCLEDGER_TOKEN";
/// Size of a whole `stat`, with the longest name. It is read at once: a read that leaves room was the last one.
pub(super) const STAT_LIMIT: usize = 1 << 10;
/// How much of an environment is read; the kernel allows more, but none of our programs needs it.
pub(super) const ENVIRON_LIMIT: usize = 4 << 20;

/// Parses `/proc/PID/stat`. The name may contain anything, so it ends at the *last* closing parenthesis.
pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let pid: i64 = number(text.get(..open)?.strip_suffix(b" ")?)?;
    let comm = text.get(open + 1..close)?;
    let mut fields =
        text.get(close + 1..)?.strip_prefix(b" ")?.trim_ascii_end().split(|&byte| byte == b' ');
    let state = match fields.next()? {
        [state] => *state,
        _ => return None,
    };
    // From here on `nth(n)` skips n fields; the numbers are those of proc_pid_stat(5).
    let parent = number(fields.next()?)?; // 4
    let group = number(fields.next()?)?; // 5
    let session = number(fields.next()?)?; // 6
    let terminal = number(fields.next()?)?; // 7
    let flags = number(fields.nth(1)?)?; // 9
    let user: u64 = number(fields.nth(4)?)?; // 14
    let system: u64 = number(fields.next()?)?; // 15
    // The kernel prints these two signed.
    let reaped_user: i64 = number(fields.next()?)?; // 16
    let reaped_system: i64 = number(fields.next()?)?; // 17
    let threads = number(fields.nth(2)?)?; // 20
    let start_tick = number(fields.nth(1)?)?; // 22
    let rss: i64 = number(fields.nth(1)?)?; // 24
    Some(Stat {
        pid: Pid::new(pid)?,
        comm: comm.to_vec(),
        state,
        parent,
        group,
        session,
        terminal,
        flags,
        cpu_ticks: user.saturating_add(system),
        reaped_cpu_ticks: u64::try_from(reaped_user.saturating_add(reaped_system)).unwrap_or(0),
        threads,
        start_tick,
        rss_bytes: u64::try_from(rss)
            .unwrap_or(0)
            .saturating_mul(rustix::param::page_size() as u64),
    })
}

pub(super) fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns user and system time of a process.
pub(crate) fn cpu_time(stat: &Stat) -> Duration {
    Duration::from_millis(stat.cpu_ticks.saturating_mul(1000 / TICKS_PER_SECOND))
}

/// Returns how long ago a process with this start tick was started.
pub(crate) fn age(start_tick: u64) -> Duration {
    let started = Duration::from_millis(start_tick.saturating_mul(1000 / TICKS_PER_SECOND));
    super::boot_clock().saturating_sub(started)
}

/// Returns the current tick, by the clock of start ticks.
pub(crate) fn this_tick() -> u64 {
    tick_of(super::boot_clock())
}

fn tick_of(since_boot: Duration) -> u64 {
    u64::try_from(since_boot.as_millis() / 10).unwrap_or(u64::MAX) * TICKS_PER_SECOND / 100
}

/// Splits `/proc/PID/cmdline` or `environ` into its elements.
pub(crate) fn split_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_suffix(b"\0").unwrap_or(bytes).split(|&byte| byte == 0)
}

/// Returns the arguments in `/proc/PID/cmdline`. A server that writes a title over them pads it with zeros, which are no
/// arguments.
pub(crate) fn arguments(cmdline: &[u8]) -> Vec<Vec<u8>> {
    let shown = if cmdline.ends_with(b"\0\0\0") {
        let end = cmdline.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        &cmdline[..end]
    } else {
        cmdline
    };
    split_nul(shown).map(<[u8]>::to_vec).collect()
}

/// Returns the tokens in an environment: whole elements of the colon-separated list in `PROCLEDGER_TOKEN`.
pub(crate) fn tokens(environ: &[u8]) -> Vec<Uuid> {
    split_nul(environ)
        .filter_map(|entry| entry.strip_prefix(TOKEN_VARIABLE.as_bytes())?.strip_prefix(b"="))
        .flat_map(|list| list.split(|&byte| byte == b':'))
        .filter_map(|element| Uuid::try_parse_ascii(element).ok())
        .collect()
}

/// An open descriptor on `/proc`, and a buffer for each thread that reads through it.
#[derive(Debug)]
pub(crate) struct Proc {
    pub(super) dir: OwnedFd,
}

thread_local! {
    pub(super) static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Proc {
    /// Opens `/proc` and checks that it is the real one, of our own PID namespace.
    pub(crate) fn open() -> Result<Self> {
        let failed = |error: Errno| Error::os("failed to open `/proc`: mount it", error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty()).map_err(failed)?;
        if rustix::fs::fstatfs(&dir).map_err(failed)?.f_type != PROC_SUPER_MAGIC {
            return Err(Error::new(
                Kind::Unsupported,
                "`/proc` is not a proc file system: mount it",
            ));
        }
        let own = rustix::fs::readlinkat(&dir, "self", Vec::new()).map_err(failed)?;
        if own.to_bytes() != std::process::id().to_string().as_bytes() {
            return Err(Error::new(
                Kind::Unsupported,
                "`/proc` belongs to another PID namespace: mount one for this namespace",
            ));
        }
        Ok(Self { dir })
    }

    /// Reads `/proc/PID/stat`; `None` where the process is gone or hidden. If the leading thread has ended, state and memory are
    /// those of a live thread (see [`living_thread`](super::living_thread)).
    pub(crate) fn stat(&self, pid: Pid) -> Result<Option<Stat>> {
        let stat = self.stat_as_shown(pid)?;
        Ok(stat.map(|stat| self.with_living_thread(stat)))
    }

    pub(super) fn stat_as_shown(&self, pid: Pid) -> Result<Option<Stat>> {
        BUFFER.with_borrow_mut(|buffer| {
            if !self.read(pid, "stat", buffer, STAT_LIMIT)? {
                return Ok(None);
            }
            let parsed = parse_stat(buffer);
            parsed.map(Some).ok_or_else(|| {
                Error::new(Kind::Unknown, format!("failed to parse `/proc/{pid}/stat`"))
            })
        })
    }

    /// Returns the parent, its parent and so on, as far as they can be read: a few reads, however many processes there are.
    pub(crate) fn ancestors(&self, pid: Pid) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut next = pid;
        while let Ok(Some(stat)) = self.stat(next) {
            let Some(parent) = Pid::new(i64::from(stat.parent)) else { break };
            if parent == pid || found.contains(&parent) {
                break;
            }
            found.push(parent);
            next = parent;
        }
        found
    }

    /// Returns the arguments; empty for a kernel thread or a zombie, `None` where it is gone.
    pub(crate) fn command(&self, pid: Pid) -> Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = Vec::new();
        if !self.read_of_memory(pid, "cmdline", &mut buffer, ENVIRON_LIMIT)? {
            return Ok(None);
        }
        if buffer.is_empty() {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(arguments(&buffer)))
    }

    /// Returns the tokens that the process carries; `None` where it is gone or its environment may not be read.
    pub(crate) fn tokens(&self, pid: Pid) -> Option<Vec<Uuid>> {
        BUFFER.with_borrow_mut(|buffer| {
            self.read_of_memory(pid, "environ", buffer, ENVIRON_LIMIT).ok()?.then(|| tokens(buffer))
        })
    }

    /// Returns the path of the executable; `None` where it is gone or may not be read.
    pub(crate) fn executable(&self, pid: Pid) -> Option<Vec<u8>> {
        let read = |path: String| rustix::fs::readlinkat(&self.dir, path, Vec::new());
        read(format!("{pid}/exe"))
            .or_else(|error| match self.living_thread(pid) {
                Some(thread) => read(format!("{pid}/task/{thread}/exe")),
                None => Err(error),
            })
            .ok()
            .map(std::ffi::CString::into_bytes)
    }

    /// Reads a whole file of a process into `buffer`; `false` where the process is gone.
    pub(super) fn read(
        &self,
        pid: Pid,
        file: &str,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> Result<bool> {
        let mut space = [0_u8; PATH_SPACE];
        let name = path_of(&mut space, pid, file);
        buffer.clear();
        match read_at(&self.dir, name, buffer, limit) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::SRCH) => Ok(false),
            Err(error) => Err(Error::os(format!("failed to read `/proc/{pid}/{file}`"), error)),
        }
    }

    /// Reports whether other users' processes are hidden from us.
    pub(crate) fn hides_others(&self) -> bool {
        rustix::fs::statat(&self.dir, "1", AtFlags::empty()).is_err()
    }
}

/// Two numbers of 10 digits, `/task/` and the longest name fit.
pub(super) const PATH_SPACE: usize = 48;

/// Returns the path of a process's file below `/proc`, without an allocation.
pub(super) fn path_of<'a>(space: &'a mut [u8; PATH_SPACE], pid: Pid, file: &str) -> &'a OsStr {
    use std::{io::Write, os::unix::ffi::OsStrExt};
    let mut rest = &mut space[..];
    drop(write!(rest, "{pid}/{file}"));
    let length = PATH_SPACE - rest.len();
    OsStr::from_bytes(&space[..length])
}

fn read_at(
    dir: &OwnedFd,
    name: &OsStr,
    buffer: &mut Vec<u8>,
    limit: usize,
) -> std::result::Result<(), Errno> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.reserve(STAT_LIMIT);
    if limit == STAT_LIMIT {
        return read_piece(&file, buffer);
    }
    loop {
        if buffer.len() == buffer.capacity() {
            buffer.reserve(buffer.len().max(1024));
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(()),
            Ok(_) if buffer.len() >= limit => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_piece(file: &OwnedFd, buffer: &mut Vec<u8>) -> std::result::Result<(), Errno> {
    loop {
        match rustix::io::read(file, rustix::buffer::spare_capacity(buffer)) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"42 (cat) R 7 42 5 34816 42 4194304 100 0 0 0 3 4 5 6 20 0 1 0 98765 \
        5000000 123 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_plain_line_is_parsed() {
        let stat = parse_stat(PLAIN).expect("parsed");
        assert_eq!(stat.pid.get(), 42);
        assert_eq!(stat.comm, b"cat");
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), (b'R', 7, 42, 5));
        assert_eq!(
            (stat.terminal, stat.cpu_ticks, stat.start_tick, stat.rss_bytes / 4096),
            (34816, 7, 98765, 123)
        );
        assert_eq!(stat.reaped_cpu_ticks, 11);
        assert!(!stat.is_kernel_thread());
    }

    #[test]
    fn a_title_that_was_written_over_the_arguments_is_one_argument() {
        assert_eq!(arguments(b"nginx: worker process\0\0\0\0"), [b"nginx: worker process"]);
        assert_eq!(arguments(b"tool\0\0"), [&b"tool"[..], b""]);
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let mut line = b"42 (".to_vec();
        line.extend_from_slice(name);
        line.extend_from_slice(&PLAIN[7..]);
        line
    }

    #[test]
    fn a_name_may_contain_anything() {
        for name in [
            &b"a b"[..],
            b"a) S 1 (b",
            b")",
            b"((",
            b"line\nbreak",
            b"",
            b") R 1 1 1 1",
            b"\xff\xfe",
        ] {
            let stat = parse_stat(&named(name)).expect("parsed");
            assert_eq!(stat.comm, name);
            assert_eq!((stat.parent, stat.start_tick), (7, 98765), "{name:?}");
        }
    }

    #[test]
    fn every_truncation_before_the_last_field_used_is_refused() {
        let used = PLAIN.windows(3).position(|window| window == b"123").expect("the field");
        for length in 0..used {
            assert_eq!(parse_stat(&PLAIN[..length]), None, "{length}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let text = String::from_utf8(PLAIN.to_vec()).expect("text");
        for (from, to) in [
            ("42 (cat)", "0 (cat)"),
            ("42 (cat)", "-1 (cat)"),
            ("42 (cat)", "99999999999 (cat)"),
            (" 98765 ", " -1 "),
            (" 98765 ", " 99999999999999999999999 "),
            (" 98765 ", " 12x "),
            ("R 7", "RR 7"),
            ("R 7", "R -7"),
        ] {
            assert_eq!(parse_stat(text.replacen(from, to, 1).as_bytes()), None, "{to}");
        }
    }

    #[test]
    fn the_largest_start_tick_is_kept_exactly() {
        let text = String::from_utf8(PLAIN.to_vec())
            .expect("text")
            .replace(" 98765 ", " 18446744073709551615 ");
        assert_eq!(parse_stat(text.as_bytes()).expect("parsed").start_tick, u64::MAX);
    }

    #[test]
    fn a_token_counts_only_as_a_whole_element() {
        let token = Uuid::from_u128(0xabc);
        let text = token.simple().to_string();
        let other = Uuid::from_u128(5).simple().to_string();
        let carried = |environ: String| tokens(environ.as_bytes()).contains(&token);
        assert!(carried(format!("A=1\0PROCLEDGER_TOKEN={text}\0B=2\0")));
        assert!(carried(format!("PROCLEDGER_TOKEN={other}:{text}")));
        assert!(!carried(format!("PROCLEDGER_TOKEN={text}0\0")));
        assert!(!carried(format!("XPROCLEDGER_TOKEN={text}\0")));
        assert!(!carried(format!("A=PROCLEDGER_TOKEN={text}\0")));
        assert!(!carried(String::new()));
    }

    #[test]
    fn a_tick_is_a_hundredth_of_a_second() {
        for (millis, tick) in [(0, 0), (9, 0), (10, 1), (1_999, 199), (2_000, 200)] {
            assert_eq!(tick_of(Duration::from_millis(millis)), tick, "{millis} ms");
        }
    }
}
