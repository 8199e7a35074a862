//! `ps --watch`: the list of running tasks, redrawn periodically.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::signal::Signal;
use procledger::{Ledger, ProcessId, TreeRecord};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::stdin,
};

use super::ps_table::{Cpu, state, table};
use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    render::{clock, escape, short_bytes, span},
    screen::Screen,
    signals::{Signals, act_by_default},
};

/// The signals that end the display, and those for a change of the terminal's size and for
/// suspension.
const SIGNALS: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH, Signal::SIGTSTP];

/// Shows the list until q, Ctrl-C or another signal that asks to stop.
pub(super) fn watch(context: &Context, interval: Duration, wide: bool) -> Result<Exit> {
    // Before the ledger is opened: no other thread runs yet.
    let signals = Signals::block(&SIGNALS)?;
    let ledger = context.read()?;
    let mut view = TreeView::new(ledger, wide);
    // If the ledger cannot be read at all, fail with a normal message, not on a screen that
    // vanishes.
    view.read()?;
    let screen = Screen::enter()?;
    let mut next = Instant::now() + interval;
    loop {
        screen.draw(&view.lines(interval))?;
        match wait(&signals, screen.has_keys(), next)? {
            Event::Leave => return Ok(Exit::DONE),
            Event::Resized => continue,
            Event::Suspend => screen.while_away(|| act_by_default(libc::SIGTSTP))?,
            Event::Due => {}
        }
        view.refresh();
        next = Instant::now() + interval;
    }
}

enum Event {
    Due,
    Leave,
    Resized,
    Suspend,
}

fn wait(signals: &Signals, keys: bool, until: Instant) -> Result<Event> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).unwrap_or_default();
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(
                stdin(),
                if keys { PollFlags::IN } else { PollFlags::empty() },
            ),
        ];
        match poll(&mut fds[..=usize::from(keys)], Some(&limit)) {
            Ok(0) => return Ok(Event::Due),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::because("failed to wait for a key", &error)),
        }
        let key = !fds[1].revents().is_empty();
        if let Some(signal) = signals.pending()? {
            return Ok(match signal {
                libc::SIGWINCH => Event::Resized,
                libc::SIGTSTP => Event::Suspend,
                _ => Event::Leave,
            });
        }
        if key && let Some(event) = read_key() {
            return Ok(event);
        }
    }
}

/// Reads keys: `q` quits, space and Enter refresh at once; returns `None` for any other key.
fn read_key() -> Option<Event> {
    let mut keys = [0_u8; 64];
    match rustix::io::read(stdin(), &mut keys) {
        // The terminal is gone.
        Ok(0) => Some(Event::Leave),
        Ok(read) => keys[..read].iter().find_map(|key| match key {
            // Ctrl-C and Ctrl-D too, in case the terminal does not give them their usual meaning.
            b'q' | b'Q' | 3 | 4 => Some(Event::Leave),
            b' ' | b'\n' | b'\r' => Some(Event::Due),
            _ => None,
        }),
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => None,
        Err(_) => Some(Event::Leave),
    }
}

/// The most recent reading of the trees, and the figures derived from the one before.
struct TreeView {
    ledger: Ledger,
    wide: bool,
    trees: Vec<TreeRecord>,
    at: Instant,
    /// CPU use in percent of one processor, for trees that are in both readings.
    shares: HashMap<ProcessId, f64>,
    trouble: Option<String>,
}

impl TreeView {
    fn new(ledger: Ledger, wide: bool) -> Self {
        let (trees, shares) = (Vec::new(), HashMap::new());
        Self { ledger, wide, trees, at: Instant::now(), shares, trouble: None }
    }

    /// Refreshes the list; on an error, shows it together with the old list.
    fn refresh(&mut self) {
        self.trouble = self.read().err().map(|failure| escape(&failure.message));
    }

    fn read(&mut self) -> Result<()> {
        let trees = self.ledger.trees()?;
        let (before, now) = (std::mem::replace(&mut self.trees, trees), Instant::now());
        let elapsed = now.duration_since(self.at);
        let used: HashMap<ProcessId, Duration> =
            before.iter().filter_map(|tree| Some((tree.root.id, tree.cpu?))).collect();
        self.shares = (self.trees.iter())
            .filter_map(|tree| {
                Some((tree.root.id, share(*used.get(&tree.root.id)?, tree.cpu?, elapsed)))
            })
            .collect();
        self.at = now;
        Ok(())
    }

    /// Returns the lines of the frame: a line of sums, the header, as many trees as fit.
    fn lines(&self, interval: Duration) -> Vec<String> {
        let (height, width) = Screen::size();
        let share = |tree: &TreeRecord| {
            self.shares
                .get(&tree.root.id)
                .map_or_else(|| "-".to_owned(), |share| format!("{share:.1}%"))
        };
        let mut lines = vec![cut(&self.sums(interval), width)];
        lines.extend(self.trouble.iter().map(|trouble| cut(trouble, width)));
        lines.extend(table(&self.trees, self.wide, Cpu::Share(&share)));
        if lines.len() > height {
            let hidden = lines.len() - height + 1;
            lines.truncate(height.saturating_sub(1));
            lines.push(cut(&format!("and {hidden} more: enlarge the terminal to see them"), width));
            lines.truncate(height);
        }
        lines
    }

    fn sums(&self, interval: Duration) -> String {
        let trees = self.trees.len();
        let processes: u64 = (self.trees.iter())
            .map(|tree| tree.members.iter().filter(|member| member.alive).count() as u64)
            .sum();
        let memory: u64 = self.trees.iter().filter_map(|tree| tree.rss_bytes).sum();
        let others = self.trees.iter().filter(|tree| state(tree) != "running").count();
        let others = if others > 0 {
            format!(", {others} in another state than running")
        } else {
            String::new()
        };
        format!(
            "{}  {trees} tasks, {processes} processes, {}{others}; every {}, q quits",
            clock(SystemTime::now()),
            short_bytes(Some(memory)),
            span(interval),
        )
    }
}

/// Returns CPU use in percent of one processor. The time of a member that has died is lost, unless
/// its parent waited for it.
fn share(before: Duration, now: Duration, elapsed: Duration) -> f64 {
    let used = now.saturating_sub(before).as_secs_f64();
    if elapsed.is_zero() { 0.0 } else { used / elapsed.as_secs_f64() * 100.0 }
}

/// Cuts a line to the width of the screen, so that it does not wrap.
fn cut(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_processor_is_a_share_of_100_percent() {
        let second = Duration::from_secs(1);
        assert!((share(second, 3 * second, second) - 200.0).abs() < 1e-9);
        assert!(
            share(3 * second, second, second).abs() < 1e-9,
            "a member died and its time is lost"
        );
        assert!(share(second, 3 * second, Duration::ZERO).abs() < 1e-9);
    }
}
