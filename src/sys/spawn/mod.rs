//! The gate: a program runs only after its row is committed.
//!
//! A child is created in the memory of its host (`CLONE_VM`) on its own stack: nothing of the host
//! is copied. While it prepares itself, the thread that created it reads its identity, commits the
//! row, and opens the gate ([`gate`]) at which the child waits, if it arrives first. Then that
//! thread sleeps until the kernel reports that the child has left the memory, by exec or by death
//! (`CLONE_CHILD_CLEARTID`): the data that the child reads is on that thread's stack. The
//! consequences of a crash at each point:
//!
//! - the host dies before the commit: the child dies by `PDEATHSIG`, or when it next checks its
//!   parent, and never execs;
//! - the host dies after the commit and before exec: the same, and the process of the row is found
//!   to be gone;
//! - the disk hangs: the child gives up after [`gate::GATE_LIMIT`]; one compare-and-swap decides
//!   between "open" and "expired".
//!
//! ```text
//!  host                                child
//!  blocks signals
//!  clone3 ---------------------------> PDEATHSIG, parent check
//!  unblocks them                       setsid, drain signals, defaults
//!  stat, commit                        stdio, close_range
//!                                      umask, limits, lookup in PATH
//!  opens the gate -------------------> at the gate
//!  sleeps until it has left            nice value, user, chdir, clear PDEATHSIG, unmask
//!  goes on <-------------------------- execve
//! ```
//!
//! Between clone and exec the child makes raw system calls only ([`super::syscall`]): it shares the
//! allocator's locks and everything else with its running host, and errno and all thread-local data
//! with the thread that created it. It also shares the host's table of descriptors until it leaves
//! it, before it opens or closes any.
//!
//! A child that becomes another user does so last of all, while it still shares the memory of its
//! host. From then on that user may signal it, but must not read or write that memory: the kernel
//! makes the memory undumpable when the user changes (`commit_creds` in `kernel/cred.c`), and the
//! child makes sure of it. The host stays undumpable (`PR_SET_DUMPABLE` in prctl(2)): it cannot be
//! determined when it would be safe to revert that, since the kernel reports that the child has
//! left a moment before it actually has.
//!
//! In its own cgroup a child must not share memory with running code: if the cgroup runs out of
//! memory, the kernel ends its victim and every process that shares that memory, and thus the host
//! as well; only a child of vfork(2) is skipped. Such a child is created by a thread that is
//! suspended meanwhile ([`clone_thread`]).
//!
//! A program of our own that is not a task ([`helper`]) is started in the same way, without a gate.
//!
//! This requires Linux 5.9 (`close_range(2)`). If clone3 is refused, as by seccomp profiles that
//! are older than it, clone(2) is used.

mod attributes;
mod child;
mod clone;
mod clone_thread;
mod command;
pub(crate) mod gate;
mod helper;
mod inherited;
mod launch;
mod program;
mod reap;
mod shared_memory;
mod stack;
mod stdio;

pub(super) use attributes::FDS_MAX;
pub use attributes::{Attributes, Resource, Rlimit};
pub(super) use child::Descriptor;
pub(super) use clone::{not_made, try_joining};
pub(crate) use command::{Command, Session, StdioSource, TargetCgroup};
pub(crate) use gate::Gate;
pub(super) use helper::{Helper, start};
pub(super) use inherited::borrowed;
pub(crate) use inherited::inheritable;
pub(crate) use launch::{Refusal, Spawned, failure, spawn};
pub(crate) use shared_memory::GatedChild;
pub(super) use stdio::{Sources, prepare_stdio};
