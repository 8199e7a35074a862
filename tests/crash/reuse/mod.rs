//! PID reuse: while a pass scans a tree and ends it, processes of the tree die at chosen system
//! calls of the acting process, and unrelated processes take their pids.
//!
//! The actor is held by ptrace(2), and pids are steered by `ns_last_pid`, in a PID namespace of the
//! trial.

mod fixture;
mod host;
mod run;

use std::{path::PathBuf, time::Duration};

pub(crate) use host::{act, own};
pub(crate) use run::body;
use serde::{Deserialize, Serialize};

use crate::{
    Wish,
    world::{Chance, folder, modes, run_role},
};

/// The operation on the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// Its owner has crashed; the next host opens the ledger.
    Open,
    /// Its owner ends it.
    Terminate,
    /// Another instance ends it, as `procledger kill` does.
    Kill,
}

const WAYS: [Way; 3] = [Way::Open, Way::Terminate, Way::Kill];

#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    folder: PathBuf,
    seed: u64,
    way: Way,
    mode: String,
    trials: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Outcome {
    /// Pids of the tree that unrelated processes took during the pass.
    reused: u64,
    /// Of these: between the scan that found the process and the opening of its pidfd.
    before_the_pidfd: u64,
    /// Of these: started in the same tick as the previous process with that pid.
    same_tick: u64,
    findings: Vec<String>,
}

const OUTCOME: &str = "outcome.json";
/// Passes of each kind in each containment, in the sample and in the whole; eight or nine reuses
/// each.
const TRIALS: (u64, u64) = (4, 60);
const LIMIT: Duration = Duration::from_mins(10);

/// Under a keeper only the keeper reaps the members and frees their pids, so there is nothing to
/// steer.
pub(crate) fn scenario(wish: &Wish, chance: &mut Chance) -> Vec<String> {
    let mut findings = Vec::new();
    let mut sum = Outcome::default();
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root: only root may steer pids");
        return findings;
    }
    for mode in modes().into_iter().filter(|mode| *mode != "keeper") {
        for way in WAYS {
            let trials = if wish.whole { TRIALS.1 } else { TRIALS.0 };
            let outcome = match run(way, mode, trials, chance.draw()) {
                Ok(outcome) => outcome,
                Err(error) => return vec![format!("{way:?} in {mode}: {error}")],
            };
            println!(
                "{way:?} in {mode}: {} numbers reused during {trials} passes, {} before the pidfd, {} in the same tick",
                outcome.reused, outcome.before_the_pidfd, outcome.same_tick
            );
            sum.reused += outcome.reused;
            sum.same_tick += outcome.same_tick;
            findings
                .extend(outcome.findings.iter().map(|found| format!("{way:?} in {mode}: {found}")));
        }
    }
    println!("{} numbers reused, {} in the same tick", sum.reused, sum.same_tick);
    if sum.same_tick == 0 {
        findings.push("no number was reused within a tick: nothing is proven about that".into());
    }
    findings
}

fn run(way: Way, mode: &str, trials: u64, seed: u64) -> Result<Outcome, String> {
    let folder = folder();
    let task = Task { folder: folder.path().to_owned(), seed, way, mode: mode.to_owned(), trials };
    let text = serde_json::to_string(&task).expect("JSON");
    run_role("reuse", &text, folder.path(), LIMIT)?;
    let outcome = std::fs::read(folder.path().join(OUTCOME)).map_err(|error| error.to_string())?;
    let outcome: Outcome = serde_json::from_slice(&outcome).map_err(|error| error.to_string())?;
    if !outcome.findings.is_empty() {
        println!(
            "{}",
            std::fs::read_to_string(folder.path().join("reuse.log")).unwrap_or_default()
        );
    }
    Ok(outcome)
}
