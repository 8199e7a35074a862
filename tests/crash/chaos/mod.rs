//! Chaos: hosts on one ledger that spawn, end, crash and restart, with `watch` and `reap` beside
//! them.
//!
//! The actions follow from a seed; how far a host has come when it is killed depends on the
//! machine.

mod host;
mod model;
mod run;
mod small_pid_max;

use std::{path::PathBuf, time::Duration};

pub(crate) use host::body as host;
pub(crate) use run::body;
use serde::{Deserialize, Serialize};
pub(crate) use small_pid_max::{body as small_body, scenario as small_pid_max};

use crate::{
    Wish,
    world::{Chance, folder, modes, run_role, sampled},
};

/// Crashes in the whole.
const CRASHES: u64 = 1_000;
/// Time limit for one run of the whole, on a machine with other load.
const LIMIT: Duration = Duration::from_mins(40);

/// The input of the first process of the namespace.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    folder: PathBuf,
    seed: u64,
    crashes: u64,
    modes: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Outcome {
    counts: String,
    findings: Vec<String>,
}

const OUTCOME: &str = "outcome.json";

pub(crate) fn scenario(wish: &Wish, chance: &mut Chance) -> Vec<String> {
    let folder = folder();
    let task = Task {
        folder: folder.path().to_owned(),
        seed: seed_from_outside().unwrap_or_else(|| chance.draw()),
        crashes: if wish.whole { CRASHES } else { sampled(20, 40) },
        modes: modes().into_iter().map(str::to_owned).collect(),
    };
    println!("PROCLEDGER_CHAOS_SEED={} repeats the same decisions", task.seed);
    let text = serde_json::to_string(&task).expect("JSON");
    if let Err(error) = run_role("chaos", &text, folder.path(), LIMIT) {
        return vec![error];
    }
    let outcome = std::fs::read(folder.path().join(OUTCOME)).expect("an outcome");
    let outcome: Outcome = serde_json::from_slice(&outcome).expect("JSON");
    println!("{}", outcome.counts);
    outcome.findings
}

/// The seed of a run to repeat.
fn seed_from_outside() -> Option<u64> {
    std::env::var("PROCLEDGER_CHAOS_SEED").ok().map(|seed| seed.parse().expect("a number"))
}
