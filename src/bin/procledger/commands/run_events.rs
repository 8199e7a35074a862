//! `run`: what happens while the program runs. One thread forwards signals to it, and ends its tree when its caller has ended.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, Scope},
};

use procledger::{Caller, Signaller, TaskId, Tracker};
use rustix::pipe::{PipeFlags, pipe_with};

use super::run_stop::Stop;
use crate::{
    exit::{Failure, Result, chain},
    output,
    signals::{Event, Signals},
    threads,
};

/// The program that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) program: Signaller,
    pub(crate) task: TaskId,
    pub(crate) stop: Stop,
}

/// The other end of the thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Events<'a> {
    program: Sender<Started>,
    orphaned: &'a AtomicBool,
    _end: OwnedFd,
}

impl Events<'_> {
    /// Sends it the program.
    pub(crate) fn started(&self, started: Started) {
        // It fails only where the thread has ended, which it does when no signal can be read.
        let _ = self.program.send(started);
    }

    /// Returns whether the program was ended because its caller had ended.
    pub(crate) fn orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }
}

/// Runs `work` with a thread that acts once it is sent the program. Where there is no thread, nothing is run.
pub(crate) fn handle_during<T>(
    signals: &Signals,
    tracker: &Tracker,
    caller: Option<&Caller>,
    work: impl FnOnce(&Events<'_>) -> Result<T>,
) -> Result<T> {
    let (done, end) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Failure::because("failed to create a pipe", &error))?;
    let (program, started) = channel::<Started>();
    let orphaned = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = Watch { signals, tracker, caller, orphaned: &orphaned, done };
        threads::start_in(scope, "procledger-signals", move || watch.run(scope, &started))?;
        // Dropped also when `work` panics: otherwise the scope would wait for the thread.
        let events = Events { program, orphaned: &orphaned, _end: end };
        work(&events)
    })
}

/// What the thread watches.
struct Watch<'a> {
    signals: &'a Signals,
    tracker: &'a Tracker,
    caller: Option<&'a Caller>,
    orphaned: &'a AtomicBool,
    /// Closed at its other end when the thread is to end.
    done: OwnedFd,
}

impl<'a> Watch<'a> {
    fn run<'scope>(self, scope: &'scope Scope<'scope, '_>, started: &Receiver<Started>)
    where
        'a: 'scope,
    {
        let Ok(Started { program, task, mut stop }) = started.recv() else { return };
        let mut caller = self.caller;
        loop {
            let mut others: Vec<BorrowedFd<'_>> = vec![self.done.as_fd()];
            others.extend(caller.map(AsFd::as_fd));
            match self.signals.next_or(&others) {
                Ok(Event::Signal(signal)) => {
                    forward(&program, signal);
                    stop.heard(signal);
                }
                Ok(Event::Readable(0)) | Err(_) => return,
                Ok(Event::Readable(_)) => {
                    caller = None;
                    self.orphaned.store(true, Ordering::Release);
                    self.end_orphan(scope, &task);
                }
            }
        }
    }

    /// Ends the tree on another thread, so that signals are forwarded during its grace; on this one where there is no other.
    fn end_orphan<'scope>(&self, scope: &'scope Scope<'scope, '_>, task: &TaskId)
    where
        'a: 'scope,
    {
        let (tracker, name) = (self.tracker, task.clone());
        if threads::start_in(scope, "procledger-orphan", move || end(tracker, &name)).is_err() {
            end(tracker, task);
        }
    }
}

fn forward(program: &Signaller, signal: i32) {
    match program.signal(signal) {
        Err(error) if !error.is_gone() => {
            output::complain(&format!("failed to forward signal {signal}: {error}"));
        }
        _ => {}
    }
}

fn end(tracker: &Tracker, task: &TaskId) {
    match tracker.end_orphaned(task.as_str()) {
        // The program ended at the same moment.
        Err(error) if !error.is_not_found() && !error.is_closed() => {
            output::complain(&format!("failed to end task {task}: {}", chain(&error)));
        }
        _ => {}
    }
}
