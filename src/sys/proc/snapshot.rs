//! All processes, as `/proc` showed them at one time.

use std::collections::HashSet;

pub(crate) use super::stat::Stat;
use crate::identity::Pid;

/// All processes as they were read in one scan of `/proc`.
///
/// One pass may query it for many trees, so the cost of a query depends on the size of its result,
/// not on the number of processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Sorted by pid.
    stats: Vec<Stat>,
    by_parent: Index,
    by_session: Index,
    by_group: Index,
    /// The tick in which the scan began.
    began: u64,
}

/// Positions in a snapshot, sorted by one of the fields.
type Index = Vec<(u32, usize)>;

fn index(stats: &[Stat], field: impl Fn(&Stat) -> u32) -> Index {
    let mut index: Index =
        stats.iter().enumerate().map(|(position, stat)| (field(stat), position)).collect();
    index.sort_unstable();
    index
}

impl Snapshot {
    pub(crate) fn new(all: impl IntoIterator<Item = Stat>) -> Self {
        let mut stats: Vec<Stat> = all.into_iter().collect();
        stats.sort_by_key(|stat| stat.pid);
        stats.dedup_by_key(|stat| stat.pid);
        Self {
            by_parent: index(&stats, |stat| stat.parent),
            by_session: index(&stats, |stat| stat.session),
            by_group: index(&stats, |stat| stat.group),
            stats,
            began: 0,
        }
    }

    /// Returns the same snapshot with the tick in which the scan began.
    pub(crate) fn begun_at(self, began: u64) -> Self {
        Self { began, ..self }
    }

    /// Reports whether pid and start tick suffice to recognize a process: it was started before the
    /// tick of the scan, so a process that reuses the pid later has another start tick.
    pub(crate) fn distinguishes(&self, seen: &Stat) -> bool {
        seen.start_tick < self.began
    }

    pub(crate) fn get(&self, pid: Pid) -> Option<&Stat> {
        self.stats.binary_search_by_key(&pid, |stat| stat.pid).ok().map(|at| &self.stats[at])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stat> {
        self.stats.iter()
    }

    fn with<'a>(&'a self, index: &'a Index, value: u32) -> impl Iterator<Item = &'a Stat> {
        let first = index.partition_point(|(other, _)| *other < value);
        let same = index[first..].iter().take_while(move |(other, _)| *other == value);
        same.map(|(_, position)| &self.stats[*position])
    }

    pub(crate) fn children(&self, pid: Pid) -> impl Iterator<Item = &Stat> {
        self.with(&self.by_parent, pid.get())
    }

    pub(crate) fn in_session(&self, session: Pid) -> impl Iterator<Item = &Stat> {
        self.with(&self.by_session, session.get())
    }

    pub(crate) fn in_group(&self, group: Pid) -> impl Iterator<Item = &Stat> {
        self.with(&self.by_group, group.get())
    }

    /// Returns the parents of a process, nearest first. Stops at a loop, which inconsistent reads
    /// could show.
    pub(crate) fn ancestors(&self, pid: Pid) -> Vec<Pid> {
        let mut found = Vec::new();
        let mut next = self.get(pid);
        while let Some(stat) = next {
            let Some(parent) = Pid::new(i64::from(stat.parent)) else { break };
            if parent == pid || found.contains(&parent) {
                break;
            }
            found.push(parent);
            next = self.get(parent);
        }
        found
    }

    /// Returns all descendants of a process.
    pub(crate) fn below(&self, pid: Pid) -> HashSet<Pid> {
        self.below_until(pid, |_| false)
    }

    /// Returns the descendants of a process, except those at which it stops and their descendants.
    pub(crate) fn below_until(&self, pid: Pid, stops: impl Fn(Pid) -> bool) -> HashSet<Pid> {
        let mut found = HashSet::new();
        let mut open = vec![pid];
        while let Some(parent) = open.pop() {
            open.extend(
                self.children(parent)
                    .map(|child| child.pid)
                    .filter(|&child| !stops(child))
                    .filter(|&child| found.insert(child)),
            );
        }
        found
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pid(number: u32) -> Pid {
        Pid::new(i64::from(number)).expect("a pid")
    }

    /// Returns a sleeping process with this pid, parent and session.
    pub(crate) fn stat(number: u32, parent: u32, session: u32) -> Stat {
        Stat {
            pid: pid(number),
            comm: b"x".to_vec(),
            state: b'S',
            parent,
            group: session,
            session,
            terminal: 0,
            flags: 0,
            cpu_ticks: 0,
            reaped_cpu_ticks: 0,
            threads: 1,
            start_tick: u64::from(number),
            rss_bytes: 0,
        }
    }

    #[test]
    fn ancestors_and_descendants_are_found() {
        let snapshot = Snapshot::new([
            stat(1, 0, 1),
            stat(2, 1, 1),
            stat(3, 2, 1),
            stat(4, 2, 1),
            stat(5, 1, 1),
        ]);
        assert_eq!(snapshot.ancestors(pid(3)), [pid(2), pid(1)]);
        assert_eq!(snapshot.below(pid(2)), HashSet::from([pid(3), pid(4)]));
        let without_2 = snapshot.below_until(pid(1), |below| below == pid(2));
        assert_eq!(without_2, HashSet::from([pid(5)]));
    }

    #[test]
    fn a_torn_read_that_shows_a_loop_ends() {
        let snapshot = Snapshot::new([stat(2, 3, 1), stat(3, 2, 1)]);
        assert_eq!(snapshot.ancestors(pid(2)), [pid(3)]);
        assert_eq!(snapshot.below(pid(2)), HashSet::from([pid(2), pid(3)]));
    }
}
