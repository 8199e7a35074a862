//! Properties that hold for any machine, any tree and any command line. Single cases are beside the
//! code.

mod forks;
mod limits;
mod members;
mod names;
mod preview;
mod protect;
mod snapshot;

use std::collections::HashSet;

use proptest::prelude::*;

use crate::{
    identity::Pid,
    sys::snapshot::{
        Snapshot, Stat,
        tests::{pid, stat},
    },
};

/// Few enough pids that all combinations occur: missing parents, loops from inconsistent reads,
/// sessions of several processes.
const NUMBERS: u32 = 14;

fn number() -> impl Strategy<Value = u32> {
    1..=NUMBERS
}

fn any_pid() -> impl Strategy<Value = Pid> {
    number().prop_map(pid)
}

fn some_pids() -> impl Strategy<Value = Vec<Pid>> {
    prop::collection::vec(any_pid(), 0..4)
}

prop_compose! {
    fn process()(
        number in number(),
        parent in 0..=NUMBERS,
        session in 0..4_u32,
        group in 0..4_u32,
        on_terminal in prop::bool::weighted(0.15),
        is_kernel_thread in prop::bool::weighted(0.1),
    ) -> Stat {
        Stat {
            group,
            terminal: if on_terminal { 34817 } else { 0 },
            flags: if is_kernel_thread { 0x0020_0000 } else { 0 },
            ..stat(number, parent, session)
        }
    }
}

/// A machine as a scan of `/proc` may show it; each pid once.
fn machine() -> impl Strategy<Value = Snapshot> {
    prop::collection::vec(process(), 0..16).prop_map(|all| {
        let mut seen = HashSet::new();
        Snapshot::new(all.into_iter().filter(|stat| seen.insert(stat.pid)))
    })
}

/// Returns the ancestors of a process until one is unknown or the line loops. The process itself is
/// among them only if it is part of the loop.
fn line_up(snapshot: &Snapshot, from: Pid) -> HashSet<Pid> {
    let mut line = HashSet::new();
    let mut next = snapshot.get(from).map(|stat| stat.parent);
    while let Some(parent) = next.and_then(|parent| Pid::new(i64::from(parent))) {
        if !line.insert(parent) {
            break;
        }
        next = snapshot.get(parent).map(|stat| stat.parent);
    }
    line
}
