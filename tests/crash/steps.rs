//! A crash at every step: the workload runs once to count the system calls of its host, then once
//! for each of them.
//!
//! Threads race, so the n-th step is not the same call each time; the crash points are counted by
//! thread and call, and compared with those of an undisturbed run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Wish,
    trial::{OUTCOME, Outcome, Sabotage, Strike, Trial},
    world::{Chance, folder, modes, run_role, sampled},
};

/// Cores of a small machine.
const WORKERS: usize = 2;
/// Time limit of one trial, on a machine with other load.
const LIMIT: Duration = Duration::from_secs(100);
/// Random instants of each workload in each containment, in the whole.
const INSTANTS: u64 = 150;
/// A traced host makes more calls in one run than in another; the whole continues until this many
/// hosts in a row have finished before their crash point.
const UNSTRUCK: usize = 4;

/// One workload in one containment.
#[derive(Clone, Copy)]
struct Scene {
    mode: &'static str,
    after_a_crash: bool,
}

impl std::fmt::Display for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let workload = if self.after_a_crash { "after a crash" } else { "from the start" };
        write!(f, "{} {workload}", self.mode)
    }
}

fn scenes(wish: &Wish) -> Vec<Scene> {
    let modes = modes().into_iter().filter(|mode| wish.mode.as_ref().is_none_or(|one| one == mode));
    let workloads = [("start", false), ("after", true)];
    let workloads = workloads
        .into_iter()
        .filter(|(name, _)| wish.workload.as_ref().is_none_or(|one| one == name));
    modes
        .flat_map(|mode| {
            workloads.clone().map(move |(_, after_a_crash)| Scene { mode, after_a_crash })
        })
        .collect()
}

/// Crashes at every system call, or at some; returns all findings.
pub(crate) fn at_every_step(wish: &Wish, chance: &mut Chance) -> Vec<String> {
    let mut findings = Vec::new();
    for scene in scenes(wish) {
        let calm = match run(scene, Strike::Never) {
            Ok(outcome) => outcome,
            Err(error) => return vec![format!("{scene}: undisturbed run failed: {error}")],
        };
        findings.extend(calm.findings.iter().map(|found| format!("{scene}, unstruck: {found}")));
        let points = points(wish, chance, calm.steps);
        let strikes: Vec<_> = points.into_iter().map(Strike::Step).collect();
        let may_stop = wish.at.is_none() && wish.minutes.is_none();
        let tally = all(scene, &strikes, may_stop, deadline(wish));
        tally.print(scene, "system calls", Some(&calm));
        findings.extend(tally.findings);
    }
    findings
}

/// Crashes at random instants, in a host that runs at full speed.
pub(crate) fn at_instants(wish: &Wish, chance: &mut Chance) -> Vec<String> {
    let mut findings = Vec::new();
    for scene in scenes(wish) {
        let count = if wish.whole { INSTANTS } else { sampled(2, 4) };
        let calm = match run(scene, Strike::Instant(60_000_000)) {
            Ok(outcome) => outcome,
            Err(error) => return vec![format!("{scene}: undisturbed run failed: {error}")],
        };
        findings.extend(calm.findings);
        let strikes: Vec<_> =
            (0..count).map(|_| Strike::Instant(chance.below(calm.lived))).collect();
        let tally = all(scene, &strikes, false, deadline(wish));
        tally.print(scene, "instants", None);
        findings.extend(tally.findings);
    }
    findings
}

/// Deliberate faults are found, each by the check that is responsible for it.
pub(crate) fn controls(_: &Wish, _: &mut Chance) -> Vec<String> {
    let scene = Scene { mode: "session", after_a_crash: true };
    let faults = [
        (Sabotage::NoReaping, "leaked"),
        (Sabotage::KilledCanary, "unrelated process killed"),
        (Sabotage::UnrecordedRun, "a program ran without a row"),
        (Sabotage::LostRow, "lost row"),
        (Sabotage::HalfExport, "neither absent nor whole"),
    ];
    let missed = |(sabotage, finding): &(Sabotage, &str)| match run_with(
        scene,
        Strike::Step(1),
        Some(*sabotage),
    ) {
        Ok(outcome) => !outcome.findings.iter().any(|found| found.contains(finding)),
        Err(_) => true,
    };
    let missed = faults.iter().filter(|fault| missed(fault));
    missed.map(|(sabotage, _)| format!("{sabotage:?} was not found")).collect()
}

/// All of them, or one from each of as many equal parts as the sample has points.
fn points(wish: &Wish, chance: &mut Chance, steps: u64) -> Vec<u64> {
    if let Some(at) = wish.at {
        return vec![at];
    }
    if wish.whole {
        if wish.minutes.is_some() {
            return shuffled((1..=steps).collect(), chance);
        }
        // As many again: they are skipped as soon as hosts end before them.
        return (1..=steps * 2).collect();
    }
    let sample = sampled(6, 12);
    let part = (steps / sample).max(1);
    (0..sample).map(|number| number * part + chance.below(part) + 1).collect()
}

