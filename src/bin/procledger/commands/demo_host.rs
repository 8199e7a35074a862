//! `demo-host`: the program that `demo` crashes. Hidden; it plays an API that starts work for its tasks.

use std::io::{BufRead, BufReader, Read, stdin};

use clap::Args;
use procledger::{ContainmentMode, Job, Process, Stdio, Tracker};

use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    output,
};

/// What the host says once all its trees stand.
pub(super) const READY: &str = "ready";

/// Task ids, and what sh(1) runs for each. Every sleep is bounded, so that even a demo that is cut off leaves nothing
/// for long; every shell says `up` when its tree stands.
const TREES: [(&str, &str); 3] = [
    ("demo-plain", "echo up; exec sleep 300"),
    ("demo-stubborn", "trap \"\" TERM; echo up; sleep 300; exit"),
    ("demo-family", "sleep 300 & sh -c \"sleep 300 & echo up; wait\" \"$0\" & wait"),
];

/// Plays the host of `demo`
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct DemoHostArgs {
    /// Stands in the command lines of what is started
    marker: String,
}

impl DemoHostArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        // A keeper would end the trees before anybody sees that they were left.
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
            // Until the demo ends us, or is gone itself: then this is a clean stop.
            let mut rest = Vec::new();
            let _ = stdin().lock().read_to_end(&mut rest);
        }
        tracker.shutdown()?;
        started.map(|_| Exit::DONE)
    }
}

/// Starts a tree and waits until it stands.
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
            .map_err(|error| Failure::because(format!("failed to hear from {task}"), &error))?;
    }
    if line.trim() == "up" {
        Ok(process)
    } else {
        Err(Failure::new(format!("{task} did not come up")))
    }
}
