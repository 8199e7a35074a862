//! Crashes: at every step of a host, at random instants, of many hosts at once, and with PID reuse.
//!
//! `cargo test --test crash` runs a sample; its crash points follow from a seed that it prints.
//! Everything runs with `cargo test --test crash -- --whole`, or a part of it by name: `controls`,
//! `steps`, `instants`, `chaos`, `reuse`, `small-pid-max`. Further arguments: `--seed N`; for the
//! steps `--mode session|cgroup|keeper`, `--workload start|after`, and `--at N` for one crash
//! point; `--minutes N` ends each scene of the whole early, with its points in a random order.
//! `PROCLEDGER_CHAOS_SEED=N` repeats the decisions of one chaos run.
//!
//! No libtest: a host must be alone in its process, with its first thread, so that its system calls
//! can be counted one by one.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod chaos;
mod checks;
mod reuse;
mod stepper;
mod steps;
mod syscalls;
mod trial;
mod workload;
mod world;

use std::{process::ExitCode, thread};

use world::Chance;

/// The options of a run.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) whole: bool,
    pub(crate) seed: Option<u64>,
    pub(crate) mode: Option<String>,
    pub(crate) workload: Option<String>,
    pub(crate) at: Option<u64>,
    /// Each scene of the whole takes no longer than this: its crash points then come in a random
    /// order.
    pub(crate) minutes: Option<u64>,
    names: Vec<String>,
    list: bool,
}

type Scenario = fn(&Wish, &mut Chance) -> Vec<String>;

const SCENARIOS: [(&str, Scenario); 6] = [
    ("crash::controls", steps::controls),
    ("crash::steps", steps::at_every_step),
    ("crash::instants", steps::at_instants),
    ("crash::chaos", chaos::scenario),
    ("crash::reuse", reuse::scenario),
    ("crash::small-pid-max", chaos::small_pid_max),
];

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(world::ROLE) {
        act(&role);
        return ExitCode::SUCCESS;
    }
    let wish = wish(std::env::args().skip(1));
    let chosen: Vec<_> = SCENARIOS
        .iter()
        .filter(|(name, _)| {
            wish.names.is_empty() || wish.names.iter().any(|part| name.contains(part))
        })
        .collect();
    if wish.list {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if !world::namespaces() {
        return ExitCode::SUCCESS;
    }
    let seed = wish.seed.unwrap_or_else(|| {
        u64::try_from(uuid::Uuid::new_v4().as_u128() & u128::from(u32::MAX)).expect("32 bits")
    });
    let holds = |(name, scenario): &(&str, Scenario)| {
        println!("{name}, seed {seed}{}", if wish.whole { ", the whole" } else { ", a sample" });
        let findings = scenario(&wish, &mut Chance::new(seed));
        println!("{name}: {} findings", findings.len());
        for finding in &findings {
            eprintln!("{name}: {finding}");
        }
        findings.is_empty()
    };
    let held: Vec<bool> = if wish.whole {
        chosen.into_iter().map(holds).collect()
    } else {
        // Each of them waits most of the time.
        thread::scope(|scope| {
            let running: Vec<_> =
                chosen.into_iter().map(|one| scope.spawn(|| holds(one))).collect();
            running.into_iter().map(|one| one.join().expect("no panic")).collect()
        })
    };
    if held.into_iter().all(|held| held) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn act(role: &str) {
    let task = std::env::var(world::TASK).expect("a task");
    match role {
        "trial" => trial::body(&serde_json::from_str(&task).expect("JSON")),
        "host" => workload::host(&serde_json::from_str(&task).expect("JSON")),
        "chaos" => chaos::body(serde_json::from_str(&task).expect("JSON")),
        "small-pid-max" => chaos::small_body(serde_json::from_str(&task).expect("JSON")),
        "chaos-host" => chaos::host(&serde_json::from_str(&task).expect("JSON")),
        "reuse" => reuse::body(&serde_json::from_str(&task).expect("JSON")),
        "reuse-own" => reuse::own(&serde_json::from_str(&task).expect("JSON")),
        "reuse-act" => reuse::act(&serde_json::from_str(&task).expect("JSON")),
        "next-host" => workload::next_host(&serde_json::from_str(&task).expect("JSON")),
        other => panic!("no role {other}"),
    }
}

/// Libtest's own arguments are ignored: `cargo test` passes the same ones to all binaries.
fn wish(mut args: impl Iterator<Item = String>) -> Wish {
    let mut wish = Wish::default();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number");
        match arg.as_str() {
            "--whole" => wish.whole = true,
            "--list" => wish.list = true,
            "--seed" => wish.seed = Some(number()),
            "--at" => wish.at = Some(number()),
            "--mode" => wish.mode = args.next(),
            "--minutes" => wish.minutes = Some(number()),
            "--workload" => wish.workload = args.next(),
            "--test-threads" | "--skip" | "--format" | "--color" => drop(args.next()),
            flag if flag.starts_with('-') => {}
            name => wish.names.push(name.to_owned()),
        }
    }
    wish
}
