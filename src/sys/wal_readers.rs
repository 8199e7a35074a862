//! Finds the processes that hold a snapshot of an SQLite database in WAL mode.
//!
//! A reader holds a shared lock on one of the five bytes 123 to 127 of the `-shm` file from the
//! first statement of its transaction to the end (`WAL_READ_LOCK` in SQLite's `wal.c`, at
//! `UNIX_SHM_BASE` 120 of `os_unix.c`, which is part of the file format:
//! <https://sqlite.org/walformat.html#wal_locks>). As long as it does, later commits cannot leave
//! the WAL.
//!
//! These are POSIX locks, which `/proc/locks` lists with the pid of their holder (`proc_locks(5)`).
//! `F_GETLK` would need a descriptor of the file, and closing it would drop every lock that this
//! process has on it through SQLite. A holder in a PID namespace that we do not see is not listed.

use std::{
    collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path, thread, time::Duration,
};

use crate::{
    error::{Error, Result},
    identity::Pid,
};

/// The byte range of the read locks.
const READ_LOCKS: std::ops::RangeInclusive<u64> = 123..=127;
/// The number of scans. A short query takes the lock too, so only a process that has it in every
/// scan counts as holding a snapshot.
const LOOKS: u32 = 4;
const BETWEEN: Duration = Duration::from_millis(100);

/// One lock on a file, as a line of `/proc/locks` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lock {
    pid: Pid,
    device: (u32, u32),
    inode: u64,
    first: u64,
    last: u64,
}

/// Returns the pids that hold a snapshot of the database whose shared memory is `shm`; never this
/// process.
pub(crate) fn holders(shm: &Path) -> Result<Vec<Pid>> {
    let mut holders = look(shm)?;
    for _ in 1..LOOKS {
        if holders.is_empty() {
            break;
        }
        thread::sleep(BETWEEN);
        let now = look(shm)?;
        holders.retain(|pid| now.contains(pid));
    }
    Ok(holders.into_iter().collect())
}

fn look(shm: &Path) -> Result<BTreeSet<Pid>> {
    let Ok(file) = fs::metadata(shm) else { return Ok(BTreeSet::new()) };
    let table = table()?;
    let device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    Ok(locks(&table)
        .filter(|lock| lock.inode == file.ino() && lock.pid.get() != std::process::id())
        .filter(|lock| lock.first <= *READ_LOCKS.end() && lock.last >= *READ_LOCKS.start())
        // On btrfs and overlayfs stat(2) returns a device other than the kernel's own.
        .filter(|lock| lock.device == device || has_open(lock.pid, shm))
        .map(|lock| lock.pid)
        .collect())
}

/// Reads `/proc/locks` twice. The kernel lists the locks page by page, and a lock that is released
/// between two pages hides a later one. Beside two busy processes, one reading in 300 missed a lock
/// that was held throughout, but no pair of readings did.
fn table() -> Result<Vec<u8>> {
    let read = || {
        fs::read("/proc/locks").map_err(|error| Error::os("failed to read `/proc/locks`", error))
    };
    let mut table = read()?;
    table.extend(read()?);
    Ok(table)
}

/// Reports whether a process has this file open, as far as we may see.
fn has_open(pid: Pid, path: &Path) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).any(|target| target == path)
}

/// Parses the read locks of `/proc/locks`: `7: POSIX ADVISORY READ 1234 fe:00:5678 124 124`.
/// Waiting locks (`7: -> …`) and other kinds of locks do not count.
fn locks(table: &[u8]) -> impl Iterator<Item = Lock> {
    table.split(|&byte| byte == b'\n').filter_map(|line| parse(std::str::from_utf8(line).ok()?))
}

fn parse(line: &str) -> Option<Lock> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (kind, _mode, access) = (fields.next()?, fields.next()?, fields.next()?);
    if kind != "POSIX" || access != "READ" {
        return None;
    }
    let pid = Pid::new(fields.next()?.parse().ok()?)?;
    let mut file = fields.next()?.split(':');
    let mut hex = || u32::from_str_radix(file.next()?, 16).ok();
    let device = (hex()?, hex()?);
    let inode = file.next()?.parse().ok()?;
    let first = fields.next()?.parse().ok()?;
    let last = match fields.next()? {
        "EOF" => u64::MAX,
        last => last.parse().ok()?,
    };
    Some(Lock { pid, device, inode, first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1: POSIX  ADVISORY  READ 1234 fe:00:5678 124 124\n\
        1: -> POSIX  ADVISORY  WRITE 99 fe:00:5678 120 120\n\
        2: POSIX  ADVISORY  WRITE 1235 fe:00:5678 120 120\n\
        3: FLOCK  ADVISORY  WRITE 1236 fe:00:9 0 EOF\n\
        4: POSIX  ADVISORY  READ 1237 00:2a:18446744073709551615 0 EOF\n\
        5: POSIX  ADVISORY  READ 0 fe:00:5678 124 124\n\
        6: OFDLCK ADVISORY  READ -1 fe:00:5678 124 124\n\
        broken\n7: POSIX\n";

    #[test]
    fn only_read_locks_of_processes_count() {
        let all: Vec<Lock> = locks(TABLE).collect();
        let pid = |pid| Pid::new(pid).expect("a pid");
        let lock = |number, device, inode, first, last| Lock {
            pid: pid(number),
            device,
            inode,
            first,
            last,
        };
        assert_eq!(
            all,
            [lock(1234, (0xfe, 0), 5678, 124, 124), lock(1237, (0, 0x2a), u64::MAX, 0, u64::MAX),]
        );
    }

    #[test]
    fn a_missing_file_has_no_holder() {
        assert_eq!(holders(Path::new("/no/such-shm")).expect("a lookup"), []);
    }
}
