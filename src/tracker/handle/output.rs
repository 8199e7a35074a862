//! Waits for a program and all of its output, and writes its input meanwhile.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
};

use super::{exit::Exit, process::Process};
use crate::{
    error::{Error, Result},
    sys::poll::timespec,
};

/// How long the rest of the output is read once the program has ended: a process that still holds
/// the pipes open, such as a daemon that the program left, must not block the caller.
pub(in crate::tracker) const DRAIN: Duration = Duration::from_millis(200);
pub(in crate::tracker) const CHUNK: usize = 64 << 10;
pub(in crate::tracker) const READS_AT_ONCE: u32 = 16;

/// The output of a program, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended, and why.
    pub exit: Exit,
    /// All of standard output, if it was piped.
    pub stdout: Vec<u8>,
    /// All of standard error, if it was piped.
    pub stderr: Vec<u8>,
}

impl Process {
    /// Reads both pipes at once until the program has ended, then waits for it. Standard input is
    /// closed first.
    ///
    /// A grandchild that keeps the pipes open after the program has ended does not delay this; its
    /// later output is lost. To set limits, or to write to standard input meanwhile, see
    /// [`communicate`](Self::communicate).
    ///
    /// # Errors
    ///
    /// If a pipe cannot be read; then the program's tree is ended before this returns.
    pub fn wait_with_output(mut self) -> Result<Output> {
        let mut communicator = self.communicate([]);
        loop {
            if let Some(output) = communicator.read()? {
                return Ok(output);
            }
        }
    }

    /// Takes the pipes of the program, to write `input` to its standard input while its output is
    /// read. A full pipe, or a program that does not read its input, does not block the other
    /// direction. Nothing happens before [`Communicator::read`] is called.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use std::time::Duration;
    /// use procledger::{Job, Stdio};
    ///
    /// let job = Job::new("task-42", "sort").stdin(Stdio::piped()).stdout(Stdio::piped());
    /// let mut process = tracker.spawn(job)?;
    /// let mut communicator = process.communicate("b\na\n").limit_time(Duration::from_secs(60));
    /// match communicator.limit_size(1 << 20).read()? {
    ///     Some(output) => assert_eq!(output.stdout, b"a\nb\n"),
    ///     None => drop(process.terminate()?), // it takes too long, or prints too much
    /// }
    /// # Ok(()) }
    /// ```
    pub fn communicate(&mut self, input: impl Into<Vec<u8>>) -> Communicator<'_> {
        let input = input.into();
        let stdin = self.stdin.take().map(OwnedFd::from);
        let pipes = [
            Pipe::new(self.stdout.take().map(OwnedFd::from)),
            Pipe::new(self.stderr.take().map(OwnedFd::from)),
        ];
        Communicator {
            is_unwritable: stdin.is_none() && !input.is_empty(),
            // Without input it is closed at once, since a program that reads it to the end would
            // never end.
            input: Input { fd: stdin.filter(|_| !input.is_empty()), bytes: input, written: 0 },
            process: self,
            pipes,
            time: None,
            size: None,
            dead_since: None,
        }
    }
}

/// Refuses input for a program whose standard input is not a pipe.
pub(in crate::tracker) fn check_writable(is_unwritable: bool) -> Result<()> {
    if is_unwritable {
        return Err(Error::invalid(
            "the program's standard input is not a pipe: set it to `Stdio::piped()`",
        ));
    }
    Ok(())
}

/// Writes a program's input and reads its output, within limits; see [`Process::communicate`].
/// Dropping it closes the pipes.
#[derive(Debug)]
#[must_use = "nothing is written or read before `read`"]
pub struct Communicator<'a> {
    process: &'a mut Process,
    input: Input,
    pipes: [Pipe; 2],
    /// Whether there is input, but no pipe for it.
    is_unwritable: bool,
    time: Option<Duration>,
    size: Option<usize>,
    dead_since: Option<Instant>,
}

