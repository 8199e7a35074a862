//! The operating system: the only `unsafe`, and the only raw system calls, of this crate.
//!
//! - [`syscall`]: system calls by instruction, for the one place that must not use libc;
//! - [`fs_user`]: root with another user's access to files;
//! - [`trusted_path`]: paths, followed without what another user could have put there;
//! - `groups`: which users may write to what a group may write to;
//! - `pid_alloc`: which pids were allocated since a process started;
//! - [`pidfd`]: handles on processes: opened, then verified, then signalled;
//! - [`proc_events`]: the fork events of the kernel;
//! - `async_pidfd`: the same in a tokio runtime;
//! - `pidfd_info`: what the kernel reports about the process of a pidfd;
//! - [`procfs`]: the files of `/proc`, parsed from bytes;
//! - [`status`]: the users of a process, its PID namespaces, its memory, its tracer;
//! - [`environ`]: the tokens of a process;
//! - [`place`]: boot, namespaces, machine;
//! - [`children`]: those of this process that are dead;
//! - [`fd_table`]: pidfds that are already held;
//! - [`tracer`]: what keeps a process from ending: a tracer, the freezer;
//! - [`features`]: what the kernel allows;
//! - [`cgroup`]: a v2 leaf for each tree;
//! - `children`: which children a process has now;
//! - [`keeper`]: the process between a host and its program, and the protocol between the two;
//! - [`exec_image`]: which program image a process runs;
//! - [`file_lock`]: an instance's lock file, and [`lock_note`]: what is written in it;
//! - `memory`: the memory that a process uses;
//! - [`pid_namespaces`]: which PID namespaces exist;
//! - [`wal_readers`]: which processes hold a snapshot of a database;
//! - `scan`: scans of all of `/proc`;
//! - [`spawn`]: the gate;
//! - [`terminal`]: the terminal's foreground group.

#[cfg(feature = "tokio")]
mod async_pidfd;
pub(crate) mod cgroup;
pub(crate) mod children;
pub(crate) mod environ;
pub(crate) mod exec_image;
mod exit_status;
pub(crate) mod fd_table;
pub(crate) mod features;
pub(crate) mod file_lock;
pub(crate) mod fs_user;
mod groups;
pub(crate) mod keeper;
mod living_thread;
pub(crate) mod lock_note;
mod memory;
pub(crate) mod own_files;
pub(crate) mod pid_alloc;
pub(crate) mod pid_namespaces;
pub(crate) mod pidfd;
mod pidfd_info;
pub(crate) mod place;
pub(crate) mod proc_events;
pub(crate) mod procfs;
mod scan;
pub(crate) mod snapshot;
pub(crate) mod spawn;
pub(crate) mod spool;
mod status;
mod syscall;
pub(crate) mod terminal;
#[cfg(test)]
mod tests;
mod tracer;
pub(crate) mod trusted_path;
pub(crate) mod wal_readers;

/// Blocks every signal in the calling thread: signals of the host are for the host's own threads.
pub(crate) fn leave_signals_to_the_host() {
    // Fails only for a bad argument.
    let _ = nix::sys::signal::SigSet::all().thread_block();
}

#[cfg(feature = "tokio")]
pub(crate) use async_pidfd::{AsyncPidFd, current_runtime};
pub use exit_status::ExitStatus;
pub(crate) use pidfd::{PidFd, Pinned, Probe, Signal};
pub(crate) use place::{boot_clock, boot_minus_monotonic, current_place, thread_clock};
pub(crate) use procfs::Proc;
pub(crate) use scan::unless_busy;
