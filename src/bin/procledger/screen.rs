//! The terminal as a screen that is redrawn repeatedly, and restored afterwards.
//!
//! The sequences are those of xterm's ctlseqs, which all current terminals support. A frame is one
//! write between the marks of a synchronized update, and each of its lines clears only the rest of
//! the line, so nothing flickers.

use std::{
    io::{IsTerminal, Write, stdin, stdout},
    os::fd::AsFd,
};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

use crate::exit::{Failure, Result};

/// Switches to the alternate screen, without a cursor and without line wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The size to assume if the terminal does not report one.
const USUAL_SIZE: (usize, usize) = (24, 80);

/// The screen while it is in use; restored on drop.
#[derive(Debug)]
pub(crate) struct Screen {
    /// The former settings of the keyboard; `None` if stdin is not a terminal: then no keys can be
    /// read.
    keyboard: Option<Termios>,
}

impl Screen {
    /// Fails if stdout is not a terminal, or is one that cannot be drawn on.
    pub(crate) fn check() -> Result<()> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if stdout().is_terminal() && !dumb {
            return Ok(());
        }
        Err(Failure::usage(
            "--watch needs a terminal that it can draw on as standard output: omit it, or use watch(1)",
        ))
    }

    /// Takes over the screen. Keys are read at once and not shown; Ctrl-C and Ctrl-Z still send
    /// signals.
    pub(crate) fn enter() -> Result<Self> {
        let keyboard = if stdin().is_terminal() { Some(unset_lines()?) } else { None };
        let screen = Self { keyboard };
        write(ENTER)?;
        Ok(screen)
    }

    /// Returns whether keys can be read from stdin.
    pub(crate) fn has_keys(&self) -> bool {
        self.keyboard.is_some()
    }

    /// Returns the number of lines and columns.
    pub(crate) fn size() -> (usize, usize) {
        match tcgetwinsize(stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                (usize::from(size.ws_row), usize::from(size.ws_col))
            }
            _ => USUAL_SIZE,
        }
    }

    /// Replaces the content of the screen.
    #[expect(clippy::unused_self, reason = "only the holder of the screen may draw on it")]
    pub(crate) fn draw(&self, lines: &[String]) -> Result<()> {
        write(&frame(lines))
    }

    /// Restores the terminal, runs the callback, and takes the terminal over again.
    pub(crate) fn while_away(&self, away: impl FnOnce()) -> Result<()> {
        self.leave();
        away();
        if self.has_keys() {
            unset_lines()?;
        }
        write(ENTER)
    }

    fn leave(&self) {
        // An error cannot be reported: the terminal is gone.
        let _ = write(LEAVE);
        if let Some(keyboard) = &self.keyboard {
            let _ = tcsetattr(stdin(), OptionalActions::Drain, keyboard);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Sets the terminal to deliver keys one by one, without echo; returns the former settings.
fn unset_lines() -> Result<Termios> {
    let failed = |error| Failure::because("failed to set the terminal up", &error);
    let stdin = stdin();
    let before = tcgetattr(stdin.as_fd()).map_err(failed)?;
    let mut raw = before.clone();
    raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    raw.special_codes[SpecialCodeIndex::VMIN] = 1;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).map_err(failed)?;
    Ok(before)
}

fn frame(lines: &[String]) -> String {
    let text: Vec<String> = lines.iter().map(|line| format!("{line}\x1b[K")).collect();
    format!("\x1b[?2026h\x1b[H{}\x1b[J\x1b[?2026l", text.join("\r\n"))
}

fn write(text: &str) -> Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_clears_what_it_does_not_cover_and_never_the_whole_screen_first() {
        let frame = frame(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(frame, "\x1b[?2026h\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J\x1b[?2026l");
        assert!(!frame.contains("\x1b[2J") && !frame.ends_with('\n'));
    }
}
