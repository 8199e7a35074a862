//! Output of a worker, line by line, without waiting for it.

use std::{io::Read, os::fd::AsFd};

use rustix::{fs::OFlags, io::Errno};

/// A worker's line is one record; one that is longer is passed on in pieces.
const LONGEST: usize = 64 << 10;

/// A pipe that is read as far as it goes.
#[derive(Debug)]
pub(super) struct Lines<R> {
    pipe: Option<R>,
    rest: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    pub(super) fn new(pipe: R) -> Result<Self, Errno> {
        let flags = rustix::fs::fcntl_getfl(&pipe)?;
        rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Self { pipe: Some(pipe), rest: Vec::new() })
    }

    /// To poll; `None` once it has ended.
    pub(super) fn pipe(&self) -> Option<&R> {
        self.pipe.as_ref()
    }

    /// The lines that have come, the last one even without its end where no more will come.
    pub(super) fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(read @ 1..) => self.take(&buffer[..read], &mut lines),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.pipe = None;
                    if !self.rest.is_empty() {
                        lines.push(text(&std::mem::take(&mut self.rest)));
                    }
                }
            }
        }
        lines
    }

    fn take(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(text(&line[..end]));
        }
        if self.rest.len() > LONGEST {
            lines.push(text(&std::mem::take(&mut self.rest)));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_come_as_they_are_written_and_the_last_one_at_the_end() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut lines = Lines::new(reader).expect("a flag");
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
}
