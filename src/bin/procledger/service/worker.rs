//! One worker: `procledger watch --db LEDGER` as a process of its own.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::lines::Lines;
use crate::{notify, pin::Pin};

/// A pass that meets another reaper waits 10 s for it and a stuck process takes a few more; who says nothing for longer
/// than this hangs.
const SILENCE: Duration = Duration::from_mins(2);

/// What happened to a worker.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What it printed of what it did.
    pub(super) done: Vec<String>,
    /// What it complained of.
    pub(super) complaints: Vec<String>,
    /// How it ended, once it has.
    pub(super) ended: Option<ExitStatus>,
}

#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    pidfd: Pin,
    out: Lines<ChildStdout>,
    err: Lines<ChildStderr>,
    /// `None` once it was told to stop.
    line: Option<UnixStream>,
    started: Instant,
    last_sign: Option<Instant>,
}

impl Worker {
    pub(super) fn start(ledger: &Path, arguments: &[String]) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_nonblocking(true)?;
        let mut command = command(ledger, arguments);
        let mut child = command.stdin(OwnedFd::from(theirs)).spawn()?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let piped = || io::Error::other("its output is no pipe");
        Ok(Self {
            pidfd: Pin::of_child(&child)?,
            out: Lines::new(out.ok_or_else(piped)?)?,
            err: Lines::new(err.ok_or_else(piped)?)?,
            child,
            line: Some(line),
            started: Instant::now(),
            last_sign: None,
        })
    }

    /// It has opened its ledger, and ended what was left there.
    pub(super) fn is_settled(&self) -> bool {
        self.last_sign.is_some()
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn hangs(&self) -> bool {
        self.last_sign.unwrap_or(self.started).elapsed() > SILENCE
    }

    /// Asks it to end, as the death of the supervisor would.
    pub(super) fn stop(&mut self) {
        self.line = None;
    }

    /// SIGKILL, for one that hangs.
    pub(super) fn kill(&self) {
        // Nobody has waited for it yet, so it is there to be signalled.
        let _ = self.pidfd.signal(libc::SIGKILL);
    }

    /// What to poll.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let line = self.line.as_ref().map(AsFd::as_fd);
        let out = self.out.pipe().map(AsFd::as_fd);
        let err = self.err.pipe().map(AsFd::as_fd);
        let own = [line, out, err].into_iter().flatten();
        own.chain([self.pidfd.as_fd()]).collect()
    }

    /// Whatever there is to hear, without waiting.
    pub(super) fn news(&mut self) -> News {
        self.hear_signs();
        // Asked before the pipes are read: what a dead worker has said is all there.
        let ended = self.child.try_wait().unwrap_or_default();
        News { done: self.out.read(), complaints: self.err.read(), ended }
    }

    fn hear_signs(&mut self) {
        let mut buffer = [0; 64];
        while let Some(line) = &mut self.line {
            match line.read(&mut buffer) {
                Ok(1..) => self.last_sign = Some(Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It is on its way out: nothing more to hear, and no reason to poll this again.
                Ok(_) | Err(_) => self.line = None,
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.line = None;
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

fn command(ledger: &Path, arguments: &[String]) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "a worker is not what gets tracked; it ends when our end of its stdin closes"
    )]
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("procledger")
        .args(["watch", "--worker"])
        .args(arguments)
        .arg("--db")
        .arg(ledger)
        // Ctrl-C is for the supervisor, which then stops its workers.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in notify::VARIABLES {
        command.env_remove(name);
    }
    command
}
