//! `demo-host`: the program that `demo` crashes. Hidden; it acts as an API that starts programs for
//! its tasks.

use std::io::{BufRead, BufReader, Read, stdin};

use clap::Args;
use procledger::{ContainmentMode, Job, Process, Stdio, Tracker};

use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    output,
};

/// The line that the host prints once all its trees are running.
pub(super) const READY: &str = "ready";

/// Task ids, and the sh(1) script of each. Every sleep is bounded, so that even an aborted demo
/// leaves nothing for long; every shell prints `up` when its tree is running.
const TREES: [(&str, &str); 3] = [
    ("demo-plain", "echo up; exec sleep 300"),
    ("demo-stubborn", "trap \"\" TERM; echo up; sleep 300; exit"),
    ("demo-family", "sleep 300 & sh -c \"sleep 300 & echo up; wait\" \"$0\" & wait"),
];

/// Plays the host of `demo`
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct DemoHostArgs {
    /// Marks the command lines of the started programs
    marker: String,
}

impl DemoHostArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        // A keeper would end the trees before the demo can show that they were left.
        let builder = context.owner().program("demo-host").containment(ContainmentMode::Session);
        let tracker = builder.open()?;
        let started: Result<Vec<Process>> = TREES
            .iter()
            .map(|(task, script)| start(&tracker, task, script, &self.marker))
            .collect();
        if started.is_ok() {
            // Records the descendants, as the monitor does every 30 s.
            tracker.health_pass()?;
            output::print_line(READY)?;
            // Wait until the demo kills this process, or exits itself: then this is a clean stop.
            let mut rest = Vec::new();
            let _ = stdin().lock().read_to_end(&mut rest);
        }
        tracker.shutdown()?;
        started.map(|_| Exit::DONE)
    }
}

/// Starts a tree and waits until it is running.
fn start(tracker: &Tracker, task: &str, script: &str, marker: &str) -> Result<Process> {
    let job = Job::new(task, "/bin/sh")
        .args(["-c", script, marker])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut process = tracker.spawn(job)?;
    let mut line = String::new();
    if let Some(stdout) = process.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(|error| Failure::because(format!("failed to read from {task}"), &error))?;
    }
    if line.trim() == "up" {
        Ok(process)
    } else {
        Err(Failure::new(format!("{task} did not come up")))
    }
}
