//! Keepers, and instances below them, as `/proc` shows them.
//!
//! A keeper bears the token of its tree as its only argument, where it makes nobody a member: membership goes by the
//! environment, and a keeper's is empty. So whoever ends a tree finds its keeper, and with it everything below.

use std::{collections::HashMap, fs, os::unix::ffi::OsStrExt, path::Path};

use uuid::Uuid;

use super::{super::Proc, COMM, NAME};
use crate::{
    identity::Pid,
    plan::observe::{Snapshot, Stat},
};

/// The keepers in a snapshot, by the tokens of their trees.
pub(crate) fn keepers(proc: &Proc, snapshot: &Snapshot) -> HashMap<Uuid, Pid> {
    let named = snapshot.iter().filter(|stat| stat.comm == COMM.to_bytes() && !stat.is_zombie());
    named.filter_map(|stat| Some((token_of(proc, stat)?, stat.pid))).collect()
}

fn token_of(proc: &Proc, seen: &Stat) -> Option<Uuid> {
    let command = proc.command(seen.pid).ok()??;
    let [name, token] = command.as_slice() else { return None };
    let token = Uuid::try_parse_ascii(token).ok().filter(|_| name == NAME.as_bytes())?;
    // Read after the arguments: they are those of the process that the snapshot saw.
    let now = proc.stat(seen.pid).ok()??;
    (now.start_tick == seen.start_tick).then_some(token)
}

/// Processes below `keeper` that hold the lock of an instance: hosts that a task has started.
pub(crate) fn instances_below(snapshot: &Snapshot, keeper: Pid, lock_prefix: &Path) -> Vec<Pid> {
    let below = snapshot.below(keeper).into_iter();
    below.filter(|&pid| holds_a_lock(pid, lock_prefix)).collect()
}

/// Whether the process has a file open whose path begins so, and it is that file's lock that keeps the instance alive.
fn holds_a_lock(pid: Pid, prefix: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.filter_map(Result::ok).any(|descriptor| {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        if !target.as_os_str().as_bytes().starts_with(prefix.as_os_str().as_bytes()) {
            return false;
        }
        let number = descriptor.file_name();
        let info = format!("/proc/{pid}/fdinfo/{}", number.display());
        // The line `lock:` of proc_pid_fdinfo(5).
        let info = fs::read_to_string(info).unwrap_or_default();
        info.lines().any(|line| line.starts_with("lock:") && line.contains("WRITE"))
    })
}
