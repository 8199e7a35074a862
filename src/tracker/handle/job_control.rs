//! The state of a program that shares the host's terminal.

use crate::sys::terminal::Terminal;

/// A program in our session, in its own process group.
#[derive(Debug)]
pub(in crate::tracker) struct JobControl {
    pub(in crate::tracker) terminal: Terminal,
    /// Whether it gets the terminal whenever our group would have it. Otherwise it gets the
    /// terminal when it needs it.
    pub(in crate::tracker) foreground: bool,
    /// Whether we have given it the terminal and not taken it back.
    pub(in crate::tracker) has_terminal: bool,
    /// Whether the program was last seen stopped, and this process group was not stopped along with
    /// it.
    pub(in crate::tracker) was_stopped: bool,
}
