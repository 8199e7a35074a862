//! Records the fork events of processes below this one: which process forked which, and which of
//! them are to be checked.
//!
//! A pid alone does not identify a process, so each is noted with the time of the event. If a fork
//! is reported for a pid that is already noted, the process is a new one, and the previous one is
//! gone. Whatever becomes uncertain is forgotten: this history only assists the health pass, which
//! also searches by itself.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{identity::Pid, sys::proc_events::Event};

/// A process, identified by its pid and the time when it was forked, or a time shortly after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forked {
    pub(crate) pid: Pid,
    pub(crate) at: u64,
}

/// One process below this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForkedDescendant {
    pub(crate) process: Forked,
    /// The child of this process that it is below: a root, once that is known.
    pub(crate) top: Forked,
    /// Whether it already has a row, or needs none.
    pub(crate) done: bool,
    /// Whether a second, later check of it is due (see [`Forks::watch`]).
    watched: bool,
}

/// When a noted process is checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delays {
    /// From a fork, or from another event after which the process may be hidden.
    pub(crate) check: Duration,
    /// From a check, for a process that is to be watched.
    pub(crate) watch: Duration,
}

/// The noted processes.
#[derive(Debug)]
pub(crate) struct Forks {
    own: Pid,
    delays: Delays,
    noted: HashMap<Pid, ForkedDescendant>,
    /// Due checks. All have the same delay, so the first entry is always the next one.
    due: VecDeque<(Instant, Forked)>,
    /// The same with the longer delay.
    watched: VecDeque<(Instant, Forked)>,
}

impl Forks {
    /// Creates an empty history for this process.
    pub(crate) fn new(own: Pid, delays: Delays) -> Self {
        Self { own, delays, noted: HashMap::new(), due: VecDeque::new(), watched: VecDeque::new() }
    }

    /// Notes an event. Descendants of a process for which `is_apart` returns true belong to that
    /// process and are not noted.
    pub(crate) fn take(&mut self, event: Event, now: Instant, is_apart: impl Fn(Pid) -> bool) {
        match event {
            Event::Fork { parent, child, at } => {
                self.noted.remove(&child);
                let process = Forked { pid: child, at };
                if parent == self.own {
                    self.add(process, process, true);
                } else if let Some(above) = self.noted.get(&parent)
                    && above.process.at <= at
                    && !is_apart(parent)
                {
                    self.add(process, above.top, false);
                    self.due.push_back((now + self.delays.check, process));
                }
            }
            Event::Change { process } => {
                if let Some(noted) = self.noted.get(&process) {
                    self.due.push_back((now + self.delays.check, noted.process));
                }
            }
        }
    }

    /// Notes a process that is known from another source.
    pub(crate) fn add(&mut self, process: Forked, top: Forked, done: bool) {
        self.noted.insert(process.pid, ForkedDescendant { process, top, done, watched: false });
    }