impl Communicator<'_> {
    /// Limits the time that each [`read`](Self::read) takes.
    pub fn limit_time(mut self, limit: Duration) -> Self {
        self.time = Some(limit);
        self
    }

    /// Limits how many bytes each [`read`](Self::read) reads from standard output and standard
    /// error together.
    pub fn limit_size(mut self, bytes: usize) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Returns the standard output that was read so far.
    pub fn stdout(&self) -> &[u8] {
        &self.pipes[0].read
    }

    /// Returns the standard error that was read so far.
    pub fn stderr(&self) -> &[u8] {
        &self.pipes[1].read
    }

    /// Writes and reads until the program has ended, and returns all its output. Returns `None` if
    /// a limit is reached first: the program continues to run, the output so far is kept, and
    /// another call continues from there.
    ///
    /// It is not an error if a program closes its standard input, or ends, before it has read all
    /// of its input. As with [`std::process::ChildStdin`], the host must ignore SIGPIPE, as
    /// programs in Rust do.
    ///
    /// # Errors
    ///
    /// Invalid input if there is input, but the program's standard input is not a pipe. If a pipe
    /// cannot be read or written; then the program's tree is ended before this returns.
    pub fn read(&mut self) -> Result<Option<Output>> {
        check_writable(self.is_unwritable)?;
        let deadline = self.time.and_then(|limit| Instant::now().checked_add(limit));
        match self.transfer(deadline) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                // As in the former implementation, an operation that failed leaves no process
                // behind.
                if let Err(other) = self.process.terminate() {
                    let pid = self.process.pid();
                    tracing::error!("failed to end process {pid} after a failed read: {other}");
                }
                return Err(error);
            }
        }
        let exit = match deadline {
            None => self.process.wait()?,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let Some(exit) = self.process.wait_timeout(left)? else { return Ok(None) };
                exit
            }
        };
        let [stdout, stderr] = self.pipes.each_mut().map(|pipe| std::mem::take(&mut pipe.read));
        Ok(Some(Output { exit, stdout, stderr }))
    }

    /// Returns whether everything was written and read; `false` at a limit.
    fn transfer(&mut self, deadline: Option<Instant>) -> Result<bool> {
        let open = self.pipes.iter().map(|pipe| &pipe.fd).chain([&self.input.fd]);
        open.flatten().try_for_each(make_nonblocking)?;
        let mut room = self.size.unwrap_or(usize::MAX);
        while !self.is_done() {
            let now = Instant::now();
            if room == 0 || deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(false);
            }
            let drained = self.dead_since.map(|since| since + DRAIN);
            if drained.is_some_and(|drained| drained <= now) {
                break;
            }
            let until = deadline.into_iter().chain(drained).min();
            let dead = self.poll(until.map(|until| until.saturating_duration_since(now)))?;
            self.input.write_available()?;
            for pipe in &mut self.pipes {
                pipe.read_available(&mut room)?;
            }
            if dead && self.dead_since.is_none() {
                self.dead_since = Some(Instant::now());
            }
        }
        // A process that still holds the other ends must not write into a pipe that is no longer
        // read.
        self.pipes.iter_mut().for_each(|pipe| pipe.fd = None);
        self.input.fd = None;
        Ok(true)
    }

    fn is_done(&self) -> bool {
        let is_read = self.pipes.iter().all(|pipe| pipe.fd.is_none());
        // Input that the program did not read need not be read by another process.
        is_read && (self.input.fd.is_none() || self.dead_since.is_some())
    }

    /// Waits until there is something to read or to write, the program ends, or `limit` has passed;
    /// returns whether the program has ended.
    fn poll(&self, limit: Option<Duration>) -> Result<bool> {
        let outputs = self.pipes.iter().filter_map(|pipe| pipe.fd.as_ref());
        let mut fds: Vec<PollFd<'_>> = outputs.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let process = fds.len();
        if self.dead_since.is_none() {
            fds.push(PollFd::new(&*self.process.pidfd, PollFlags::IN));
            fds.extend(self.input.fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        }
        match poll(&mut fds, limit.map(timespec).as_ref()) {
            Ok(_) if self.dead_since.is_none() => Ok(!fds[process].revents().is_empty()),
            Ok(_) | Err(Errno::INTR) => Ok(false),
            Err(error) => Err(Error::os("failed to poll a program's pipes", error)),
        }
    }
}

#[derive(Debug)]
struct Input {
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
    written: usize,
}

impl Input {
    fn write_available(&mut self) -> Result<()> {
        while let Some(fd) = &self.fd {
            match rustix::io::write(fd, &self.bytes[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    if self.written == self.bytes.len() {
                        self.fd = None;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The program does not read any more.
                Err(Errno::PIPE) => self.fd = None,
                Err(error) => return Err(Error::os("failed to write a program's input", error)),
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Pipe {
    fd: Option<OwnedFd>,
    read: Vec<u8>,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, read: Vec::new() }
    }

    /// Reads the available data, at most `room` bytes, and reduces `room` by it.
    fn read_available(&mut self, room: &mut usize) -> Result<()> {
        // Limited, since a process that writes faster than we read must not keep us from detecting
        // the program's end.
        for _ in 0..READS_AT_ONCE {
            let Some(fd) = &self.fd else { break };
            if *room == 0 {
                break;
            }
            let start = self.read.len();
            self.read.resize(start + CHUNK.min(*room), 0);
            let result = rustix::io::read(fd, &mut self.read[start..]);
            let count = result.unwrap_or(0);
            self.read.truncate(start + count);
            *room -= count;
            match result {
                Ok(0) => self.fd = None,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(Error::os("failed to read a program's output", error)),
            }
        }
        Ok(())
    }
}

/// Makes our end of a pipe non-blocking; the other end has its own flag.
fn make_nonblocking(fd: &OwnedFd) -> Result<()> {
    rustix::fs::fcntl_getfl(fd)
        .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK))
        .map_err(|error| Error::os("failed to set up a program's pipe", error))
}
