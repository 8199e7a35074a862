//! Which processes are left, according to the kernel: pidfds of all that were there, and a scan of
//! the whole PID namespace. The scan does not use the ledger.

use std::{collections::HashSet, fs};

use crate::support::{PidfdWatch, is_alive, pids};

/// The identity of a process when it was seen.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// The first 15 bytes of the executable's name, or what the program changed them to; most
    /// overwrite their arguments only.
    pub(super) name: String,
    pub(super) command: String,
}

/// A process that was seen, held by its pidfd.
pub(super) struct Seen {
    pub(super) watched: PidfdWatch,
    pub(super) identity: Identity,
}

/// All processes of this namespace except this one and `others`.
pub(super) fn live_processes(others: &HashSet<u32>) -> Vec<Seen> {
    assert_eq!(std::process::id(), 1, "only in a namespace of its own is all that is there ours");
    pids().into_iter().filter(|pid| *pid != 1 && !others.contains(pid)).filter_map(see).collect()
}

/// Those of them that are alive, and all that have started since.
pub(super) fn left(of: &[Seen], others: &HashSet<u32>) -> Vec<Identity> {
    let living = of.iter().filter(|seen| !seen.watched.is_dead()).map(|seen| seen.identity.clone());
    let mut left: Vec<Identity> = living.collect();
    let known = of.iter().map(|seen| seen.identity.pid).chain(others.iter().copied()).collect();
    left.extend(live_processes(&known).into_iter().map(|seen| seen.identity));
    left
}

fn see(pid: u32) -> Option<Seen> {
    let watched = PidfdWatch::find(pid)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ").chars().take(160).collect();
    is_alive(pid).then_some(Seen { watched, identity: Identity { pid, name, command } })
}