    /// Removes and returns the processes that are due by now, each once.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<ForkedDescendant> {
        let mut due: Vec<ForkedDescendant> = Vec::new();
        while self.due.front().is_some_and(|(when, _)| *when <= now) {
            let Some((_, process)) = self.due.pop_front() else { break };
            let noted = self.noted.get(&process.pid).filter(|noted| noted.process == process);
            due.extend(noted);
        }
        while self.watched.front().is_some_and(|(when, _)| *when <= now) {
            let Some((_, process)) = self.watched.pop_front() else { break };
            let noted = self.noted.get_mut(&process.pid).filter(|noted| noted.process == process);
            due.extend(noted.map(|noted| {
                noted.watched = false;
                *noted
            }));
        }
        due.sort_unstable_by_key(|noted| noted.process.pid);
        due.dedup_by_key(|noted| noted.process);
        due
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let fronts = [self.due.front(), self.watched.front()];
        fronts.into_iter().flatten().map(|(when, _)| *when).min()
    }

    /// Schedules another check of a process after the longer delay, unless one is scheduled
    /// already.
    pub(crate) fn watch(&mut self, pid: Pid, now: Instant) {
        if let Some(noted) = self.noted.get_mut(&pid).filter(|noted| !noted.watched) {
            noted.watched = true;
            self.watched.push_back((now + self.delays.watch, noted.process));
        }
    }

    /// Schedules another check after the usual delay.
    pub(crate) fn again(&mut self, noted: &ForkedDescendant, now: Instant) {
        self.due.push_back((now + self.delays.check, noted.process));
    }

    /// Marks a process as recorded, or as needing no row; its forks are still noted.
    pub(crate) fn done(&mut self, pid: Pid) {
        if let Some(noted) = self.noted.get_mut(&pid) {
            noted.done = true;
        }
    }

    pub(crate) fn forget(&mut self, pid: Pid) {
        self.noted.remove(&pid);
    }

    /// Forgets everything: once events were lost, nothing is certain any more.
    pub(crate) fn forget_all(&mut self) {
        self.noted.clear();
        self.due.clear();
        self.watched.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: Delays =
        Delays { check: Duration::from_millis(50), watch: Duration::from_secs(1) };

    fn forks() -> Forks {
        Forks::new(pid(10), DELAYS)
    }

    fn pid(number: i64) -> Pid {
        Pid::new(number).expect("a pid")
    }

    fn fork(parent: i64, child: i64, at: u64) -> Event {
        Event::Fork { parent: pid(parent), child: pid(child), at }
    }

    /// Returns which processes are due when all delays are over, and below which child.
    fn after(events: &[Event], is_apart: impl Fn(Pid) -> bool) -> Vec<(u32, u32)> {
        let (mut forks, now) = (forks(), Instant::now());
        for event in events {
            forks.take(*event, now, &is_apart);
        }
        assert_eq!(forks.due(now), [], "no process is checked at once");
        let due = forks.due(now + DELAYS.check);
        assert_eq!(forks.next_due(), None);
        due.iter().map(|noted| (noted.process.pid.get(), noted.top.pid.get())).collect()
    }

    #[test]
    fn a_daemon_that_forks_twice_is_below_the_root_though_its_parent_is_gone() {
        let exit = Event::Change { process: pid(12) };
        let events = [fork(10, 11, 1), fork(11, 12, 2), fork(12, 13, 3), exit];
        assert_eq!(after(&events, |_| false), [(12, 11), (13, 11)]);
    }

    #[test]
    fn unrelated_processes_and_their_descendants_are_not_noted() {
        assert_eq!(after(&[fork(20, 21, 1), fork(21, 22, 2), fork(1, 11, 3)], |_| false), []);
    }

    #[test]
    fn descendants_of_a_separate_process_belong_to_that_process() {
        let events = [fork(10, 11, 1), fork(11, 12, 2), fork(12, 13, 3)];
        assert_eq!(after(&events, |parent| parent == pid(12)), [(12, 11)]);
    }

    #[test]
    fn a_pid_that_an_unrelated_process_reused_belongs_to_that_process() {
        let events = [fork(10, 11, 1), fork(11, 12, 2), fork(20, 12, 3), fork(12, 13, 4)];
        assert_eq!(after(&events, |_| false), []);
    }

    #[test]
    fn a_fork_reported_late_is_not_that_of_a_process_that_reused_the_pid() {
        let (mut forks, now) = (forks(), Instant::now());
        let root = Forked { pid: pid(11), at: 50 };
        forks.add(root, root, true);
        forks.take(fork(11, 12, 49), now, |_| false);
        assert_eq!(forks.due(now + DELAYS.check), []);
    }

    #[test]
    fn a_watched_process_is_checked_once_per_delay() {
        let (mut forks, now) = (forks(), Instant::now());
        forks.take(fork(10, 11, 1), now, |_| false);
        forks.take(fork(11, 12, 2), now, |_| false);
        let pids = |due: Vec<ForkedDescendant>| {
            due.iter().map(|noted| noted.process.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(forks.due(now + DELAYS.check)), [pid(12)]);
        forks.watch(pid(12), now);
        forks.watch(pid(12), now);
        assert_eq!(forks.next_due(), Some(now + DELAYS.watch));
        assert_eq!(pids(forks.due(now + DELAYS.watch)), [pid(12)]);
        assert_eq!(forks.next_due(), None);
        forks.watch(pid(12), now);
        // Another process has reused the pid.
        forks.take(fork(11, 12, 9), now, |_| false);
        assert_eq!(pids(forks.due(now + DELAYS.check)), [pid(12)]);
        assert_eq!(forks.due(now + DELAYS.watch), []);
    }

    #[test]
    fn lost_events_clear_the_history() {
        let (mut forks, now) = (forks(), Instant::now());
        forks.take(fork(10, 11, 1), now, |_| false);
        forks.forget_all();
        forks.take(fork(11, 12, 2), now, |_| false);
        assert_eq!(forks.due(now + DELAYS.check), []);
    }
}
