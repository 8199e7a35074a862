//! The ancestors of this process. If a task runs this command, the command can neither end that
//! task nor wait for it.

use std::{fs, iter};

/// A process: its PID, and when it was started (field 22 of `proc_pid_stat(5)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub(crate) pid: u32,
    pub(crate) start_tick: u64,
}

/// Returns this process and its ancestors, as far as `/proc` shows them.
pub(crate) fn ancestors() -> Vec<Ancestor> {
    let first = of(std::process::id());
    iter::successors(first, |(_, parent)| of(*parent)).map(|(ancestor, _)| ancestor).collect()
}

/// Returns a process and the PID of its parent.
fn of(pid: u32) -> Option<(Ancestor, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let parent = fields.nth(4 - 3)?.parse().ok()?;
    let start_tick = fields.nth(22 - 4 - 1)?.parse().ok()?;
    Some((Ancestor { pid, start_tick }, parent))
}
