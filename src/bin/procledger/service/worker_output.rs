//! Output of a worker, line by line, without waiting for it and within bounds.
//!
//! A worker acts as the owner of its ledger, and its output contains text from the ledger: it is
//! untrusted. So each turn reads only a little, no line is longer than a terminal can take, and a
//! worker that prints without end is detected.

use std::{
    io::Read,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{fs::OFlags, io::Errno};

/// A worker's line is one record. A longer line is cut here, and marked as cut.
const LONGEST: usize = 8 << 10;
/// Number of bytes that are read in one turn; the rest stays in the pipe.
const TURN: usize = 16 << 10;
/// Maximum content of the pipe of a worker that has ended (pipe(7): 64 KiB, up to `pipe-max-size`).
const LAST: usize = 1 << 20;
/// Number of bytes that a worker may print at once, as after the end of a hundred thousand
/// processes ...
const BURST: usize = 16 << 20;
/// ... and in each second.
const EACH_SECOND: usize = 64 << 10;
/// The cost of a line in addition to its bytes: the ledger's name before it, and a write.
const LINE_COST: usize = 100;

/// A pipe that is read as far as possible without waiting.
#[derive(Debug)]
pub(super) struct OutputLines<R> {
    pipe: Option<R>,
    rest: Vec<u8>,
    /// Whether the current line was cut: the rest of it is dropped.
    is_cut: bool,
}

impl<R: Read + AsFd> OutputLines<R> {
    pub(super) fn new(pipe: R) -> Result<Self, Errno> {
        let flags = rustix::fs::fcntl_getfl(&pipe)?;
        rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self { pipe: Some(pipe), rest: Vec::new(), is_cut: false })
    }

    /// Returns the pipe for polling; `None` once it has ended.
    pub(super) fn pipe(&self) -> Option<&R> {
        self.pipe.as_ref()
    }

    /// Returns some of the available lines; the others follow at the next turn.
    pub(super) fn read(&mut self) -> Vec<String> {
        self.read_up_to(TURN)
    }

    /// Returns the remaining lines of a worker that has ended, the last one even without a newline.
    pub(super) fn read_the_last(&mut self) -> Vec<String> {
        let mut lines = self.read_up_to(LAST);
        self.pipe = None;
        self.end(&mut lines);
        lines
    }

    fn read_up_to(&mut self, limit: usize) -> Vec<String> {
        let (mut lines, mut left) = (Vec::new(), limit);
        let mut buffer = [0; 4096];
        while let Some(pipe) = self.pipe.as_mut().filter(|_| left > 0) {
            match pipe.read(&mut buffer) {
                Ok(read @ 1..) => {
                    left = left.saturating_sub(read);
                    self.take(&buffer[..read], &mut lines);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.pipe = None;
                    self.end(&mut lines);
                }
            }
        }
        lines
    }

    fn take(&mut self, mut bytes: &[u8], lines: &mut Vec<String>) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.append(&bytes[..end]);
            lines.push(self.line());
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.rest.len();
        self.is_cut |= bytes.len() > room;
        self.rest.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self) -> String {
        let mut line = String::from_utf8_lossy(&self.rest).into_owned();
        if self.is_cut {
            line.push_str(" ... (cut)");
        }
        self.rest.clear();
        self.is_cut = false;
        line
    }

    fn end(&mut self, lines: &mut Vec<String>) {
        if !self.rest.is_empty() {
            lines.push(self.line());
        }
    }
}

/// How much a worker may still print.
#[derive(Debug)]
pub(super) struct Allowance {
    left: usize,
    since: Instant,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self { left: BURST, since: Instant::now() }
    }

    /// Subtracts the cost of these lines; returns `false` if that is more than is left.
    pub(super) fn covers(&mut self, lines: &[String], now: Instant) -> bool {
        let earned = earned(now.saturating_duration_since(self.since));
        // Turns within microseconds of each other earn nothing individually, so let their time add
        // up.
        if earned > 0 {
            self.since = now;
            self.left = self.left.saturating_add(earned).min(BURST);
        }
        let cost = lines.iter().map(|line| line.len() + LINE_COST).sum();
        let covered = self.left.checked_sub(cost);
        self.left = covered.unwrap_or(0);
        covered.is_some()
    }
}

fn earned(passed: Duration) -> usize {
    let bytes = passed.as_millis().saturating_mul(EACH_SECOND as u128) / 1000;
    usize::try_from(bytes).unwrap_or(BURST)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_come_as_they_are_written_and_the_last_one_at_the_end() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut lines = OutputLines::new(reader).expect("a flag");
        assert_eq!(lines.read(), [""; 0]);
        writer.write_all(b"one\ntw").expect("written");
        assert_eq!(lines.read(), ["one"]);
        writer.write_all(b"o\nthree").expect("written");
        assert_eq!(lines.read(), ["two"]);
        assert!(lines.pipe().is_some());
        drop(writer);
        assert_eq!(lines.read(), ["three"]);
        assert!(lines.pipe().is_none());
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_takes_no_memory() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut lines = OutputLines::new(reader).expect("a flag");
        for _ in 0..1024 {
            writer.write_all(&[b'x'; 4096]).expect("written");
            assert_eq!(lines.read(), [""; 0]);
        }
        assert!(lines.rest.capacity() <= 2 * LONGEST);
        writer.write_all(b"\nnext\n").expect("written");
        let read = lines.read();
        assert!(read[0].ends_with("x ... (cut)") && read[0].len() < LONGEST + 16, "{read:?}");
        assert_eq!(read[1..], ["next"]);
    }

    #[test]
    fn a_turn_reads_a_bounded_part_and_the_last_read_takes_the_rest() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut lines = OutputLines::new(reader).expect("a flag");
        writer.write_all(&b"yyy\n".repeat(16 << 10)).expect("as much as a pipe holds");
        assert_eq!(lines.read().len(), TURN / 4);
        // The writer is still open, as if a worker was killed between two turns.
        assert_eq!(lines.read_the_last().len(), (64 << 10) / 4 - TURN / 4);
        assert!(lines.pipe().is_none());
    }

    #[test]
    fn a_worker_may_print_much_once_but_not_continuously() {
        let mut allowance = Allowance::new();
        let mut now = Instant::now();
        let much: Vec<String> = (0..50_000).map(|_| "x".repeat(200)).collect();
        assert!(allowance.covers(&much, now));
        assert!(!allowance.covers(&much, now), "twice at once is too much");
        now += Duration::from_mins(5);
        assert!(allowance.covers(&much, now), "after a while it may again");
        // A few lines a second are never too much.
        for _ in 0..10_000 {
            now += Duration::from_millis(100);
            assert!(allowance.covers(&much[..10], now));
        }
        // Short lines cost more than their bytes.
        let short = vec![String::from("y"); 4096];
        assert!((0..1000).any(|_| !allowance.covers(&short, now)));
    }
}
