//! Standard output or standard error of a service that must not hang because nothing reads it.
//!
//! A full pipe, a terminal that was stopped by Ctrl-S or a journal that hangs blocks a write
//! indefinitely. So a thread writes, from a queue of limited size; a line that does not fit is
//! dropped and counted.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{exit::Result, threads};

/// Maximum number of bytes that wait for a reader.
const ROOM: usize = 1 << 20;

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines dropped since the last one that was queued.
    left_out: u64,
    /// Whether the thread is in a write.
    is_busy: bool,
    /// Whether a write has failed: the output is not read any more.
    is_closed: bool,
}

#[derive(Debug)]
pub(crate) struct BoundedOutput(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BoundedOutput {
    /// Starts the writing thread, which calls `open`; `name` is used in messages.
    pub(crate) fn new<W: Write>(
        open: impl FnOnce() -> W + Send + 'static,
        name: &'static str,
    ) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        threads::start("procledger-output", move || write_all(&theirs, open(), name))?;
        Ok(Self(shared))
    }

    /// Queues a line without its newline.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        if queue.is_closed {
            return;
        }
        if queue.bytes + line.len() + 1 > ROOM {
            queue.left_out += 1;
            return;
        }
        queue.bytes += line.len() + 1;
        queue.lines.push_back([line, b"\n"].concat());
        self.0.changed.notify_all();
    }

    /// Returns whether a write has failed, such as to a pipe without a reader.
    pub(crate) fn has_lost_its_reader(&self) -> bool {
        self.0.queue().is_closed
    }

    /// Waits until everything is written, at most `limit`.
    pub(crate) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut queue = self.0.queue();
        while (!queue.lines.is_empty() || queue.is_busy) && !queue.is_closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue =
                self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn write_all(shared: &Shared, mut to: impl Write, name: &str) {
    loop {
        let bytes = {
            let mut queue = shared.queue();
            queue.is_busy = false;
            shared.changed.notify_all();
            while queue.lines.is_empty() {
                queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.is_busy = true;
            queue.bytes = 0;
            let mut bytes: Vec<u8> =
                std::mem::take(&mut queue.lines).into_iter().flatten().collect();
            let left_out = std::mem::take(&mut queue.left_out);
            if left_out > 0 {
                let line =
                    format!("procledger: {left_out} lines were dropped: {name} was not read\n");
                bytes.extend(line.into_bytes());
            }
            bytes
        };
        if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
            let mut queue = shared.queue();
            (queue.is_closed, queue.is_busy) = (true, false);
            queue.lines.clear();
            shared.changed.notify_all();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let output = BoundedOutput::new(move || writer, "the pipe").expect("a thread");
        output.push(b"one");
        output.push(b"two");
        output.flush(SOON);
        let lines: Vec<String> =
            BufReader::new(reader).lines().take(2).map_while(Result::ok).collect();
        assert_eq!(lines, ["one", "two"]);
        assert!(!output.has_lost_its_reader());
    }

    #[test]
    fn a_slow_reader_blocks_nothing_and_gets_the_number_of_dropped_lines() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let output = BoundedOutput::new(move || writer, "the pipe").expect("a thread");
        let line = vec![b'x'; 1023];
        let began = Instant::now();
        for _ in 0..10_000 {
            output.push(&line);
        }
        output.flush(Duration::from_millis(50));
        assert!(began.elapsed() < SOON);
        assert!(output.0.queue().bytes <= ROOM);
        let mut heard = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let is_said = |heard: &[u8]| {
            String::from_utf8_lossy(heard).contains("lines were dropped: the pipe was not read")
        };
        while !is_said(&heard) {
            let read = reader.read(&mut buffer).expect("a pipe");
            heard.extend_from_slice(&buffer[..read]);
            assert!(heard.len() < 4 << 20, "all of it was kept");
        }
        output.push(b"after");
        output.flush(SOON);
        assert!(!output.has_lost_its_reader());
    }

    #[test]
    fn a_closed_reader_is_detected() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let output = BoundedOutput::new(move || writer, "the pipe").expect("a thread");
        drop(reader);
        output.push(b"one");
        output.flush(SOON);
        assert!(output.has_lost_its_reader());
        output.push(b"two");
        output.flush(SOON);
    }
}
