//! One ledger, or one folder of ledgers: watched by a worker, or waiting after a failure.

use std::{
    collections::BTreeSet,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    messages::{Order, WorkerReport},
    service_command::ServiceCommand,
    worker_handle::{Assignment, News, Phase, WorkerHandle},
};
use crate::{
    output::{self, to_stderr},
    render::escape,
};

/// After a failure another worker tries again as soon as the file has changed, but not sooner than
/// this; or after a delay that doubles with each failure, up to the longest.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_mins(1);
/// Run time after which a worker counts as having had no trouble with its ledger.
const LONG: Duration = Duration::from_mins(1);
/// A worker that was asked to stop, or killed, is dead sooner than this.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of ledgers watched in one folder: each takes a process, and the folder may belong
/// to another user.
pub(super) const LEDGERS: usize = 1000;
/// Number of warnings that are kept; the last one is the reason for a failure.
const COMPLAINTS: usize = 16;

#[derive(Debug)]
enum State {
    Running(Box<WorkerHandle>),
    /// The worker was asked to stop, or killed.
    Ending {
        worker: Box<WorkerHandle>,
        since: Instant,
        is_killed: bool,
    },
    /// No worker runs; another one is started at `until`.
    Resting {
        until: Instant,
    },
}

/// What is watched.
#[derive(Debug)]
enum Kind {
    Ledger,
    /// The list being received, and the last complete one.
    Folder {
        incoming: BTreeSet<PathBuf>,
        ledgers: BTreeSet<PathBuf>,
        left_out: u32,
    },
}

#[derive(Debug)]
pub(super) struct Target {
    service: &'static ServiceCommand,
    path: PathBuf,
    kind: Kind,
    state: State,
    /// How long a failed worker waits for a change before another one tries again.
    rest: Duration,
    /// When the worker reported its failure.
    failed_at: Option<Instant>,
    /// Complaints of its worker before it was settled: the reason, if it fails.
    warnings: Vec<String>,
    /// The last reason for a failure: reported once, not at every attempt.
    failure: Option<String>,
    has_reported_missing: bool,
    /// Whether its worker cannot be killed, and that was reported.
    is_stuck: bool,
    /// Its watch in the supervisor's inotify instance, if it has one.
    pub(super) watch: Option<i32>,
    /// The errno for which it has no such watch; it is then ordered to check each second.
    pub(super) without_watch: Option<i32>,
}

impl Target {
    pub(super) fn ledger(service: &'static ServiceCommand, path: PathBuf) -> Self {
        Self::new(service, path, Kind::Ledger)
    }

    pub(super) fn folder(service: &'static ServiceCommand, path: PathBuf) -> Self {
        let (incoming, ledgers) = (BTreeSet::new(), BTreeSet::new());
        Self::new(service, path, Kind::Folder { incoming, ledgers, left_out: 0 })
    }

