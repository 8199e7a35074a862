//! The gate: a program runs only after its row is committed.
//!
//! A child is made as `posix_spawn(3)` makes it, by `CLONE_VM | CLONE_VFORK`: nothing of the host is copied, and the calling
//! thread is suspended until the child execs or dies, so nothing that it owns is shared with running code. Before exec the
//! child stops at a gate ([`gate`]). A second thread, the registrar, reads the child's identity, commits the row, and opens
//! the gate. Who dies when:
//!
//! - the host before the commit: the child has `PDEATHSIG`, and checks its parent at each tick; it never execs;
//! - the host after the commit and before exec: the same; the row names a process that is found gone;
//! - the registrar, or the disk hangs: the child gives up after [`gate::GATE_LIMIT`]; one compare-and-swap decides
//!   between "go" and "expired".
//!
//! ```text
//!  caller                      child                            registrar
//!  blocks signals
//!  clone3 -------------------> PDEATHSIG, parent check
//!  (suspended)                 setsid, drain signals, defaults
//!                              stdio, close_range
//!                              at the gate -------------------> pidfd, stat, commit
//!                              <------------------------------- go | refused
//!                              clear PDEATHSIG, chdir, unmask
//!  (resumed) <---------------- execve
//! ```
//!
//! Between clone and exec the child makes raw system calls only ([`super::raw`]): it shares errno, the allocator's locks
//! and everything else with its suspended parent.
//!
//! A program of our own that is no task ([`helper`]) is made in the same way, without a gate.
//!
//! Linux 5.9 is needed (`close_range(2)`). Where clone3 is refused, as by seccomp profiles older than it, clone(2) serves.

mod child;
pub(crate) mod gate;
mod helper;
mod launch;
mod program;
mod stack;
mod stdio;

pub(super) use child::Descriptor;
pub(crate) use gate::{Applicant, Doorbell};
pub(super) use helper::{Helper, start};
pub(super) use launch::try_joining;
pub(crate) use launch::{Command, Place, Refusal, Session, Spawned, StdioSource, failure, spawn};
pub(super) use stdio::{Pipes, prepare_stdio};
