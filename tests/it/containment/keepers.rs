//! Not a scenario: what the scenarios of keepers share.

use std::path::Path;

use procledger::{Builder, ContainmentMode, Tracker};

use crate::support::{Place, is_alive, sqlite3, start_tick};

/// The built keeper.
pub(crate) const KEEPER: &str = env!("CARGO_BIN_EXE_procledger-keeper");
/// Options of a host that puts every program under the built keeper.
pub(crate) const HOST: &str = "containment=keeper keeper";

/// A tracker that puts every program under a keeper.
pub(crate) fn kept(place: &Place) -> Builder {
    Tracker::builder(place.ledger()).containment(ContainmentMode::Keeper).keeper(KEEPER)
}

/// Shell text that starts a typical daemon: forked twice, in a session of its own, with an empty
/// environment and `/` as its folder. It writes its pid to the file `name`, and sleeps without a
/// child.
pub(crate) fn daemon(place: &Place, name: &str) -> String {
    let fifo = place.path().join("never");
    if !fifo.exists() {
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        place.script("daemon", "cd /; echo $$ > \"$1\"; read x < \"$2\"");
    }
    let (folder, marker) = (place.path().display(), place.marker());
    format!(
        "(setsid env -i {folder}/daemon {folder}/{name} {folder}/never {marker} </dev/null >/dev/null 2>&1 &)"
    )
}

/// Live keepers of the ledger's trees, by the identities in its rows.
pub(crate) fn keepers(ledger: &Path) -> Vec<u32> {
    let rows = "SELECT keeper_pid, keeper_start_tick FROM process WHERE keeper_pid IS NOT NULL";
    let recorded = sqlite3(ledger, rows);
    let recorded = recorded.lines().filter_map(|line| line.split_once('|'));
    let mut alive: Vec<u32> = recorded
        .filter_map(|(pid, tick)| Some((pid.parse().ok()?, tick.parse().ok())))
        .filter(|&(pid, tick)| is_alive(pid) && start_tick(pid) == tick)
        .map(|(pid, _)| pid)
        .collect();
    alive.sort_unstable();
    alive
}
