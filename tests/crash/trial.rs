//! One crash, as the first process of a PID namespace: sets the stage, strikes, restarts, and checks.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    checks,
    stepper::{self, Event, Stepper},
    syscalls,
    workload::{Part, write_worker},
    world::{Eye, PATIENCE, again, within},
};

/// When the host is killed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Strike {
    /// It is traced and lives.
    Never,
    /// At this system call of all that its threads make.
    Step(u64),
    /// This many microseconds after it began, at full speed: in the midst of stores into shared memory as well.
    Instant(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) folder: PathBuf,
    pub(crate) mode: String,
    /// Another host has crashed before, so that the struck one begins with an orphan pass.
    pub(crate) after_a_crash: bool,
    pub(crate) strike: Strike,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Whether the strike came before the host's own end.
    pub(crate) struck: bool,
    /// Where: thread and system call.
    pub(crate) at: Option<(String, String)>,
    pub(crate) steps: u64,
    /// How many steps each thread made in each system call.
    pub(crate) seen: Vec<(String, String, u64)>,
    /// How long the host lived, in microseconds.
    pub(crate) lived: u64,
    /// What did not hold.
    pub(crate) findings: Vec<String>,
}

/// The name of the file in the trial's folder that [`Told`] is written to.
pub(crate) const TOLD: &str = "told.json";

pub(crate) fn body(trial: &Trial) {
    assert_eq!(std::process::id(), 1, "a trial is the first process of a namespace");
    write_worker(&trial.folder);
    let mut stage = Stage::set(trial);
    if trial.after_a_crash {
        stage.first_crash(trial);
    }
    let told = strike(&mut stage, trial);
    let told = checks::after(&mut stage, trial, told);
    let path = trial.folder.join(TOLD);
    fs::write(path, serde_json::to_vec(&told).expect("JSON")).expect("told");
}

/// Who is on it besides the host.
pub(crate) struct Stage {
    /// The programs of the workload, started by somebody else and known to no ledger.
    pub(crate) canaries: Vec<Eye>,
    /// What the hosts register: of the first one, and of the struck one.
    pub(crate) foreign: Vec<Eye>,
    statuses: HashMap<i32, i32>,
}

impl Stage {
    fn set(trial: &Trial) -> Self {
        let worker = trial.folder.join("worker");
        let start = |kind: &str, file: &str| {
            let mut command = Command::new("setsid");
            command.arg(&worker).arg(kind).arg(&trial.folder).arg(file).stdin(Stdio::null());
            Eye::on(&command.stdout(Stdio::null()).spawn().expect("a program"))
        };
        // A tree of two each, of the same names and arguments.
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
        let foreign = self.foreign[foreign].pid;
        Part { folder: trial.folder.clone(), mode: trial.mode.clone(), foreign, is_the_first }
    }

    fn first_crash(&mut self, trial: &Trial) {
        let (host, go) = start("host", &self.part(trial, 0, true));
        drop(go);
        let status = self.wait(host);
        assert!(libc::WIFSIGNALED(status), "the first host crashed: {status}");
    }

    pub(crate) fn last_part(&self, trial: &Trial) -> Part {
        self.part(trial, self.foreign.len() - 1, false)
    }

    /// Waits for a child of ours, and reaps all others on the way.
    pub(crate) fn wait(&mut self, child: i32) -> i32 {
        let mut found = None;
        let ended = within(PATIENCE, || {
            self.reap();
            found = self.statuses.remove(&child);
            found.is_some()
        });
        assert!(ended, "{} has not ended", crate::world::describe(child));
        found.expect("a status")
    }

    /// As an init does.
    pub(crate) fn reap(&mut self) {
        self.statuses.extend(stepper::reap());
    }
}

/// A host, ready to begin at a byte or the end of its input.
fn start(role: &str, part: &Part) -> (i32, ChildStdin) {
    let mut child: Child = again(role, &serde_json::to_string(part).expect("JSON"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("a host");
    (child.id().cast_signed(), child.stdin.take().expect("piped"))
}

/// The next run of the program; it has opened the ledger when its input is answered.
pub(crate) fn restart(part: &Part) -> (i32, ChildStdin) {
    start("next-host", part)
}

fn strike(stage: &mut Stage, trial: &Trial) -> Told {
    let part = stage.last_part(trial);
    let said = trial.folder.join("said");
    let ready = |wanted| {
        let said = fs::read_to_string(&said).unwrap_or_default();
        said.matches("ready\n").count() == wanted
    };
    // Beside the struck one nobody has the ledger open, but here somebody reads it: then the index in shared memory outlives
    // the crash, with what was half stored in it.
    let reader = match trial.strike {
        Strike::Instant(_) if trial.after_a_crash => Some(open_reader(&part.ledger())),
        _ => None,
    };
    let (host, go) = start("host", &part);
    let eye = Eye::find(host).expect("a child");
    assert!(within(PATIENCE, || ready(if trial.after_a_crash { 2 } else { 1 })));
    let told = match trial.strike {
        Strike::Instant(micros) => strike_at_an_instant(stage, &eye, go, micros),
        Strike::Never => strike_at_a_step(stage, &eye, go, u64::MAX),
        Strike::Step(step) => strike_at_a_step(stage, &eye, go, step),
    };
    if let Some(reader) = reader {
        let told = reader.query_row("SELECT count(*) FROM process", [], |row| row.get::<_, i64>(0));
        told.expect("who had the ledger open reads on after the crash");
    }
    told
}

fn open_reader(ledger: &std::path::Path) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = rusqlite::Connection::open_with_flags(ledger, flags).expect("a ledger");
    let rows = reader.query_row("SELECT count(*) FROM process", [], |row| row.get::<_, i64>(0));
    assert!(rows.expect("rows") > 0);
    reader
}

fn strike_at_an_instant(stage: &mut Stage, host: &Eye, go: ChildStdin, micros: u64) -> Told {
    let began = Instant::now();
    drop(go);
    let ended = host.dies_within(Duration::from_micros(micros));
    let lived = u64::try_from(began.elapsed().as_micros()).expect("hours");
    host.kill();
    let status = stage.wait(host.pid);
    Told { struck: !ended && libc::WIFSIGNALED(status), lived, ..Told::default() }
}

fn strike_at_a_step(stage: &mut Stage, host: &Eye, go: ChildStdin, wanted: u64) -> Told {
    let mut told = Told::default();
    let mut seen: HashMap<(String, u64), u64> = HashMap::new();
    let mut stepper = Stepper::attach(host.pid);
    drop(go);
    let began = Instant::now();
    let status = loop {
        match stepper.next() {
            Event::Ended(status) => break status,
            Event::Step(step) => {
                told.steps += 1;
                if told.steps == wanted {
                    told.struck = true;
                    told.at = Some((step.name, syscalls::name(step.syscall)));
                    host.kill();
                    break stepper.wait();
                }
                *seen.entry((step.name, step.syscall)).or_default() += 1;
            }
        }
    };
    told.lived = u64::try_from(began.elapsed().as_micros()).expect("hours");
    stage.statuses.extend(stepper.reaped);
    if !told.struck && status != 0 {
        told.findings.push(format!("the host failed by itself: wait status {status}"));
    }
    told.seen = seen
        .into_iter()
        .map(|((thread, call), count)| (thread, syscalls::name(call), count))
        .collect();
    told
}
