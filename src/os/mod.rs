//! The operating system: the only `unsafe`, and the only raw system calls, of this crate.
//!
//! - [`raw`]: system calls by instruction, for the one place that must not touch libc;
//! - [`acting`]: root with another user's access to files;
//! - [`path`]: paths, followed without what another user could have put there;
//! - `groups`: who may write what a group may write;
//! - `numbers`: which process numbers were given since;
//! - [`pidfd`]: handles on processes: opened, then verified, then signalled;
//! - [`connector`]: what the kernel tells of forks;
//! - `async_pidfd`: the same in a tokio runtime;
//! - `pidfd_info`: what the kernel tells by a pidfd;
//! - [`procfs`]: what `/proc` tells, parsed from bytes;
//! - [`belonging`]: whose a process is;
//! - [`place`]: boot, namespaces, machine;
//! - [`children`]: those of this process that are dead;
//! - [`held`]: pidfds that are held already;
//! - [`holders`]: who keeps a process from ending: a tracer, the freezer;
//! - [`features`]: what the kernel allows;
//! - [`cgroup`]: a v2 leaf for each tree;
//! - `children`: which children a process has now;
//! - [`keeper`]: the process between a host and its program, and how the two talk;
//! - [`image`]: which program image a process runs;
//! - [`lock`]: an instance's lock file, and [`lock_note`]: what is written in it;
//! - `memory`: what a process takes of the machine's memory;
//! - [`namespaces`]: which PID namespaces are there;
//! - [`readers`]: who holds a snapshot of a database;
//! - `scan`: sweeps over all of `/proc`;
//! - [`spawn`]: the gate;
//! - [`tty`]: the terminal's foreground group.

pub(crate) mod acting;
#[cfg(feature = "tokio")]
mod async_pidfd;
pub(crate) mod belonging;
pub(crate) mod cgroup;
pub(crate) mod children;
pub(crate) mod connector;
pub(crate) mod features;
mod groups;
pub(crate) mod held;
mod holders;
pub(crate) mod image;
pub(crate) mod keeper;
pub(crate) mod lock;
pub(crate) mod lock_note;
mod memory;
pub(crate) mod namespaces;
pub(crate) mod numbers;
pub(crate) mod path;
pub(crate) mod pidfd;
mod pidfd_info;
pub(crate) mod place;
pub(crate) mod procfs;
mod raw;
pub(crate) mod readers;
mod scan;
pub(crate) mod spawn;
pub(crate) mod spool;
#[cfg(test)]
mod tests;
pub(crate) mod tty;

/// Blocks every signal in the calling thread: signals of the host are for the host's own threads.
pub(crate) fn leave_signals_to_the_host() {
    // Fails only for a bad argument.
    let _ = nix::sys::signal::SigSet::all().thread_block();
}

#[cfg(feature = "tokio")]
pub(crate) use async_pidfd::{AsyncPidFd, current_runtime};
pub(crate) use pidfd::{PidFd, Pinned, Probe, Signal};
pub(crate) use place::{boot_clock, boot_minus_monotonic, current_place, thread_clock};
pub(crate) use procfs::Proc;
pub(crate) use scan::unless_busy;
