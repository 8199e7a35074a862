//! `run`: what happens while the program runs. Signals are forwarded to it, and its tree is ended
//! when its caller has ended.

use std::{
    os::fd::{AsFd, BorrowedFd},
    thread::{self, Scope},
};

use procledger::{Caller, Exit, Process, TaskId, Tracker};

use super::{run_forwarded_signals::SignalArgs, run_stop_signals::StopSignals};
use crate::{
    exit::{Failure, Result, chain},
    output,
    signals::{Received, Signals},
    threads,
};

/// How the program ended.
#[derive(Clone, Debug)]
pub(super) struct Waited {
    pub(super) exit: Exit,
    /// Its tree was ended because its caller had ended.
    pub(super) orphaned: bool,
}

/// The program, and what acts on it.
pub(super) struct Running<'a> {
    pub(super) signals: &'a Signals,
    pub(super) tracker: &'a Tracker,
    pub(super) caller: Option<&'a Caller>,
    pub(super) task: &'a TaskId,
    pub(super) forwarding: &'a SignalArgs,
    pub(super) stop: StopSignals,
}

impl Running<'_> {
    /// Waits until the program has ended.
    pub(super) fn wait(mut self, process: &mut Process) -> Result<Waited> {
        thread::scope(|scope| {
            let mut orphaned = false;
            loop {
                while let Some(received) = self.next_signal()? {
                    if self.forwarding.forward(process, received) {
                        self.stop.received(received.signal);
                    }
                }
                let caller = self.caller.filter(|_| !orphaned);
                if let Some(caller) = caller
                    && caller.has_ended()?
                {
                    orphaned = true;
                    self.end_orphan(scope);
                    continue;
                }
                let mut others: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
                others.extend(caller.map(AsFd::as_fd));
                if let Some(exit) = process.wait_in_foreground_or(&others)? {
                    return Ok(Waited { exit, orphaned });
                }
            }
        })
    }

    fn next_signal(&self) -> Result<Option<Received>> {
        self.signals.received().map_err(|error| Failure::because("failed to read a signal", &error))
    }

    /// Ends the tree on another thread, so that signals are forwarded during its grace; on this one
    /// if no other can be started.
    fn end_orphan<'scope>(&self, scope: &'scope Scope<'scope, '_>) {
        let (tracker, task) = (self.tracker.clone(), self.task.clone());
        let end = move || end(&tracker, &task);
        if threads::start_in(scope, "procledger-orphan", end.clone()).is_err() {
            end();
        }
    }
}

fn end(tracker: &Tracker, task: &TaskId) {
    match tracker.end_orphaned(task.as_str()) {
        // The program ended at the same moment.
        Err(error) if !error.is_not_found() && !error.is_closed() => {
            output::warn(&format!("failed to end task {task}: {}", chain(&error)));
        }
        _ => {}
    }
}