    fn new(service: &'static ServiceCommand, path: PathBuf, kind: Kind) -> Self {
        Self {
            service,
            path,
            kind,
            state: State::Resting { until: Instant::now() },
            rest: Duration::ZERO,
            failed_at: None,
            warnings: Vec::new(),
            failure: None,
            has_reported_missing: false,
            is_stuck: false,
            watch: None,
            without_watch: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the ledgers of a folder.
    pub(super) fn ledgers(&self) -> impl Iterator<Item = &PathBuf> {
        let ledgers = match &self.kind {
            Kind::Ledger => None,
            Kind::Folder { ledgers, .. } => Some(ledgers),
        };
        ledgers.into_iter().flatten()
    }

    /// Returns whether a worker has to be started.
    pub(super) fn is_due(&self) -> bool {
        matches!(self.state, State::Resting { until } if until <= Instant::now())
    }

    /// Returns whether its worker was started a moment ago.
    pub(super) fn is_starting(&self) -> bool {
        matches!(&self.state, State::Running(worker) if worker.is_starting())
    }

    /// Starts a worker.
    pub(super) fn start(&mut self, arguments: &[String], inotify: Option<OwnedFd>) {
        self.rest = (self.rest * 2).clamp(REST, LONGEST_REST);
        self.warnings.clear();
        (self.failed_at, self.watch, self.without_watch) = (None, None, None);
        let assignment = match self.kind {
            Kind::Ledger => Assignment::Ledger(&self.path),
            Kind::Folder { .. } => Assignment::Folder(&self.path),
        };
        match WorkerHandle::start(self.service, assignment, arguments, inotify) {
            Ok(worker) => self.state = State::Running(Box::new(worker)),
            Err(error) => {
                self.fail(format!("its worker could not be started: {error}"));
                self.state = State::Resting { until: Instant::now() + self.rest };
            }
        }
    }

    /// Ends a worker that hangs, or that has waited long enough after a failure.
    pub(super) fn advance(&mut self) {
        match &mut self.state {
            State::Running(worker) => {
                worker.give_owed();
                if let Some(what) = worker.hangs() {
                    self.kill(what);
                } else if self.failed_at.is_some_and(|at| at.elapsed() >= self.rest) {
                    self.stop();
                }
            }
            State::Ending { worker, since, is_killed } if since.elapsed() > END_LIMIT => {
                if !*is_killed {
                    worker.kill();
                    (*since, *is_killed) = (Instant::now(), true);
                } else if !self.is_stuck {
                    self.is_stuck = true;
                    self.warn(
                        "its worker hangs in the kernel and cannot be killed; it is replaced once it is dead",
                    );
                }
            }
            State::Ending { .. } | State::Resting { .. } => {}
        }
    }

    fn kill(&mut self, why: &str) {
        if self.failure.as_deref() != Some(why) {
            self.warn(why);
        }
        self.failure = Some(why.to_owned());
        self.end(true);
    }

    fn end(&mut self, kill: bool) {
        let since = Instant::now();
        let state = std::mem::replace(&mut self.state, State::Resting { until: since });
        self.state = match state {
            State::Running(mut worker) => {
                if kill {
                    worker.kill();
                } else {
                    worker.stop();
                }
                State::Ending { worker, since, is_killed: kill }
            }
            other => other,
        };
    }

    /// Passes on some of the worker's output.
    pub(super) fn read_worker(&mut self) {
        let (worker, is_ending) = match &mut self.state {
            State::Running(worker) => (worker, false),
            State::Ending { worker, .. } => (worker, true),
            State::Resting { .. } => return,
        };
        let before = worker.phase();
        let News { done, warnings, reports, is_too_much, ended } = worker.news();
        let (phase, works, is_old) = (worker.phase(), worker.works(), worker.age() > LONG);
        for line in done {
            output::print_aside(&framed(&self.path, &line));
        }
        self.warnings.extend(warnings);
        for report in reports {
            self.handle(&report);
        }
        if works && !is_ending {
            (self.failure, self.has_reported_missing) = (None, false);
        }
        if works {
            for line in std::mem::take(&mut self.warnings) {
                self.warn(&line);
            }
        }
        self.warnings.drain(..self.warnings.len().saturating_sub(COMPLAINTS));
        if phase == Phase::Failed && before != Phase::Failed {
            if is_old {
                self.rest = REST;
            }
            let why = self.warnings.pop();
            self.fail(why.unwrap_or_else(|| "its worker failed".to_owned()));
        }
        if is_too_much && !is_ending {
            self.kill("its worker printed too much (16 MiB at once, or more than 64 KiB a second over a longer time): it is killed and replaced");
        }
        if let Some(status) = ended {
            self.handle_exit(&status.to_string(), is_old);
        }
    }

    fn handle(&mut self, report: &WorkerReport) {
        match report {
            WorkerReport::Missing if !self.has_reported_missing => {
                self.has_reported_missing = true;
                (self.failure, self.rest) = (None, REST);
                let what = match self.kind {
                    Kind::Ledger => "it is",
                    Kind::Folder { .. } => "its ledgers are",
                };
                let done = self.service.done;
                self.warn(&format!("does not exist; {what} {done} as soon as it does"));
            }
            WorkerReport::Failed => self.failed_at = Some(Instant::now()),
            WorkerReport::Watch(watch) => (self.watch, self.without_watch) = (Some(*watch), None),
            WorkerReport::NoWatch(errno) => (self.watch, self.without_watch) = (None, Some(*errno)),
            WorkerReport::ListBegins | WorkerReport::Name(_) | WorkerReport::ListEnds(_) => {
                self.list(report);
            }
            _ => {}
        }
        // Events that arrived before the watch descriptor was known here were not passed on.
        if matches!(report, WorkerReport::Watch(_)) {
            self.order(&Order::Look);
        }
    }

    fn list(&mut self, report: &WorkerReport) {
        let Kind::Folder { incoming, ledgers, left_out } = &mut self.kind else { return };
        match report {
            WorkerReport::Name(name) if incoming.len() < LEDGERS => {
                incoming.insert(self.path.join(name));
            }
            WorkerReport::ListEnds(now_left_out) => {
                *ledgers = std::mem::take(incoming);
                let is_news = *now_left_out > 0 && *left_out == 0;
                *left_out = *now_left_out;
                if is_news {
                    self.warn(&format!(
                        "has more than {LEDGERS} ledgers, {now_left_out} of them are not {}: name them, or divide the folder",
                        self.service.done
                    ));
                }
            }
            _ => incoming.clear(),
        }
    }

    /// Handles the death of the worker.
    fn handle_exit(&mut self, status: &str, is_old: bool) {
        // A worker that has failed, and waited, ended because the file changed or another worker
        // may try again.
        let has_waited = self.failed_at.is_some();
        let is_expected = has_waited || matches!(self.state, State::Ending { .. });
        if !is_expected {
            if is_old {
                self.rest = REST;
            }
            let why = self.warnings.pop();
            self.fail(why.unwrap_or_else(|| format!("its worker ended: {status}")));
        }
        self.is_stuck = false;
        (self.watch, self.without_watch) = (None, None);
        let rest = if has_waited { REST } else { self.rest };
        self.state = State::Resting { until: Instant::now() + rest };
    }

    /// Reports a failure, once for each reason.
    fn fail(&mut self, why: String) {
        if self.failure.as_ref() != Some(&why) {
            self.warn(&why);
        }
        self.failure = Some(why);
        self.warnings.clear();
    }

    /// Prints one line that names the ledger.
    fn warn(&self, line: &str) {
        let line = line.strip_prefix("procledger: ").unwrap_or(line);
        to_stderr(&format!("procledger: {}", framed(&self.path, line)));
    }

    pub(super) fn order(&mut self, order: &Order) {
        if let State::Running(worker) = &mut self.state {
            worker.order(order);
        }
    }

    fn phase(&self) -> Option<Phase> {
        match &self.state {
            State::Running(worker) => Some(worker.phase()),
            State::Ending { .. } | State::Resting { .. } => None,
        }
    }

    /// Returns whether the ledger is opened, missing, or failed, so that `READY=1` need not wait
    /// for it.
    pub(super) fn is_settled(&self) -> bool {
        match self.phase() {
            Some(Phase::Missing | Phase::Failed) => true,
            _ => self.is_watched() || self.failure.is_some(),
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        matches!(&self.state, State::Running(worker) if worker.works())
    }

    pub(super) fn is_missing(&self) -> bool {
        self.phase() == Some(Phase::Missing)
    }

    /// Returns whether the ledger has a worker process, even one that is ending.
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.state, State::Resting { .. })
    }

    /// Returns why it is not watched, for the status.
    pub(super) fn trouble(&self) -> Option<&str> {
        if self.is_watched() {
            None
        } else if self.is_missing() {
            Some("does not exist")
        } else {
            self.failure.as_deref()
        }
    }

    /// Asks its worker to end.
    pub(super) fn stop(&mut self) {
        self.end(false);
    }

    /// Ends its worker at once, whatever its state.
    pub(super) fn kill_now(&mut self) {
        if let State::Running(worker) | State::Ending { worker, .. } = &mut self.state {
            worker.kill();
        }
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match &self.state {
            State::Running(worker) | State::Ending { worker, .. } => worker.descriptors(),
            State::Resting { .. } => Vec::new(),
        }
    }
}

/// Prefixes a line of a worker with the path that it watches, and escapes it: the line is
/// untrusted, and must not move the cursor or begin another line.
pub(super) fn framed(path: &Path, line: &str) -> String {
    format!("{}: {}", escape(&path.display().to_string()), escape(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_worker_is_printed_as_one_harmless_line_that_names_its_ledger() {
        let line = framed(Path::new("/a\n/x.db"), "done\x1b[2J\rprocledger: /root/y.db: forged");
        assert_eq!(line, "/a\\x0a/x.db: done\\x1b[2J\\x0dprocledger: /root/y.db: forged");
        // Text that was escaped before is not changed.
        assert_eq!(framed(Path::new("x"), &escape("\x1b")), "x: \\x1b");
    }
}
