//! The memory that a process uses.
//!
//! Three figures, the cheap ones first:
//!
//! - resident memory, in `stat` and `status` (`VmRSS`): pages that processes share count in each of them, so the sum over a
//!   tree is too high. A pool of workers that were forked from a large parent shows many times what it uses;
//! - swap, in `status` (`VmSwap`): swapped-out pages are not in resident memory;
//! - the proportional set size with its swap, in `smaps_rollup` (`Pss`, `SwapPss`; `proc_pid_smaps(5)`, Linux 4.14): each page
//!   counts once, divided by the processes that map it. The kernel walks all page tables of the process for it: some
//!   milliseconds for each gigabyte.
//!
//! None of them counts files in a tmpfs that no process maps, pages of shared memory that were swapped out, and huge pages of
//! hugetlbfs.

use super::procfs::{BUFFER, Proc, number};
use crate::{error::Result, identity::Pid};

/// `smaps_rollup` has some twenty lines, `status` some sixty.
const LIMIT: usize = 16 << 10;

/// The memory of a process according to `status`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// `VmRSS`: all of its resident pages, including shared ones.
    pub(crate) resident: u64,
    /// `RssAnon`: those of them that belong to no file and no shared memory (Linux 4.5).
    pub(crate) anonymous: u64,
    /// `VmSwap`.
    pub(crate) swapped: u64,
}

impl Proc {
    /// Returns the memory that it uses, by the cheap figures; `None` where it is gone. A zombie uses none.
    pub(crate) fn memory(&self, pid: Pid) -> Result<Option<Memory>> {
        BUFFER.with_borrow_mut(|buffer| {
            if !self.read(pid, "status", buffer, LIMIT)? {
                return Ok(None);
            }
            let memory = parse_status(buffer);
            if memory != Memory::default() {
                return Ok(Some(memory));
            }
            let living = self.read_of_living_thread(pid, "status", buffer, LIMIT);
            Ok(Some(if living { parse_status(buffer) } else { memory }))
        })
    }

    /// Returns proportional set size and proportional swap, in bytes; `None` where it is gone. Fails where it may not be read,
    /// as for a process that is not dumpable, or where the kernel has no `smaps_rollup`.
    pub(crate) fn proportional(&self, pid: Pid) -> Result<Option<u64>> {
        BUFFER.with_borrow_mut(|buffer| {
            let there = self.read_of_memory(pid, "smaps_rollup", buffer, LIMIT)?;
            Ok(there.then(|| parse_rollup(buffer)))
        })
    }
}

fn parse_status(status: &[u8]) -> Memory {
    let bytes = |label| kilobytes(status, label).unwrap_or(0);
    Memory { resident: bytes(b"VmRSS:"), anonymous: bytes(b"RssAnon:"), swapped: bytes(b"VmSwap:") }
}

fn parse_rollup(rollup: &[u8]) -> u64 {
    let bytes = |label| kilobytes(rollup, label).unwrap_or(0);
    bytes(b"Pss:").saturating_add(bytes(b"SwapPss:"))
}

/// Returns the value of a line such as `VmRSS:      1234 kB`, in bytes. The first line of `status` contains the process's name,
/// in which a newline is escaped.
fn kilobytes(text: &[u8], label: &[u8]) -> Option<u64> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(label))?;
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    number::<u64>(words.next()?)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_its_lines_and_a_zombie_has_none() {
        let status = b"Name:\tVmRSS: 7 kB\nVmHWM:\t  900 kB\nVmRSS:\t  800 kB\nRssAnon:\t 700 kB\n\
            RssFile:\t 100 kB\nVmSwap:\t  50 kB\n";
        let found = Memory { resident: 800 << 10, anonymous: 700 << 10, swapped: 50 << 10 };
        assert_eq!(parse_status(status), found);
        assert_eq!(parse_status(b"Name:\tx\nState:\tZ (zombie)\n"), Memory::default());
    }

    /// `Pss_Anon` and the like are parts of `Pss`, and `Swap` counts shared pages in each process.
    #[test]
    fn only_the_proportional_figures_of_a_rollup_count() {
        let rollup = b"55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  300 kB\n\
            Pss_Dirty: 1 kB\nPss_Anon: 200 kB\nPss_File: 100 kB\nSwap:  80 kB\nSwapPss:  20 kB\n";
        assert_eq!(parse_rollup(rollup), 320 << 10);
        assert_eq!(parse_rollup(b""), 0);
    }

    #[test]
    fn no_number_is_invented() {
        assert_eq!(kilobytes(b"VmRSS:\t kB\n", b"VmRSS:"), None);
        assert_eq!(kilobytes(b"VmRSS:\t -1 kB\n", b"VmRSS:"), None);
        assert_eq!(kilobytes(b"VmRSS:\t 18446744073709551615 kB\n", b"VmRSS:"), None);
    }

    #[test]
    fn this_process_uses_no_more_than_its_resident_memory() {
        let proc = Proc::open().expect("/proc");
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let memory = proc.memory(own).expect("readable").expect("alive");
        let proportional = proc.proportional(own).expect("readable").expect("alive");
        assert!(memory.resident > 0 && proportional > 0);
        // Other tests allocate meanwhile.
        assert!(proportional < memory.resident + memory.swapped + (64 << 20));
    }
}
