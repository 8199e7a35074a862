//! Waits for a program and all of its output, as a future.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe::Receiver,
    time::{Instant, Sleep, sleep_until},
};

use super::{AsyncProcess, read_so_far::Read};
use crate::{
    error::{Error, Result},
    tracker::handle::output::{CHUNK, DRAIN, Output, READS_AT_ONCE},
};

impl AsyncProcess {
    /// Reads both pipes at once until the program has ended, then waits for it, as [`Process::wait_with_output`]. Standard
    /// input is closed first.
    ///
    /// Cancel safe: what was read stays in the handle, and the next call continues from there. What a caller has taken out of
    /// `stdout` or `stderr`, or read from them before, is not included.
    ///
    /// [`Process::wait_with_output`]: crate::Process::wait_with_output
    ///
    /// # Errors
    ///
    /// If a pipe cannot be read; then the program's tree is ended before this returns. If a pipe cannot be registered with the
    /// current runtime, for example because there are too many descriptors; then the program runs on.
    pub async fn wait_with_output(&mut self) -> Result<Output> {
        self.stdin = None;
        self.take_pipes_here()?;
        let mut drained = None;
        if let Err(error) = poll_fn(|cx| self.poll_output(cx, &mut drained)).await {
            // As in the former implementation: an operation that failed leaves no process behind.
            if let Err(other) = self.terminate().await {
                let pid = self.pid();
                tracing::error!("failed to end process {pid} after a failed read: {other}");
            }
            return Err(error);
        }
        // A process that still holds the other ends must not write into a pipe that is not read any more.
        (self.stdout, self.stderr) = (None, None);
        let exit = self.wait().await?;
        let Read { stdout, stderr, .. } = std::mem::take(&mut self.read);
        Ok(Output { exit, stdout, stderr })
    }

    /// Ready when both pipes are at their end, or when the program is dead and the time to drain them is over.
    fn poll_output(
        &mut self,
        cx: &mut Context<'_>,
        drained: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<Result<()>> {
        poll_pipe(&mut self.stdout, &mut self.read.stdout, cx)?;
        poll_pipe(&mut self.stderr, &mut self.read.stderr, cx)?;
        if self.stdout.is_none() && self.stderr.is_none() {
            return Poll::Ready(Ok(()));
        }
        if self.read.dead_since.is_none() && self.poll_dead(cx)?.is_ready() {
            self.read.dead_since = Some(Instant::now());
        }
        let Some(since) = self.read.dead_since else { return Poll::Pending };
        let drained = drained.get_or_insert_with(|| Box::pin(sleep_until(since + DRAIN)));
        drained.as_mut().poll(cx).map(Ok)
    }
}

/// Reads what is available; at its end the pipe is closed. If there is more, the caller is woken again at once: a process that
/// writes faster than we read must not keep us from noticing that the program has ended.
fn poll_pipe(pipe: &mut Option<Receiver>, read: &mut Vec<u8>, cx: &mut Context<'_>) -> Result<()> {
    for _ in 0..READS_AT_ONCE {
        let Some(open) = pipe else { return Ok(()) };
        match poll_chunk(open, read, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(0)) => *pipe = None,
            Poll::Ready(Ok(_)) => {}
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
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    ready!(pipe.poll_read_ready(cx))?;
    let start = read.len();
    read.resize(start + CHUNK, 0);
    let mut buffer = ReadBuf::new(&mut read[start..]);
    let answer = Pin::new(pipe).poll_read(cx, &mut buffer);
    let count = buffer.filled().len();
    read.truncate(start + count);
    answer.map_ok(|()| count)
}
