//! Who is left, told by the kernel: pidfds of all that were there, and a look at everything in the PID namespace. It knows
//! nothing of the ledger.

use std::{collections::HashSet, fs};

use crate::support::{Eye, is_alive, pids};

/// What a process was when it was seen.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) pid: u32,
    /// The first 15 bytes of the executable's name, or what the program made of them; most overwrite their arguments only.
    pub(super) name: String,
    pub(super) command: String,
}

/// A process that was there, held by its pidfd.
pub(super) struct Seen {
    pub(super) eye: Eye,
    pub(super) who: Who,
}

/// Everybody in this namespace but ourselves and `others`.
pub(super) fn everybody(others: &HashSet<u32>) -> Vec<Seen> {
    assert_eq!(std::process::id(), 1, "only in a namespace of its own is all that is there ours");
    pids().into_iter().filter(|pid| *pid != 1 && !others.contains(pid)).filter_map(see).collect()
}

/// Those of them that live, and whoever has come since.
pub(super) fn left(of: &[Seen], others: &HashSet<u32>) -> Vec<Who> {
    let living = of.iter().filter(|seen| !seen.eye.is_dead()).map(|seen| seen.who.clone());
    let mut left: Vec<Who> = living.collect();
    let known = of.iter().map(|seen| seen.who.pid).chain(others.iter().copied()).collect();
    left.extend(everybody(&known).into_iter().map(|seen| seen.who));
    left
}

fn see(pid: u32) -> Option<Seen> {
    let eye = Eye::find(pid)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ").chars().take(160).collect();
    is_alive(pid).then_some(Seen { eye, who: Who { pid, name, command } })
}
