//! One worker, as the supervisor sees it: a process of its own for one ledger, or for one folder of ledgers.

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

use super::{
    lines::{Allowance, Lines},
    link::{Heard, Link, Order, Say, pair},
};
use crate::pin::Pin;

/// The first look at a path takes microseconds, or for ever: a dead mount (NFS, FUSE) does not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// A ledger is opened in milliseconds, where another process has locked it in a few seconds; and a worker that has nothing to
/// do looks every five seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);
/// A pass waits for the graces of the trees that it ends, and a person may have set long ones.
const PASS_LIMIT: Duration = Duration::from_mins(10);
/// A worker that takes longer to start than this waits for something.
const START: Duration = Duration::from_secs(2);
/// So many messages of one worker are heard in one turn.
const MESSAGES: usize = 1024;
/// All that a worker's environment holds. The environment of a service may have secrets of root's in it, and a worker acts as
/// another user. The token is kept: a tracker that runs the whole watch as a task knows by it what belongs to that task.
const ENVIRONMENT: [&str; 3] = ["PROCLEDGER_LOG", "PROCLEDGER_TOKEN", "TZ"];

/// What a worker is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Duty<'a> {
    Ledger(&'a Path),
    Folder(&'a Path),
}

/// How far it has come, as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It was started, and looks at its path for the first time.
    Looking,
    Missing,
    Opening,
    /// It has looked at its ledger or folder, and does so again when something happens.
    Settled,
    InPass,
    Failed,
}

/// What happened to a worker.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What it printed of what it did.
    pub(super) done: Vec<String>,
    /// What it complained of.
    pub(super) complaints: Vec<String>,
    /// What it said about its folder and its watch.
    pub(super) said: Vec<Say>,
    /// It said more than a worker may.
    pub(super) is_too_much: bool,
    /// How it ended, once it has.
    pub(super) ended: Option<ExitStatus>,
}

#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pidfd: Pin,
    out: Lines<ChildStdout>,
    err: Lines<ChildStderr>,
    allowance: Allowance,
    /// `None` once it was ordered to stop.
    link: Option<Link>,
    /// An order did not fit into the link: it has to look at everything.
    owes_look: bool,
    started: Instant,
    phase: Phase,
    /// It has opened its ledger and ended what was left there, or listed its folder.
    has_looked: bool,
    last_sign: Instant,
}