fn shuffled(mut points: Vec<u64>, chance: &mut Chance) -> Vec<u64> {
    for at in (1..points.len()).rev() {
        let other = chance.below(at as u64 + 1);
        points.swap(at, usize::try_from(other).expect("small"));
    }
    points
}

/// The deadline of a scene; a whole day is as good as never.
fn deadline(wish: &Wish) -> Instant {
    Instant::now() + Duration::from_mins(wish.minutes.unwrap_or(24 * 60))
}

#[derive(Default)]
struct Tally {
    tried: u64,
    struck: BTreeMap<(String, String), u64>,
    late: u64,
    findings: Vec<String>,
    took: Duration,
}

impl Tally {
    fn print(&self, scene: Scene, what: &str, calm: Option<&Outcome>) {
        let struck: u64 = self.struck.values().sum();
        println!(
            "{scene}: {struck} crashes at {what}, {} came too late; {} findings ({:.1?})",
            self.late,
            self.findings.len(),
            self.took
        );
        let Some(calm) = calm else { return };
        let mut threads: BTreeMap<&str, u64> = BTreeMap::new();
        for ((thread, _), count) in &self.struck {
            *threads.entry(thread).or_default() += count;
        }
        println!("  by thread: {threads:?}");
        let seen: BTreeSet<(&str, &str)> =
            calm.seen.iter().map(|(thread, call, _)| (thread.as_str(), call.as_str())).collect();
        let hit = |(thread, call): &&(&str, &str)| {
            self.struck.contains_key(&((*thread).to_owned(), (*call).to_owned()))
        };
        let missed: Vec<_> = seen.iter().filter(|pair| !hit(pair)).collect();
        println!(
            "  the unstruck host made {} calls, {} kinds by thread; struck {} of these kinds",
            calm.steps,
            seen.len(),
            seen.len() - missed.len()
        );
        if missed.len() <= 20 && !missed.is_empty() {
            println!("  not struck: {missed:?}");
        }
    }

    fn add(&mut self, scene: Scene, strike: Strike, result: Result<Outcome, String>) -> bool {
        self.tried += 1;
        match result {
            Ok(outcome) => {
                self.late += u64::from(!outcome.struck);
                let at = outcome.at.unwrap_or_default();
                if outcome.struck {
                    *self.struck.entry(at.clone()).or_default() += 1;
                }
                for found in outcome.findings {
                    println!("FOUND {scene}, {strike:?} {at:?}: {found}");
                    self.findings.push(format!("{scene}, {strike:?} {at:?}: {found}"));
                }
                outcome.struck
            }
            Err(error) => {
                println!("FOUND {scene}, {strike:?}: {error}");
                self.findings.push(format!("{scene}, {strike:?}: the trial failed: {error}"));
                true
            }
        }
    }
}

fn all(scene: Scene, strikes: &[Strike], may_stop: bool, deadline: Instant) -> Tally {
    let began = Instant::now();
    let (next, unstruck) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let tally = Mutex::new(Tally::default());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(&strike) = strikes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let over = may_stop && unstruck.load(Ordering::Relaxed) >= UNSTRUCK;
                    if over || Instant::now() >= deadline {
                        return;
                    }
                    let result = run(scene, strike);
                    if tally.lock().expect("no panic").add(scene, strike, result) {
                        unstruck.store(0, Ordering::Relaxed);
                    } else {
                        unstruck.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut tally = tally.into_inner().expect("no panic");
    tally.took = began.elapsed();
    tally
}

fn run(scene: Scene, strike: Strike) -> Result<Outcome, String> {
    run_with(scene, strike, None)
}

fn run_with(scene: Scene, strike: Strike, sabotage: Option<Sabotage>) -> Result<Outcome, String> {
    let folder = folder();
    let trial = Trial {
        folder: folder.path().to_owned(),
        mode: scene.mode.to_owned(),
        after_a_crash: scene.after_a_crash,
        strike,
        sabotage,
    };
    let task = serde_json::to_string(&trial).expect("JSON");
    run_role("trial", &task, folder.path(), LIMIT)?;
    let outcome = fs::read(folder.path().join(OUTCOME)).map_err(|error| error.to_string())?;
    let outcome: Outcome = serde_json::from_slice(&outcome).map_err(|error| error.to_string())?;
    if !outcome.findings.is_empty() && sabotage.is_none() {
        let log = fs::read_to_string(folder.path().join("trial.log")).unwrap_or_default();
        println!("{log}");
    }
    Ok(outcome)
}
