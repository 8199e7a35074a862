//! `/proc/PID/stat`: the state of a process, its relatives, its start, and its resource usage.

use std::time::Duration;

use super::{BUFFER, Proc, STAT_LIMIT, number};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::boot_clock,
};

/// Clock ticks per second in `/proc`: `USER_HZ`, 100 on every architecture that this crate supports
/// (`proc_pid_stat(5)`).
pub(crate) const TICKS_PER_SECOND: u64 = 100;
/// The duration of one tick.
pub(crate) const TICK: Duration = Duration::from_millis(1000 / TICKS_PER_SECOND);
/// `PF_KTHREAD` in the kernel's `include/linux/sched.h`, a flag in field 9 of `stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The fields of `/proc/PID/stat` that are used (`proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: Pid,
    /// Advisory: it changes at exec, and a program may set it to anything.
    pub(crate) comm: Vec<u8>,
    /// The state of the leading thread or, if that has ended, of a live one ([`Proc::stat`]).
    pub(crate) state: u8,
    /// 0 if the parent is the kernel, or outside our namespace.
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// 0 if there is no controlling terminal.
    pub(crate) terminal: i32,
    pub(crate) flags: u64,
    /// User and system time, in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// The same for children that it has waited for, and for their children.
    pub(crate) reaped_cpu_ticks: u64,
    /// Field 20: the number of threads, including a leading thread that has ended.
    pub(crate) threads: u32,
    /// Field 22.
    pub(crate) start_tick: u64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

impl Stat {
    pub(crate) fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Reports whether it is stopped by a signal or a tracer, and therefore cannot fork.
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// Reports whether it is dead, or about to be.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Reports whether it is in uninterruptible sleep, in which no signal reaches it.
    pub(crate) fn is_uninterruptible(&self) -> bool {
        self.state == b'D'
    }
}

impl Proc {
    /// Reads `/proc/PID/stat`; `None` if the process is gone or hidden. If the leading thread has
    /// ended, state and memory are those of a live thread (see
    /// [`living_thread`](super::living_thread)).
    pub(crate) fn stat(&self, pid: Pid) -> Result<Option<Stat>> {
        let stat = self.stat_as_shown(pid)?;
        Ok(stat.map(|stat| self.with_living_thread(stat)))
    }

    pub(super) fn stat_as_shown(&self, pid: Pid) -> Result<Option<Stat>> {
        BUFFER.with_borrow_mut(|buffer| {
            if !self.read(pid, "stat", buffer, STAT_LIMIT)? {
                return Ok(None);
            }
            let parsed = parse_stat(buffer);
            parsed.map(Some).ok_or_else(|| {
                Error::new(Kind::Unknown, format!("failed to parse `/proc/{pid}/stat`"))
            })
        })
    }
}

/// Parses `/proc/PID/stat`. The name may contain anything, so it ends at the *last* closing
/// parenthesis.
pub(crate) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let pid: i64 = number(text.get(..open)?.strip_suffix(b" ")?)?;
    let comm = text.get(open + 1..close)?;
    let mut fields =
        text.get(close + 1..)?.strip_prefix(b" ")?.trim_ascii_end().split(|&byte| byte == b' ');
    let state = match fields.next()? {
        [state] => *state,
        _ => return None,
    };
    // From here on `nth(n)` skips n fields; the numbers are those of proc_pid_stat(5).
    let parent = number(fields.next()?)?; // 4
    let group = number(fields.next()?)?; // 5
    let session = number(fields.next()?)?; // 6
    let terminal = number(fields.next()?)?; // 7
    let flags = number(fields.nth(1)?)?; // 9
    let user: u64 = number(fields.nth(4)?)?; // 14
    let system: u64 = number(fields.next()?)?; // 15
    // The kernel prints these two signed.
    let reaped_user: i64 = number(fields.next()?)?; // 16
    let reaped_system: i64 = number(fields.next()?)?; // 17
    let threads = number(fields.nth(2)?)?; // 20
    let start_tick = number(fields.nth(1)?)?; // 22
    let rss: i64 = number(fields.nth(1)?)?; // 24
    Some(Stat {
        pid: Pid::new(pid)?,
        comm: comm.to_vec(),
        state,
        parent,
        group,
        session,
        terminal,
        flags,
        cpu_ticks: user.saturating_add(system),
        reaped_cpu_ticks: u64::try_from(reaped_user.saturating_add(reaped_system)).unwrap_or(0),
        threads,
        start_tick,
        rss_bytes: u64::try_from(rss)
            .unwrap_or(0)
            .saturating_mul(rustix::param::page_size() as u64),
    })
}

