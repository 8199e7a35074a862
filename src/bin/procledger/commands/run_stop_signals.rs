//! `run`: signals that ask it to stop. The first one is forwarded, and the program decides; a
//! second one ends its tree, and so does the end of a grace that was requested.

use std::{thread, time::Duration};

use procledger::{EndPlan, Error, TaskId, Tracker};

use crate::{exit::chain, output, threads};

/// Counts the signals that ask the program to end.
#[derive(Debug)]
pub(super) struct StopSignals {
    tracker: Tracker,
    task: TaskId,
    /// Time from the first signal to the end of the tree, if it was requested.
    grace: Option<Duration>,
    asked_by: String,
    received: u32,
}

impl StopSignals {
    pub(super) fn new(
        tracker: Tracker,
        task: TaskId,
        grace: Option<Duration>,
        asked_by: String,
    ) -> Self {
        Self { tracker, task, grace, asked_by, received: 0 }
    }

    /// Acts on a signal that was forwarded.
    pub(super) fn received(&mut self, signal: i32) {
        if !matches!(signal, libc::SIGINT | libc::SIGTERM) {
            return;
        }
        self.received += 1;
        match (self.received, self.grace) {
            (1, Some(grace)) => self.end_after(grace, "a signal and its grace"),
            (2, _) => self.end_after(Duration::ZERO, "a second signal"),
            _ => {}
        }
    }

    /// Ends the tree on another thread, so that signals are forwarded meanwhile.
    fn end_after(&self, grace: Duration, what: &str) {
        let (tracker, task) = (self.tracker.clone(), self.task.clone());
        let asked_by = format!("{} after {what}", self.asked_by);
        let started = threads::start("procledger-stop", move || {
            thread::sleep(grace);
            end(&tracker, &task, &asked_by);
        });
        if let Err(failure) = started {
            output::warn(&failure.message);
        }
    }
}

fn end(tracker: &Tracker, task: &TaskId, asked_by: &str) {
    let at_once = EndPlan::new().grace(Duration::ZERO);
    let over = |error: &Error| error.is_not_found() || error.is_closed();
    match tracker.kill_with(&[task.as_str()], asked_by, &at_once) {
        // It has ended in the meantime.
        Err(error) if over(&error) => return,
        Err(error) => {
            output::warn(&format!("failed to record the end of task {task}: {}", chain(&error)));
        }
        Ok(_) => return,
    }
    // As its owner, this process ends it whether or not the ledger can be written.
    match tracker.terminate_with(task.as_str(), &at_once) {
        Err(error) if !over(&error) => {
            output::warn(&format!("failed to end task {task}: {}", chain(&error)));
        }
        _ => {}
    }
}
