//! The fixed workload, the program that runs it, and the programs that it starts.
//!
//! The host reports each action that it knows to be complete in a file: an append that a crash
//! cannot undo.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use procledger::{Builder, ContainmentMode, Job, Process, Stdio, Tracker};
use serde::{Deserialize, Serialize};

use crate::world::KEEPER;

/// Short, since every trial waits for it.
const GRACE: Duration = Duration::from_millis(20);

/// The task of a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) folder: PathBuf,
    /// The containment that it requests.
    pub(crate) mode: String,
    /// The process started outside of the tracker that it registers.
    pub(crate) foreign: u32,
    /// Ends itself by SIGKILL once all trees are up.
    pub(crate) is_the_first: bool,
    /// Whether the next host ends the orphans of dead ones.
    pub(crate) reaps: bool,
}

impl Part {
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    pub(crate) fn export(&self) -> PathBuf {
        self.folder.join("export.json")
    }

    fn builder(&self) -> Builder {
        Tracker::builder(self.ledger())
            .program("crash-host")
            .export(self.export())
            .grace(GRACE)
            .containment(ContainmentMode::parse(&self.mode).expect("a mode"))
            .keeper(KEEPER)
    }

    fn job(&self, task: &str, kind: &str) -> Job {
        Job::new(task, self.folder.join("worker"))
            .args([kind, self.folder.to_str().expect("text")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
    }

    fn spawn(&self, tracker: &Tracker, say: &mut Said, task: &str, kind: &str) -> Process {
        let process = tracker.spawn(self.job(task, kind)).expect("spawned");
        say.done(&format!("spawn {task} {}", process.pid()));
        process
    }
}

/// Open, spawn three trees, register, one ends, terminate one, health pass, export, shutdown.
pub(crate) fn host(part: &Part) {
    let mut say = Said::open(&part.folder);
    say.done("ready");
    wait_for_input();
    let tracker = part.builder().open().expect("opened");
    say.done("open");
    let mut trees = [("a", "leaver"), ("b", "stubborn"), ("c", daemon(&part.mode))]
        .map(|(task, kind)| part.spawn(&tracker, &mut say, task, kind));
    trees.iter_mut().for_each(wait_until_up);
    tracker.register("d", part.foreign).expect("registered");
    say.done(&format!("register d {}", part.foreign));
    if part.is_the_first {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("killed");
    }
    let mut short = part.spawn(&tracker, &mut say, "e", "short");
    let pid = short.pid();
    assert_eq!(short.wait().expect("ended").to_string(), "exit code 3");
    say.done(&format!("end e {pid}"));
    assert!(tracker.terminate("b").expect("terminated").ended() > 0);
    say.done(&format!("end b {}", trees[1].pid()));
    tracker.health_pass().expect("a pass");
    tracker.flush_export(Duration::from_secs(10)).expect("exported");
    say.done("export");
    tracker.shutdown().expect("an orderly end");
    for (task, process) in ["a", "c"].iter().zip([&trees[0], &trees[2]]) {
        say.done(&format!("end {task} {}", process.pid()));
    }
    say.done("shutdown");
}

/// Opens the ledger as the next run of the same program, reports it, and ends in order when its
/// input ends.
pub(crate) fn next_host(part: &Part) {
    let mut say = Said::open(&part.folder);
    let tracker = part.builder().reap_on_open(part.reaps).open().expect("opened");
    let report = tracker.startup_report();
    say.done(&format!("reopen {} {}", report.endings.len(), report.errors.len()));
    for error in &report.errors {
        eprintln!("at opening: {error}");
    }
    wait_for_input();
    tracker.shutdown().expect("an orderly end");
}

/// In session mode a process that removes all of its marks is lost by design (README, "What
/// escapes"); elsewhere it is not.
fn daemon(mode: &str) -> &'static str {
    if mode == "session" { "daemon" } else { "hidden-daemon" }
}

fn wait_for_input() {
    let mut byte = [0];
    let _ = std::io::stdin().read(&mut byte).expect("an input");
}

fn wait_until_up(process: &mut Process) {
    let stdout = process.stdout.take().expect("piped");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a pipe");
    assert_eq!(line, "up\n");
}

struct Said(File);

impl Said {
    fn open(folder: &Path) -> Self {
        let said = File::options().create(true).append(true).open(folder.join("said"));
        Self(said.expect("a file"))
    }

    fn done(&mut self, what: &str) {
        self.0.write_all(format!("{what}\n").as_bytes()).expect("said");
    }
}

/// The first action of a root is to report that it runs, with its token.
const WORKER: &str = r#"#!/bin/sh
kind=$1 D=$2
case $kind in leaver|stubborn|daemon|hidden-daemon|short) echo "$$ $PROCLEDGER_TOKEN" >> "$D/runs";; esac
case $kind in
  # A child in another session.
  leaver) setsid "$D/worker" member "$D" & exec sleep 3600;;
  # No process in it obeys SIGTERM.
  stubborn) trap '' TERM; "$D/worker" member "$D" & exec sleep 3600;;
  # Forked twice, in another session; the second one with nothing in its environment.
  daemon) (cd / && setsid "$D/worker" member "$D" &); exec sleep 3600;;
  hidden-daemon) (cd / && setsid env -i "$D/worker" member "$D" &); exec sleep 3600;;
  short) exit 3;;
  member) echo up; exec sleep 3600 > /dev/null;;
  foreign) "$D/worker" member "$D" > "$D/$3" & exec sleep 3600;;
esac
"#;

pub(crate) fn write_worker(folder: &Path) {
    let path = folder.join("worker");
    fs::write(&path, WORKER).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
}
