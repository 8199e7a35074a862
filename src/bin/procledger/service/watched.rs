//! One ledger: missing, watched by a worker, or resting after a failure.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    files::{Mark, mark},
    worker::{News, Worker},
};
use crate::{
    output::{self, Reader, to_stderr},
    render::escape,
};

/// After a failure the ledger is tried again once its file has changed, though not sooner than this; or after twice as
/// long as the last time, up to the longest.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_mins(1);
/// A worker that ran this long had no trouble with its ledger.
const LONG: Duration = Duration::from_mins(1);

#[derive(Debug)]
enum State {
    Missing,
    Running(Box<Worker>),
    Resting { since: Instant, mark: Option<Mark> },
}

#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    state: State,
    rest: Duration,
    /// What its worker complained of before it was settled: the reason, should it fail.
    complaints: Vec<String>,
    /// The last reason for a failure: told once, not at every attempt.
    failure: Option<String>,
    told_missing: bool,
}

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: State::Missing,
            rest: REST,
            complaints: Vec::new(),
            failure: None,
            told_missing: false,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a worker where one is due.
    pub(super) fn advance(&mut self, arguments: &[String]) {
        let seen = mark(&self.path);
        match &self.state {
            State::Running(worker) if worker.hangs() => {
                self.complain("its worker has given no sign of life and is started anew");
                worker.kill();
            }
            State::Running(_) => {}
            State::Missing | State::Resting { .. } if seen.is_none() => self.miss(),
            State::Resting { since, mark } if since.elapsed() < self.rest_of(*mark == seen) => {}
            State::Missing | State::Resting { .. } => self.start(arguments, seen),
        }
    }

    /// A file that has changed may be a better one.
    fn rest_of(&self, unchanged: bool) -> Duration {
        if unchanged { self.rest } else { REST }
    }

    fn miss(&mut self) {
        self.state = State::Missing;
        self.rest = REST;
        self.failure = None;
        if !self.told_missing {
            self.told_missing = true;
            self.complain("is not there; it is watched as soon as it is");
        }
    }

    fn start(&mut self, arguments: &[String], seen: Option<Mark>) {
        self.rest = (self.rest * 2).min(LONGEST_REST);
        self.complaints.clear();
        match Worker::start(&self.path, arguments) {
            Ok(worker) => {
                self.told_missing = false;
                self.state = State::Running(Box::new(worker));
            }
            Err(error) => self.fail(format!("its worker could not be started: {error}"), seen),
        }
    }

    /// Passes on what the worker says.
    pub(super) fn hear(&mut self) -> Reader {
        let State::Running(worker) = &mut self.state else { return Reader::There };
        let (News { done, complaints, ended }, settled) = (worker.news(), worker.is_settled());
        let long = worker.age() > LONG;
        let mut reader = Reader::There;
        for line in done {
            let line = format!("{}: {line}", escape(&self.path.display().to_string()));
            if output::print_line(&line).is_ok_and(|reader| reader == Reader::Gone) {
                reader = Reader::Gone;
            }
        }
        self.complaints.extend(complaints);
        let why = ended.map(|status| {
            let last = self.complaints.pop();
            last.unwrap_or_else(|| format!("its worker ended: {status}"))
        });
        if settled {
            self.failure = None;
            for line in std::mem::take(&mut self.complaints) {
                self.complain(&line);
            }
        }
        if let Some(why) = why {
            if long {
                self.rest = REST;
            }
            self.fail(why, mark(&self.path));
        }
        reader
    }

    /// Says why once, and rests.
    fn fail(&mut self, why: String, mark: Option<Mark>) {
        if self.failure.as_ref() != Some(&why) {
            self.complain(&why);
        }
        self.failure = Some(why);
        self.complaints.clear();
        self.state = State::Resting { since: Instant::now(), mark };
    }

    /// One line that names the ledger. What a worker says is escaped already.
    fn complain(&self, line: &str) {
        let line = line.strip_prefix("procledger: ").unwrap_or(line);
        to_stderr(&format!("procledger: {}: {line}", escape(&self.path.display().to_string())));
    }

    /// Opened, missing, or failed: nothing that `READY=1` has to wait for.
    pub(super) fn is_settled(&self) -> bool {
        match &self.state {
            State::Running(worker) => worker.is_settled(),
            State::Missing => self.told_missing,
            State::Resting { .. } => true,
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        matches!(&self.state, State::Running(worker) if worker.is_settled())
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Why it is not watched, for the status.
    pub(super) fn trouble(&self) -> Option<String> {
        match &self.state {
            State::Running(_) => None,
            State::Missing => Some("is not there".to_owned()),
            State::Resting { .. } => self.failure.clone(),
        }
    }

    pub(super) fn stop(&mut self) {
        if let State::Running(worker) = &mut self.state {
            worker.stop();
        }
    }

    /// While all stop: what the worker still says, and whether it has ended.
    pub(super) fn hear_the_last(&mut self) {
        let State::Running(worker) = &mut self.state else { return };
        let News { done, complaints, ended } = worker.news();
        for line in done {
            let line = format!("{}: {line}", escape(&self.path.display().to_string()));
            // Where nobody reads any more, nothing is lost: the ledger has it.
            let _ = output::print_line(&line);
        }
        for line in complaints {
            self.complain(&line);
        }
        if ended.is_some() {
            self.state = State::Missing;
        }
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.state {
            State::Running(worker) => worker.descriptors(),
            State::Missing | State::Resting { .. } => Vec::new(),
        }
    }
}
