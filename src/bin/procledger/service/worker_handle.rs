//! The supervisor's side of a worker: a process for one ledger, or for one folder of ledgers.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::{
    messages::{Connection, Order, Received, WorkerReport, pair},
    service_command::ServiceCommand,
    worker_output::{Allowance, OutputLines},
};
use crate::pinned::PinnedProcess;

/// The first access to a path takes microseconds, or never returns: a dead mount (NFS, FUSE) does
/// not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A ledger is opened in milliseconds, or in a few seconds if another process has locked it; and an
/// idle worker checks every five seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);
/// A pass waits for the grace periods of the trees that it ends, which may be set to long ones.
const PASS_LIMIT: Duration = Duration::from_mins(10);
/// A worker that takes longer than this to start is waiting for something.
const START: Duration = Duration::from_secs(2);
/// Maximum number of messages received from one worker in one turn.
const MESSAGES: usize = 1024;
/// The purpose of a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Assignment<'a> {
    Ledger(&'a Path),
    Folder(&'a Path),
}

/// The progress of a worker, as it reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It was started, and accesses its path for the first time.
    Looking,
    Missing,
    Opening,
    /// It has checked its ledger or folder, and does so again when something happens.
    Settled,
    InPass,
    Failed,
}

/// What happened to a worker.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Lines about its actions, from stdout.
    pub(super) done: Vec<String>,
    /// Lines from stderr.
    pub(super) warnings: Vec<String>,
    /// Messages about its folder and its watch.
    pub(super) reports: Vec<WorkerReport>,
    /// Whether it printed more than a worker may.
    pub(super) is_too_much: bool,
    /// Its exit status, once it has ended.
    pub(super) ended: Option<ExitStatus>,
}

#[derive(Debug)]
pub(super) struct WorkerHandle {
    child: Child,
    pidfd: PinnedProcess,
    out: OutputLines<ChildStdout>,
    err: OutputLines<ChildStderr>,
    allowance: Allowance,
    /// `None` once it was ordered to stop.
    connection: Option<Connection>,
    /// Whether an order did not fit into the connection: it has to check everything.
    owes_look: bool,
    started: Instant,
    phase: Phase,
    /// Whether it has opened its ledger and ended the processes left there, or listed its folder.
    has_looked: bool,
    last_sign: Instant,
}

impl WorkerHandle {
    pub(super) fn start(
        service: &ServiceCommand,
        assignment: Assignment<'_>,
        arguments: &[String],
        inotify: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let (connection, theirs) = pair()?;
        // Send it before the worker runs: the first order is available when the worker needs it.
        connection.order(&Order::Inotify(inotify));
        let mut child = command(service, assignment, arguments).stdin(theirs).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let piped = || io::Error::other("its output is not a pipe");
        Ok(Self {
            pidfd: PinnedProcess::of_child(&child)?,
            out: OutputLines::new(out.ok_or_else(piped)?)?,
            err: OutputLines::new(err.ok_or_else(piped)?)?,
            allowance: Allowance::new(),
            child,
            connection: Some(connection),
            owes_look: false,
            started: Instant::now(),
            phase: Phase::Looking,
            has_looked: false,
            last_sign: Instant::now(),
        })
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns whether the worker is doing its work.
    pub(super) fn works(&self) -> bool {
        self.has_looked && matches!(self.phase, Phase::Settled | Phase::InPass)
    }

    /// Returns whether the worker has reported nothing yet and was started only recently.
    pub(super) fn is_starting(&self) -> bool {
        let has_begun = !self.has_looked && !matches!(self.phase, Phase::Missing | Phase::Failed);
        has_begun && self.age() < START
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns a message about the limit that it has exceeded, if any.
    pub(super) fn hangs(&self) -> Option<&'static str> {
        let silent =
            (SILENCE_LIMIT, "its worker has not responded for 20 s: it is killed and replaced");
        let (limit, what) = match self.phase {
            Phase::Looking => (
                ANSWER_LIMIT,
                "its path has not answered for 10 s, as on a dead mount: its worker is killed and replaced",
            ),
            Phase::Opening => (
                SILENCE_LIMIT,
                "its worker has not opened it within 20 s: it is killed and replaced",
            ),
            // Its owner may stop it at any time, and a stopped pass waits for nothing.
            Phase::InPass if self.is_stopped() => silent,
            Phase::InPass => (
                PASS_LIMIT,
                "its worker has been in one pass for 10 min: it is killed and replaced",
            ),
            Phase::Missing | Phase::Settled => silent,
            Phase::Failed => return None,
        };
        (self.last_sign.elapsed() > limit).then_some(what)
    }

    /// Returns whether a signal has stopped it, as SIGSTOP does.
    fn is_stopped(&self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let found = waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
        found.is_ok_and(|found| found.is_some_and(|found| found.stopped()))
    }

    /// Asks it to end, in the same way as the death of the supervisor.
    pub(super) fn stop(&mut self) {
        self.connection = None;
    }

    /// Sends SIGKILL to a worker that hangs. A worker that hangs in the kernel may stay alive;
    /// nothing waits for it.
    pub(super) fn kill(&mut self) {
        self.connection = None;
        // It was not waited for yet, so its PID is not reused.
        let _ = self.pidfd.signal(libc::SIGKILL);
    }

    /// Returns the descriptors to poll.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let connection = self.connection.as_ref().map(AsFd::as_fd);
        let out = self.out.pipe().map(AsFd::as_fd);
        let err = self.err.pipe().map(AsFd::as_fd);
        let own = [connection, out, err].into_iter().flatten();
        own.chain([self.pidfd.as_fd()]).collect()
    }