/// Returns user and system time of a process.
pub(crate) fn cpu_time(stat: &Stat) -> Duration {
    Duration::from_millis(stat.cpu_ticks.saturating_mul(1000 / TICKS_PER_SECOND))
}

/// Returns how long ago a process with this start tick was started.
pub(crate) fn age(start_tick: u64) -> Duration {
    let started = Duration::from_millis(start_tick.saturating_mul(1000 / TICKS_PER_SECOND));
    boot_clock().saturating_sub(started)
}

/// Returns the current tick, by the clock of start ticks.
pub(crate) fn this_tick() -> u64 {
    tick_of(boot_clock())
}

fn tick_of(since_boot: Duration) -> u64 {
    u64::try_from(since_boot.as_millis() / 10).unwrap_or(u64::MAX) * TICKS_PER_SECOND / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"42 (cat) R 7 42 5 34816 42 4194304 100 0 0 0 3 4 5 6 20 0 1 0 98765 \
        5000000 123 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_plain_line_is_parsed() {
        let stat = parse_stat(PLAIN).expect("parsed");
        assert_eq!(stat.pid.get(), 42);
        assert_eq!(stat.comm, b"cat");
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), (b'R', 7, 42, 5));
        assert_eq!(
            (stat.terminal, stat.cpu_ticks, stat.start_tick, stat.rss_bytes / 4096),
            (34816, 7, 98765, 123)
        );
        assert_eq!(stat.reaped_cpu_ticks, 11);
        assert!(!stat.is_kernel_thread());
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let mut line = b"42 (".to_vec();
        line.extend_from_slice(name);
        line.extend_from_slice(&PLAIN[7..]);
        line
    }

    #[test]
    fn a_name_may_contain_anything() {
        for name in [
            &b"a b"[..],
            b"a) S 1 (b",
            b")",
            b"((",
            b"line\nbreak",
            b"",
            b") R 1 1 1 1",
            b"\xff\xfe",
        ] {
            let stat = parse_stat(&named(name)).expect("parsed");
            assert_eq!(stat.comm, name);
            assert_eq!((stat.parent, stat.start_tick), (7, 98765), "{name:?}");
        }
    }

    #[test]
    fn every_truncation_before_the_last_used_field_is_refused() {
        let used = PLAIN.windows(3).position(|window| window == b"123").expect("the field");
        for length in 0..used {
            assert_eq!(parse_stat(&PLAIN[..length]), None, "{length}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let text = String::from_utf8(PLAIN.to_vec()).expect("text");
        for (from, to) in [
            ("42 (cat)", "0 (cat)"),
            ("42 (cat)", "-1 (cat)"),
            ("42 (cat)", "99999999999 (cat)"),
            (" 98765 ", " -1 "),
            (" 98765 ", " 99999999999999999999999 "),
            (" 98765 ", " 12x "),
            ("R 7", "RR 7"),
            ("R 7", "R -7"),
        ] {
            assert_eq!(parse_stat(text.replacen(from, to, 1).as_bytes()), None, "{to}");
        }
    }

    #[test]
    fn the_largest_start_tick_is_kept_exactly() {
        let text = String::from_utf8(PLAIN.to_vec())
            .expect("text")
            .replace(" 98765 ", " 18446744073709551615 ");
        assert_eq!(parse_stat(text.as_bytes()).expect("parsed").start_tick, u64::MAX);
    }

    #[test]
    fn a_tick_is_a_hundredth_of_a_second() {
        for (millis, tick) in [(0, 0), (9, 0), (10, 1), (1_999, 199), (2_000, 200)] {
            assert_eq!(tick_of(Duration::from_millis(millis)), tick, "{millis} ms");
        }
    }
}
