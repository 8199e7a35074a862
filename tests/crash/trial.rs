//! One crash, as the first process of a PID namespace: prepares, kills, restarts, and checks.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    checks,
    stepper::{self, Event, Stepper},
    syscalls,
    workload::{Part, write_worker},
    world::{self, PATIENCE, PidfdWatch, again, within},
};

/// When the host is killed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Strike {
    /// Never: it is traced and lives.
    Never,
    /// At this system call, counted over all of its threads.
    Step(u64),
    /// This many microseconds after the start, at full speed: also in the middle of stores into
    /// shared memory.
    Instant(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) folder: PathBuf,
    pub(crate) mode: String,
    /// Another host has crashed before, so that this one begins with an orphan pass.
    pub(crate) after_a_crash: bool,
    pub(crate) strike: Strike,
    /// The fault that is injected after the crash.
    pub(crate) sabotage: Option<Sabotage>,
}

/// A fault that the checks have to find; otherwise they prove nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Sabotage {
    /// The next host ends no orphans.
    NoReaping,
    KilledCanary,
    UnrecordedRun,
    LostRow,
    HalfExport,
}

/// The outcome of a trial.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Whether the kill came before the host's own end.
    pub(crate) struck: bool,
    /// The crash point: thread and system call.
    pub(crate) at: Option<(String, String)>,
    pub(crate) steps: u64,
    /// How many steps each thread made in each system call.
    pub(crate) seen: Vec<(String, String, u64)>,
    /// How long the host lived, in microseconds.
    pub(crate) lived: u64,
    /// What did not hold.
    pub(crate) findings: Vec<String>,
}

/// The name of the file in the trial's folder that [`Outcome`] is written to.
pub(crate) const OUTCOME: &str = "outcome.json";

pub(crate) fn body(trial: &Trial) {
    assert_eq!(std::process::id(), 1, "a trial is the first process of a namespace");
    write_worker(&trial.folder);
    let mut fixture = Fixture::set(trial);
    if trial.after_a_crash {
        fixture.first_crash(trial);
    }
    let outcome = strike(&mut fixture, trial);
    if let Some(sabotage) = trial.sabotage {
        fixture.break_something(trial, sabotage);
    }
    let outcome = checks::after(&mut fixture, trial, outcome);
    let path = trial.folder.join(OUTCOME);
    fs::write(path, serde_json::to_vec(&outcome).expect("JSON")).expect("an outcome");
}

/// The processes besides the host.
pub(crate) struct Fixture {
    /// The programs of the workload, started outside of any tracker and in no ledger.
    pub(crate) canaries: Vec<PidfdWatch>,
    /// What the hosts register: the first one, and the one that is killed.
    pub(crate) foreign: Vec<PidfdWatch>,
    statuses: HashMap<u32, i32>,
}

impl Fixture {
    fn set(trial: &Trial) -> Self {
        let worker = trial.folder.join("worker");
        let start = |kind: &str, file: &str| {
            let mut command = Command::new("setsid");
            command.arg(&worker).arg(kind).arg(&trial.folder).arg(file).stdin(Stdio::null());
            world::start(command.stdout(Stdio::null())).0
        };
        // A tree of two processes each, with the same names and arguments.
        let canaries = ["canary-1", "canary-2"].map(|file| start("foreign", file)).into();
        let count = if trial.after_a_crash { 2 } else { 1 };
        let foreign =
            (0..count).map(|number| start("foreign", &format!("foreign-{number}"))).collect();
        let is_up = |file: &str| fs::read(trial.folder.join(file)).is_ok_and(|up| !up.is_empty());
        let all = ["canary-1", "canary-2", "foreign-0", "foreign-1"];
        assert!(within(PATIENCE, || all[..2 + count].iter().all(|file| is_up(file))));
        Self { canaries, foreign, statuses: HashMap::new() }
    }

    fn part(&self, trial: &Trial, foreign: usize, is_the_first: bool) -> Part {
        let foreign = self.foreign[foreign].pid();
        Part {
            folder: trial.folder.clone(),
            mode: trial.mode.clone(),
            foreign,
            is_the_first,
            reaps: !matches!(trial.sabotage, Some(Sabotage::NoReaping)),
        }
    }

    fn first_crash(&mut self, trial: &Trial) {
        let (host, go) = start_host("host", &self.part(trial, 0, true));
        drop(go);
        let status = self.wait(host.pid());
        assert!(libc::WIFSIGNALED(status), "the first host crashed: {status}");
    }

    fn break_something(&self, trial: &Trial, sabotage: Sabotage) {
        let part = self.last_part(trial);
        match sabotage {
            // Left to the next host.
            Sabotage::NoReaping => {}
            Sabotage::KilledCanary => self.canaries[0].send_kill(),
            Sabotage::UnrecordedRun => {
                fs::write(trial.folder.join("runs"), "4711 0a0b\n").expect("said");
            }
            Sabotage::LostRow => {
                let ledger = rusqlite::Connection::open(part.ledger()).expect("a ledger");
                let lose = "DELETE FROM process WHERE task_id = 'a'";
                assert_eq!(ledger.execute(lose, []).expect("deleted"), 1);
            }
            Sabotage::HalfExport => fs::write(part.export(), "[{\"task_id\":").expect("half"),
        }
    }