    /// Returns some of its messages and output, without waiting.
    pub(super) fn news(&mut self) -> News {
        // Query the status before the pipes are read: if it is dead, its output is complete.
        let ended = self.child.try_wait().unwrap_or_default();
        let reports = self.read_reports();
        let (done, warnings) = if ended.is_some() {
            (self.out.read_the_last(), self.err.read_the_last())
        } else {
            (self.out.read(), self.err.read())
        };
        let now = Instant::now();
        let is_covered = self.allowance.covers(&done, now) & self.allowance.covers(&warnings, now);
        News { done, warnings, reports, is_too_much: !is_covered, ended }
    }

    fn read_reports(&mut self) -> Vec<WorkerReport> {
        let mut reports = Vec::new();
        for _ in 0..MESSAGES {
            let Some(connection) = &self.connection else { break };
            match connection.receive_report() {
                Ok(Received::Message(report)) => {
                    self.advance(&report);
                    reports.push(report);
                }
                Ok(Received::Unknown) => {}
                Ok(Received::Nothing) => break,
                // It is ending: there is nothing more to receive, and no reason to poll this again.
                Err(error) => {
                    debug_assert_ne!(error.kind(), ErrorKind::WouldBlock);
                    self.connection = None;
                }
            }
        }
        reports
    }

    fn advance(&mut self, report: &WorkerReport) {
        self.phase = match report {
            WorkerReport::Found => Phase::Opening,
            WorkerReport::Missing => Phase::Missing,
            WorkerReport::Looked | WorkerReport::ListEnds(_) => Phase::Settled,
            WorkerReport::BeginsPass => Phase::InPass,
            WorkerReport::Failed => Phase::Failed,
            WorkerReport::Watch(_)
            | WorkerReport::NoWatch(_)
            | WorkerReport::ListBegins
            | WorkerReport::Name(_) => self.phase,
        };
        self.has_looked |= self.phase == Phase::Settled;
        self.last_sign = Instant::now();
    }

    /// Sends an order, or records that one is missing.
    pub(super) fn order(&mut self, order: &Order) {
        if let Some(connection) = &self.connection {
            self.owes_look |= !connection.order(order);
        }
    }

    /// Sends the order to check, if an order did not fit.
    pub(super) fn give_owed(&mut self) {
        if std::mem::take(&mut self.owes_look) {
            self.order(&Order::Look);
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn command(service: &ServiceCommand, assignment: Assignment<'_>, arguments: &[String]) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "a worker is not tracked; it ends when our end of its stdin closes"
    )]
    let mut command = Command::new("/proc/self/exe");
    let (option, path): (&str, &OsStr) = match assignment {
        Assignment::Ledger(path) => ("--db", path.as_os_str()),
        Assignment::Folder(path) => ("--dir", path.as_os_str()),
    };
    command
        .arg0("procledger")
        .args([service.subcommand, "--worker"])
        .args(arguments)
        .arg(option)
        .arg(path)
        // Ctrl-C is to reach only the supervisor, which then stops its workers.
        .process_group(0)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let kept = service.environment().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(kept);
    command
}
