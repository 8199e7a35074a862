//! Processes whose leading thread has ended while other threads run on.
//!
//! Such a process (`pthread_exit(3)` in `main`) is shown as a zombie, and its files in `/proc` that
//! need its memory are empty or gone: arguments, environment, executable, and memory use (the
//! kernel shows the task that leads the group). It is nevertheless alive: it forks, uses memory and
//! carries the token of its task. Its data is read from `/proc/PID/task/TID` (`proc_pid_task(5)`)
//! of a live thread.

use super::{
    Proc, STAT_LIMIT,
    stat::{Stat, parse_stat},
};
use crate::{error::Result, identity::Pid};

impl Proc {
    /// Returns a live thread of a process whose leading thread has ended; `None` if the leading
    /// thread is alive, or all threads are dead.
    pub(super) fn living_thread(&self, pid: Pid) -> Option<Pid> {
        let leader = self.stat_as_shown(pid).ok()??;
        self.living_among(&leader).map(|thread| thread.pid)
    }

    /// Replaces the state and memory by those of a live thread, if the leading thread has ended.
    pub(super) fn with_living_thread(&self, leader: Stat) -> Stat {
        match self.living_among(&leader) {
            Some(thread) => Stat { state: thread.state, rss_bytes: thread.rss_bytes, ..leader },
            None => leader,
        }
    }

    fn living_among(&self, leader: &Stat) -> Option<Stat> {
        if !leader.is_zombie() || leader.threads < 2 {
            return None;
        }
        let threads = self.threads(leader.pid)?.into_iter().filter(|thread| *thread != leader.pid);
        threads.filter_map(|thread| self.thread_stat(leader.pid, thread)).find(|it| !it.is_zombie())
    }

    fn thread_stat(&self, pid: Pid, thread: Pid) -> Option<Stat> {
        let mut buffer = Vec::new();
        let there = self.read(pid, &format!("task/{thread}/stat"), &mut buffer, STAT_LIMIT).ok()?;
        there.then(|| parse_stat(&buffer)).flatten()
    }

    /// Reads a file like [`read`](Self::read), if necessary from a live thread: for files that are
    /// empty or gone once the leading thread has ended.
    pub(super) fn read_of_memory(
        &self,
        pid: Pid,
        file: &str,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> Result<bool> {
        // For an ordinary user the file may also be closed, since it belongs to root if the process
        // has no memory (proc_pid(5)).
        let read = self.read(pid, file, buffer, limit);
        if matches!(read, Ok(true)) && !buffer.is_empty() {
            return read;
        }
        if self.read_of_living_thread(pid, file, buffer, limit) {
            return Ok(true);
        }
        buffer.clear();
        read
    }

    /// Reads a file of a live thread, if the leading thread has ended; returns `false` if there is
    /// none.
    ///
    /// The path leads through the process, below which a reused thread id is not found.
    pub(super) fn read_of_living_thread(
        &self,
        pid: Pid,
        file: &str,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> bool {
        // The caller's buffer may be the one that all reads of this thread share.
        let leader = {
            let mut own = Vec::new();
            let there = self.read(pid, "stat", &mut own, STAT_LIMIT).is_ok_and(|there| there);
            there.then(|| parse_stat(&own)).flatten()
        };
        let thread = leader.and_then(|leader| self.living_among(&leader));
        thread.is_some_and(|thread| {
            let path = format!("task/{}/{file}", thread.pid);
            self.read(pid, &path, buffer, limit).is_ok_and(|there| there)
        })
    }
}