    pub(crate) fn last_part(&self, trial: &Trial) -> Part {
        self.part(trial, self.foreign.len() - 1, false)
    }

    /// Waits for a child of ours, and reaps all others along the way.
    pub(crate) fn wait(&mut self, child: u32) -> i32 {
        let mut found = None;
        let ended = within(PATIENCE, || {
            self.reap();
            found = self.statuses.remove(&child);
            found.is_some()
        });
        assert!(ended, "{} has not ended", crate::world::describe(child));
        found.expect("a status")
    }

    /// Reaps as an init does.
    pub(crate) fn reap(&mut self) {
        self.statuses.extend(stepper::reap());
    }
}

/// Starts a host that begins at a byte or at the end of its input.
fn start_host(role: &str, part: &Part) -> (PidfdWatch, ChildStdin) {
    let mut command = again(role, &serde_json::to_string(part).expect("JSON"));
    let (watched, stdin) = world::start(command.stdin(Stdio::piped()));
    (watched, stdin.expect("piped"))
}

/// The next run of the program; it has opened the ledger when it answers.
pub(crate) fn restart(part: &Part) -> (PidfdWatch, ChildStdin) {
    start_host("next-host", part)
}

fn strike(fixture: &mut Fixture, trial: &Trial) -> Outcome {
    let part = fixture.last_part(trial);
    let said = trial.folder.join("said");
    let ready = |wanted| {
        let said = fs::read_to_string(&said).unwrap_or_default();
        said.matches("ready\n").count() == wanted
    };
    // No other host has the ledger open beside the killed one, but here a reader does: then the
    // index in shared memory outlives the crash, with partial stores in it.
    let reader = match trial.strike {
        Strike::Instant(_) if trial.after_a_crash => Some(open_reader(&part.ledger())),
        _ => None,
    };
    let (watched, go) = start_host("host", &part);
    assert!(within(PATIENCE, || ready(if trial.after_a_crash { 2 } else { 1 })));
    let outcome = match trial.strike {
        Strike::Instant(micros) => strike_at_an_instant(fixture, &watched, go, micros),
        Strike::Never => strike_at_a_step(fixture, &watched, go, u64::MAX),
        Strike::Step(step) => strike_at_a_step(fixture, &watched, go, step),
    };
    if let Some(reader) = reader {
        let outcome =
            reader.query_row("SELECT count(*) FROM process", [], |row| row.get::<_, i64>(0));
        outcome.expect("a reader that had the ledger open reads on after the crash");
    }
    outcome
}

fn open_reader(ledger: &std::path::Path) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = rusqlite::Connection::open_with_flags(ledger, flags).expect("a ledger");
    let rows = reader.query_row("SELECT count(*) FROM process", [], |row| row.get::<_, i64>(0));
    assert!(rows.expect("rows") > 0);
    reader
}

fn strike_at_an_instant(
    fixture: &mut Fixture,
    host: &PidfdWatch,
    go: ChildStdin,
    micros: u64,
) -> Outcome {
    let began = Instant::now();
    drop(go);
    let ended = host.dies_within(Duration::from_micros(micros));
    let lived = u64::try_from(began.elapsed().as_micros()).expect("hours");
    host.send_kill();
    let status = fixture.wait(host.pid());
    Outcome { struck: !ended && libc::WIFSIGNALED(status), lived, ..Outcome::default() }
}

fn strike_at_a_step(
    fixture: &mut Fixture,
    host: &PidfdWatch,
    go: ChildStdin,
    wanted: u64,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut seen: HashMap<(String, u64), u64> = HashMap::new();
    let mut stepper = Stepper::attach(host.pid());
    drop(go);
    let began = Instant::now();
    let status = loop {
        match stepper.next() {
            Event::Ended(status) => break status,
            Event::Step(step) => {
                outcome.steps += 1;
                if outcome.steps == wanted {
                    outcome.struck = true;
                    outcome.at = Some((step.name, syscalls::name(step.syscall)));
                    host.send_kill();
                    break stepper.wait();
                }
                *seen.entry((step.name, step.syscall)).or_default() += 1;
            }
        }
    };
    outcome.lived = u64::try_from(began.elapsed().as_micros()).expect("hours");
    fixture.statuses.extend(stepper.reaped);
    if !outcome.struck && status != 0 {
        outcome.findings.push(format!("the host failed by itself: wait status {status}"));
    }
    outcome.seen = seen
        .into_iter()
        .map(|((thread, call), count)| (thread, syscalls::name(call), count))
        .collect();
    outcome
}
