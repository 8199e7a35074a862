//! The operating system: contains all `unsafe` code and all raw system calls of this crate.
//!
//! - [`syscall`]: system calls by instruction, for the one place that must not use libc;
//! - [`fs_user`]: root with another user's file access rights;
//! - [`trusted_path`]: paths, followed only where no other user could have changed them;
//! - `group_members`: which users have the write permission of a group;
//! - [`pidfd`]: handles on processes: opened, then verified, then signalled;
//! - [`poll`]: waiting for descriptors, with a limit; [`epoll`]: waiting for many of them;
//! - [`folder_watch`]: changes in a folder;
//! - [`filesystem`]: network file systems, free space, mount points;
//! - [`proc_events`]: the fork events of the kernel;
//! - `async_pidfd`: a pidfd in a tokio runtime; `async_readable`: any descriptor in one;
//! - `pidfd_info`: what the kernel reports about the process of a pidfd; `core_dump`: whether it
//!   has dumped core;
//! - [`proc`]: the files of `/proc`, parsed from bytes;
//! - [`plain_file`]: files at paths that another user may control;
//! - `pid_scope`: boot, namespaces and machine, in which a PID is meaningful; `clock`: the kernel's
//!   clocks;
//! - [`process_mark`]: whether this is a forked child;
//! - [`fd_table`]: pidfds that are already held;
//! - [`kernel_features`]: what the kernel allows;
//! - [`cgroup`]: a v2 cgroup for each tree;
//! - `end_plan`: the signals by which a tree is asked to end;
//! - [`keeper`]: the process between a host and its program, and the protocol between the two;
//! - [`file_lock`]: an instance's lock file; [`lock_note`]: its content;
//! - [`pid_namespaces`]: which PID namespaces exist;
//! - [`database_file`]: a database without its WAL;
//! - [`wal_readers`]: which processes hold a snapshot of a database;
//! - `signal_state`: the signals that a process ignores and blocks;
//! - [`spawn`]: the gate;
//! - [`terminal`]: the terminal's foreground group.

use nix::sys::signal::{SigSet, SigmaskHow};

#[cfg(feature = "tokio")]
mod async_pidfd;
#[cfg(feature = "tokio")]
mod async_readable;
pub(crate) mod cgroup;
pub(crate) mod clock;
mod core_dump;
pub(crate) mod database_file;
mod end_plan;
pub(crate) mod epoll;
mod exit_status;
pub(crate) mod fd_table;
pub(crate) mod file_lock;
pub(crate) mod filesystem;
pub(crate) mod folder_watch;
pub(crate) mod fs_user;
mod group_members;
pub(crate) mod keeper;
pub(crate) mod kernel_features;
pub(crate) mod lock_note;
pub(crate) mod pid_namespaces;
mod pid_scope;
pub(crate) mod pidfd;
mod pidfd_info;
pub(crate) mod plain_file;
pub(crate) mod poll;
pub(crate) mod proc;
pub(crate) mod proc_events;
pub(crate) mod process_mark;
pub(crate) mod reserved_paths;
mod signal_state;
pub(crate) mod spawn;
pub(crate) mod spool;
mod syscall;
pub(crate) mod terminal;
pub(crate) mod trusted_path;
pub(crate) mod wal_readers;

/// Blocks every signal in the calling thread, since signals to the host are meant for the host's
/// own threads.
pub(crate) fn leave_signals_to_the_host() {
    // Fails only for a bad argument.
    let _ = SigSet::all().thread_block();
}

/// Runs `start` with every signal blocked, which threads that it starts inherit.
pub(crate) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // Fails only for a bad argument.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let started = start();
    let _ = before.and_then(|before| before.thread_set_mask());
    started
}

#[cfg(feature = "tokio")]
pub(crate) use async_pidfd::{AsyncPidFd, current_runtime};
#[cfg(feature = "tokio")]
pub(crate) use async_readable::readable;
pub(crate) use clock::{boot_clock, boot_minus_monotonic, thread_clock};
pub use end_plan::EndPlan;
pub(crate) use end_plan::WAIT_CAP;
pub(crate) use exit_status::Death;
pub use exit_status::ExitStatus;
pub(crate) use pid_scope::current_pid_scope;
pub(crate) use pidfd::{PidFd, Pinned, Presence, Probe, Signal, presence};
pub(crate) use proc::{Proc, children, exec_image, pid_alloc, snapshot, unless_busy};
pub use signal_state::SignalState;