impl Worker {
    pub(super) fn start(
        duty: Duty<'_>,
        arguments: &[String],
        inotify: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let (link, theirs) = pair()?;
        // Before it runs: the first order is there when it asks.
        link.order(&Order::Inotify(inotify));
        let mut child = command(duty, arguments).stdin(theirs).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let piped = || io::Error::other("its output is no pipe");
        Ok(Self {
            pidfd: Pin::of_child(&child)?,
            out: Lines::new(out.ok_or_else(piped)?)?,
            err: Lines::new(err.ok_or_else(piped)?)?,
            allowance: Allowance::new(),
            child,
            link: Some(link),
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

    /// It does its work.
    pub(super) fn works(&self) -> bool {
        self.has_looked && matches!(self.phase, Phase::Settled | Phase::InPass)
    }

    /// Nothing is known of it yet, and it has not had the time for more.
    pub(super) fn is_starting(&self) -> bool {
        let has_begun = !self.has_looked && !matches!(self.phase, Phase::Missing | Phase::Failed);
        has_begun && self.age() < START
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Which limit it has exceeded, if any.
    pub(super) fn hangs(&self) -> Option<&'static str> {
        let (limit, what) = match self.phase {
            Phase::Looking => (
                ANSWER_LIMIT,
                "its path has not answered for 10 s, as on a dead mount: its worker is killed and replaced",
            ),
            Phase::Opening => (
                SILENCE_LIMIT,
                "its worker has not opened it within 20 s: it is killed and replaced",
            ),
            Phase::InPass => (
                PASS_LIMIT,
                "its worker has been in one pass for 10 min: it is killed and replaced",
            ),
            Phase::Missing | Phase::Settled => (
                SILENCE_LIMIT,
                "its worker has given no sign of life for 20 s: it is killed and replaced",
            ),
            Phase::Failed => return None,
        };
        (self.last_sign.elapsed() > limit).then_some(what)
    }

    /// Asks it to end, as the death of the supervisor would.
    pub(super) fn stop(&mut self) {
        self.link = None;
    }

    /// SIGKILL, for one that hangs. One that hangs in the kernel may live on: nothing waits for it.
    pub(super) fn kill(&mut self) {
        self.link = None;
        // It was not waited for yet, so it is there to be signalled.
        let _ = self.pidfd.signal(libc::SIGKILL);
    }

    /// What to poll.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let link = self.link.as_ref().map(AsFd::as_fd);
        let out = self.out.pipe().map(AsFd::as_fd);
        let err = self.err.pipe().map(AsFd::as_fd);
        let own = [link, out, err].into_iter().flatten();
        own.chain([self.pidfd.as_fd()]).collect()
    }

    /// Some of what there is to hear, without waiting.
    pub(super) fn news(&mut self) -> News {
        // Asked before the pipes are read: what a dead worker has said is all there.
        let ended = self.child.try_wait().unwrap_or_default();
        let said = self.hear();
        let (done, complaints) = if ended.is_some() {
            (self.out.read_the_last(), self.err.read_the_last())
        } else {
            (self.out.read(), self.err.read())
        };
        let now = Instant::now();
        let is_covered =
            self.allowance.covers(&done, now) & self.allowance.covers(&complaints, now);
        News { done, complaints, said, is_too_much: !is_covered, ended }
    }

    fn hear(&mut self) -> Vec<Say> {
        let mut said = Vec::new();
        for _ in 0..MESSAGES {
            let Some(link) = &self.link else { break };
            match link.heard() {
                Ok(Heard::Said(say)) => {
                    self.advance(&say);
                    said.push(say);
                }
                Ok(Heard::Unknown) => {}
                Ok(Heard::Nothing) => break,
                // It is on its way out: nothing more to hear, and no reason to poll this again.
                Err(error) => {
                    debug_assert_ne!(error.kind(), ErrorKind::WouldBlock);
                    self.link = None;
                }
            }
        }
        said
    }

    fn advance(&mut self, say: &Say) {
        self.phase = match say {
            Say::Found => Phase::Opening,
            Say::Missing => Phase::Missing,
            Say::Looked | Say::ListEnds(_) => Phase::Settled,
            Say::BeginsPass => Phase::InPass,
            Say::Failed => Phase::Failed,
            Say::Watch(_) | Say::NoWatch(_) | Say::ListBegins | Say::Name(_) => self.phase,
        };
        self.has_looked |= self.phase == Phase::Settled;
        self.last_sign = Instant::now();
    }

    /// Gives an order, or remembers that one is missing.
    pub(super) fn order(&mut self, order: &Order) {
        if let Some(link) = &self.link {
            self.owes_look |= !link.order(order);
        }
    }

    /// Gives the order to look, where one did not fit.
    pub(super) fn give_owed(&mut self) {
        if std::mem::take(&mut self.owes_look) {
            self.order(&Order::Look);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn command(duty: Duty<'_>, arguments: &[String]) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "a worker is not what gets tracked; it ends when our end of its stdin closes"
    )]
    let mut command = Command::new("/proc/self/exe");
    let (option, path): (&str, &OsStr) = match duty {
        Duty::Ledger(path) => ("--db", path.as_os_str()),
        Duty::Folder(path) => ("--dir", path.as_os_str()),
    };
    command
        .arg0("procledger")
        .args(["watch", "--worker"])
        .args(arguments)
        .arg(option)
        .arg(path)
        // Ctrl-C is for the supervisor, which then stops its workers.
        .process_group(0)
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let kept = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(kept);
    command
}
