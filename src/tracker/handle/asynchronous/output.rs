//! Waits for a program and all of its output, and writes its input meanwhile, as a future.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe::Receiver,
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::{AsyncProcess, read_so_far::Read};
use crate::{
    error::{Error, Result},
    tracker::handle::output::{CHUNK, DRAIN, Output, READS_AT_ONCE, check_writable},
};

impl AsyncProcess {
    /// Reads both pipes at once until the program has ended, then waits for it, like
    /// [`Process::wait_with_output`]. Standard input is closed first.
    ///
    /// Cancel safe: output that was read stays in the handle, and the next call continues from
    /// there. Output that the caller has read from `stdout` or `stderr` before is not included.
    ///
    /// [`Process::wait_with_output`]: crate::Process::wait_with_output
    ///
    /// # Errors
    ///
    /// If a pipe cannot be read; then the program's tree is ended before this returns. If a pipe
    /// cannot be registered with the current runtime, for example because there are too many
    /// descriptors; then the program continues to run.
    pub async fn wait_with_output(&mut self) -> Result<Output> {
        let mut communicator = self.communicate([]);
        loop {
            if let Some(output) = communicator.read().await? {
                return Ok(output);
            }
        }
    }

    /// Writes `input` to the program's standard input while its output is read, like
    /// [`Process::communicate`]; nothing happens before [`AsyncCommunicator::read`] is called. If
    /// the communicator is dropped early, the rest of the input is lost, and output that was read
    /// stays in the handle.
    ///
    /// [`Process::communicate`]: crate::Process::communicate
    pub fn communicate(&mut self, input: impl Into<Vec<u8>>) -> AsyncCommunicator<'_> {
        let input = input.into();
        if input.is_empty() {
            self.stdin = None;
        }
        let is_unwritable = self.stdin.is_none() && !input.is_empty();
        AsyncCommunicator {
            process: self,
            input,
            written: 0,
            is_unwritable,
            time: None,
            size: None,
            drained: None,
        }
    }
}

/// Writes a program's input and reads its output, within limits; see [`AsyncProcess::communicate`].
#[derive(Debug)]
#[must_use = "nothing is written or read before `read`"]
pub struct AsyncCommunicator<'a> {
    process: &'a mut AsyncProcess,
    input: Vec<u8>,
    written: usize,
    /// Whether there is input, but no pipe for it.
    is_unwritable: bool,
    time: Option<Duration>,
    size: Option<usize>,
    drained: Option<Pin<Box<Sleep>>>,
}

impl AsyncCommunicator<'_> {
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
        &self.process.read.stdout
    }

    /// Returns the standard error that was read so far.
    pub fn stderr(&self) -> &[u8] {
        &self.process.read.stderr
    }

    /// Writes and reads until the program has ended, or a limit is reached (`None`), like
    /// [`Communicator::read`]. Cancel safe.
    ///
    /// [`Communicator::read`]: crate::Communicator::read
    ///
    /// # Errors
    ///
    /// As for [`Communicator::read`] and [`AsyncProcess::wait_with_output`].
    pub async fn read(&mut self) -> Result<Option<Output>> {
        check_writable(self.is_unwritable)?;
        match self.time {
            None => self.read_all().await,
            Some(limit) => timeout(limit, self.read_all()).await.unwrap_or(Ok(None)),
        }
    }

    async fn read_all(&mut self) -> Result<Option<Output>> {
        self.process.take_pipes_here()?;
        let mut room = self.size.unwrap_or(usize::MAX);
        match poll_fn(|cx| self.poll_transfer(cx, &mut room)).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                // As in the former implementation, an operation that failed leaves no process
                // behind.
                if let Err(other) = self.process.terminate().await {
                    let pid = self.process.pid();
                    tracing::error!("failed to end process {pid} after a failed read: {other}");
                }
                return Err(error);
            }
        }
        // A process that still holds the other ends must not write into a pipe that is no longer
        // read.
        (self.process.stdout, self.process.stderr) = (None, None);
        let exit = self.process.wait().await?;
        let Read { stdout, stderr, .. } = std::mem::take(&mut self.process.read);
        Ok(Some(Output { exit, stdout, stderr }))
    }

    /// Is ready when everything was written and read, or when the program is dead and the time to
    /// drain its pipes is over; ready with `false` if there is no room left.
    fn poll_transfer(&mut self, cx: &mut Context<'_>, room: &mut usize) -> Poll<Result<bool>> {
        if *room == 0 {
            return Poll::Ready(Ok(false));
        }
        self.poll_input(cx)?;
        let process = &mut *self.process;
        poll_pipe(&mut process.stdout, &mut process.read.stdout, room, cx)?;
        poll_pipe(&mut process.stderr, &mut process.read.stderr, room, cx)?;
        let is_read = process.stdout.is_none() && process.stderr.is_none();
        if is_read && process.stdin.is_none() {
            return Poll::Ready(Ok(true));
        }
        if *room == 0 {
            return Poll::Ready(Ok(false));
        }
        if process.read.dead_since.is_none() && process.poll_dead(cx)?.is_ready() {
            process.read.dead_since = Some(Instant::now());
        }
        let Some(since) = process.read.dead_since else { return Poll::Pending };
        if is_read {
            return Poll::Ready(Ok(true));
        }
        let drained = self.drained.get_or_insert_with(|| Box::pin(sleep_until(since + DRAIN)));
        drained.as_mut().poll(cx).map(|()| Ok(true))
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Result<()> {
        while let Some(stdin) = &mut self.process.stdin {
            let Poll::Ready(written) = Pin::new(stdin).poll_write(cx, &self.input[self.written..])
            else {
                return Ok(());
            };
            match written {
                Ok(count) => {
                    self.written += count;
                    if self.written == self.input.len() {
                        self.process.stdin = None;
                    }
                }
                // The program does not read any more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.process.stdin = None;
                }
                Err(error) => return Err(Error::os("failed to write a program's input", error)),
            }
        }
        Ok(())
    }
}

/// Reads the available data, at most `room` bytes, and reduces `room` by it; at its end the pipe is
/// closed. If there is more, the caller is woken again at once, since a process that writes faster
/// than we read must not keep us from detecting the program's end.
fn poll_pipe(
    pipe: &mut Option<Receiver>,
    read: &mut Vec<u8>,
    room: &mut usize,
    cx: &mut Context<'_>,
) -> Result<()> {
    for _ in 0..READS_AT_ONCE {
        let Some(open) = pipe else { return Ok(()) };
        if *room == 0 {
            return Ok(());
        }
        match poll_chunk(open, read, *room, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(0)) => *pipe = None,
            Poll::Ready(Ok(count)) => *room -= count,
            Poll::Ready(Err(error)) => {
                return Err(Error::os("failed to read a program's output", error));
            }
        }
    }
    cx.waker().wake_by_ref();
    Ok(())
}

fn poll_chunk(
    pipe: &mut Receiver,
    read: &mut Vec<u8>,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    ready!(pipe.poll_read_ready(cx))?;
    let start = read.len();
    read.resize(start + CHUNK.min(room), 0);
    let mut buffer = ReadBuf::new(&mut read[start..]);
    let answer = Pin::new(pipe).poll_read(cx, &mut buffer);
    let count = buffer.filled().len();
    read.truncate(start + count);
    answer.map_ok(|()| count)
}
