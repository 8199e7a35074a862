//! Waits for a program and all of its output.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::{exit::Exit, process::Process};
use crate::{
    error::{Error, Result},
    sys::poll::timespec,
};

/// Once the program has ended, what is left in its pipes is read for this long: a process that still holds them open, such as a
/// daemon that the program left, must not block the caller.
pub(in crate::tracker) const DRAIN: Duration = Duration::from_millis(200);
pub(in crate::tracker) const CHUNK: usize = 64 << 10;
pub(in crate::tracker) const READS_AT_ONCE: u32 = 16;

/// What a program printed, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended, and why.
    pub exit: Exit,
    /// All of standard output, where it was piped.
    pub stdout: Vec<u8>,
    /// All of standard error, where it was piped.
    pub stderr: Vec<u8>,
}

impl Process {
    /// Reads both pipes at once until the program has ended, then waits for it. Standard input is closed first.
    ///
    /// A grandchild that keeps the pipes open after the program has ended does not delay this: what it prints later is lost.
    ///
    /// # Errors
    ///
    /// If a pipe cannot be read; then the program's tree is ended before this returns.
    pub fn wait_with_output(mut self) -> Result<Output> {
        self.stdin = None;
        let mut pipes = [
            Pipe::new(self.stdout.take().map(OwnedFd::from)),
            Pipe::new(self.stderr.take().map(OwnedFd::from)),
        ];
        if let Err(error) = self.read_all(&mut pipes) {
            // As in the former implementation: an operation that failed leaves no process behind.
            if let Err(other) = self.terminate() {
                tracing::error!(
                    "failed to end process {} after a failed read: {other}",
                    self.pid()
                );
            }
            return Err(error);
        }
        let exit = self.wait()?;
        let [stdout, stderr] = pipes.map(|pipe| pipe.read);
        Ok(Output { exit, stdout, stderr })
    }

    fn read_all(&self, pipes: &mut [Pipe; 2]) -> Result<()> {
        for pipe in &*pipes {
            pipe.make_nonblocking()?;
        }
        let mut dead_since: Option<Instant> = None;
        while pipes.iter().any(|pipe| pipe.fd.is_some()) {
            let left = match dead_since {
                None => None,
                Some(since) => match DRAIN.checked_sub(since.elapsed()) {
                    Some(left) => Some(left),
                    None => return Ok(()),
                },
            };
            let dead = self.poll(pipes, dead_since.is_none(), left)?;
            for pipe in &mut *pipes {
                pipe.read_available()?;
            }
            if dead && dead_since.is_none() {
                dead_since = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, the program ends, or `limit` has passed; returns whether the program has ended.
    fn poll(
        &self,
        pipes: &[Pipe; 2],
        watch_process: bool,
        limit: Option<Duration>,
    ) -> Result<bool> {
        let mut fds: Vec<PollFd<'_>> = pipes
            .iter()
            .filter_map(|pipe| Some(PollFd::new(pipe.fd.as_ref()?, PollFlags::IN)))
            .collect();
        let process = fds.len();
        if watch_process {
            fds.push(PollFd::new(&*self.pidfd, PollFlags::IN));
        }
        match poll(&mut fds, limit.map(timespec).as_ref()) {
            Ok(_) => Ok(fds.get(process).is_some_and(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(Error::os("failed to poll a program's pipes", error)),
        }
    }
}

struct Pipe {
    fd: Option<OwnedFd>,
    read: Vec<u8>,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, read: Vec::new() }
    }

    fn make_nonblocking(&self) -> Result<()> {
        let Some(fd) = &self.fd else { return Ok(()) };
        // The flag belongs to our end of the pipe alone.
        rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK))
            .map_err(|error| Error::os("failed to set up a program's pipe", error))
    }

    fn read_available(&mut self) -> Result<()> {
        // Bounded: a process that writes faster than we read must not keep us from noticing that the program has ended.
        for _ in 0..READS_AT_ONCE {
            let Some(fd) = &self.fd else { break };
            self.read.reserve(CHUNK);
            match rustix::io::read(fd, rustix::buffer::spare_capacity(&mut self.read)) {
                Ok(0) => self.fd = None,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(Error::os("failed to read a program's output", error)),
            }
        }
        Ok(())
    }
}
