//! Determines the memory that a process uses.
//!
//! There are three figures, the cheap ones first:
//!
//! - resident memory, in `stat` and `status` (`VmRSS`): pages that processes share count in each of
//!   them, so the sum over a tree is too high. A pool of workers that were forked from a large
//!   parent shows many times the memory that it uses;
//! - swap, in `status` (`VmSwap`): swapped-out pages are not in resident memory;
//! - the proportional set size with its swap, in `smaps_rollup` (`Pss`, `SwapPss`;
//!   `proc_pid_smaps(5)`, Linux 4.14): each page counts once, divided by the number of processes
//!   that map it. The kernel walks all page tables of the process for it: some milliseconds for
//!   each gigabyte.
//!
//! None of them counts files in a tmpfs that no process maps, pages of shared memory that were
//! swapped out, and huge pages of hugetlbfs.

use super::{BUFFER, Proc, status::kilobytes};
use crate::{error::Result, identity::Pid};

/// Maximum size of `smaps_rollup`, which has some twenty lines.
const LIMIT: usize = 16 << 10;

impl Proc {
    /// Returns the sum of proportional set size and proportional swap, in bytes; `None` if the
    /// process is gone. Fails if it may not be read, for example because the process is not
    /// dumpable, or if the kernel has no `smaps_rollup`.
    pub(crate) fn proportional(&self, pid: Pid) -> Result<Option<u64>> {
        BUFFER.with_borrow_mut(|buffer| {
            let there = self.read_of_memory(pid, "smaps_rollup", buffer, LIMIT)?;
            Ok(there.then(|| parse_rollup(buffer)))
        })
    }
}

fn parse_rollup(rollup: &[u8]) -> u64 {
    let bytes = |label| kilobytes(rollup, label).unwrap_or(0);
    bytes(b"Pss:").saturating_add(bytes(b"SwapPss:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Pss_Anon` and similar lines are parts of `Pss`, and `Swap` counts shared pages in each
    /// process.
    #[test]
    fn only_the_proportional_figures_of_a_rollup_count() {
        let rollup = b"55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  300 kB\n\
            Pss_Dirty: 1 kB\nPss_Anon: 200 kB\nPss_File: 100 kB\nSwap:  80 kB\nSwapPss:  20 kB\n";
        assert_eq!(parse_rollup(rollup), 320 << 10);
        assert_eq!(parse_rollup(b""), 0);
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
