//! Handles on processes: opened, then verified, then signalled.
//!
//! A pidfd (`pidfd_open(2)`, Linux 5.3) stays with the process that it was opened for, even if the
//! pid is reused. The pid may have been reused *before* the open, so a pidfd proves nothing until
//! its process was compared with the recorded one. A [`Pinned`] has passed that comparison, and
//! only a `Pinned` can be signalled.

#![expect(
    unsafe_code,
    reason = "a signal to a process group, and a real-time signal, have no wrapper, and a descriptor number is taken over from clone"
)]

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};

use super::{kernel_features, poll::poll_within, proc::Proc, snapshot::Stat};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, PidScope, Reach, Sameness},
    sys::ExitStatus,
};

/// A signal, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(i32);

impl Signal {
    pub(crate) const TERM: Self = Self(libc::SIGTERM);
    pub(crate) const CONT: Self = Self(libc::SIGCONT);
    pub(crate) const STOP: Self = Self(libc::SIGSTOP);
    pub(crate) const KILL: Self = Self(libc::SIGKILL);
    /// The highest signal: `_NSIG` of the kernel on `x86_64` and `aarch64`.
    pub(crate) const LAST: i32 = 64;

    /// Returns a signal by its number in signal(7), real-time signals included. Other numbers, and
    /// 0, are no signals.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        (1..=Self::LAST).contains(&number).then_some(Self(number))
    }

    pub(crate) fn number(self) -> i32 {
        self.0
    }
}

/// An open pidfd of some process, not yet verified to be the right one.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this pid now; `None` if there is none.
    ///
    /// The id of a thread that does not lead a process counts as free (`EINVAL` before Linux
    /// 6.16, `ENOENT` since).
    pub(crate) fn open(pid: Pid) -> Result<Option<Self>> {
        let number = rustix::process::Pid::from_raw(pid.raw())
            .ok_or_else(|| Error::invalid("pid 0 does not name a process"))?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self(fd))),
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => {
                Err(Error::os(format!("failed to open a pidfd for process {pid}"), error))
            }
        }
    }

    /// Returns another descriptor for the same process.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let copy = self.0.try_clone();
        copy.map(Self).map_err(|error| Error::os("failed to duplicate a pidfd", error))
    }

    /// Takes ownership of a descriptor that clone created.
    pub(crate) fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Returns the inode, if it identifies a process.
    pub(crate) fn inode(&self) -> Result<Option<u64>> {
        let failed = |error: Errno| Error::os("failed to inspect a pidfd", error);
        if !kernel_features::is_pidfs(self.0.as_fd()).map_err(failed)? {
            return Ok(None);
        }
        Ok(Some(rustix::fs::fstat(&self.0).map_err(failed)?.st_ino))
    }

    /// Reports whether every thread of the process is dead; from then on the pidfd is readable.
    pub(crate) fn is_dead(&self) -> Result<bool> {
        self.wait_dead(Duration::ZERO)
    }

    /// Waits until the process is dead, at most `limit`; returns `false` if the time is up.
    pub(crate) fn wait_dead(&self, limit: Duration) -> Result<bool> {
        self.wait_for(PollFlags::IN, limit)
    }

    /// Waits until the process is dead, or one of `others` is readable or closed at its other end,
    /// at most `limit`; returns `false` if the time is up.
    pub(crate) fn wait_dead_or(
        &self,
        others: &[BorrowedFd<'_>],
        limit: Option<Duration>,
    ) -> Result<bool> {
        let all = std::iter::once(self.0.as_fd()).chain(others.iter().copied());
        let mut fds: Vec<_> = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let ready = poll_within(&mut fds, limit);
        Ok(ready.map_err(|error| Error::os("failed to poll a pidfd", error))? > 0)
    }

    /// Waits until its parent has reaped it, at most `limit`: the kernel reports its status only
    /// then.
    pub(crate) fn wait_reaped(&self, limit: Duration) -> Result<bool> {
        self.wait_for(PollFlags::empty(), limit)
    }

    fn wait_for(&self, events: PollFlags, limit: Duration) -> Result<bool> {
        let ready = poll_within(&mut [PollFd::new(&self.0, events)], Some(limit));
        Ok(ready.map_err(|error| Error::os("failed to poll a pidfd", error))? > 0)
    }

    /// Returns `false` if the process was reaped; `true` even if we may not signal it.
    fn exists(&self) -> Result<bool> {
        match self.signal_raw(None) {
            Ok(()) | Err(Errno::PERM) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(Error::os("failed to send signal 0 through a pidfd", error)),
        }
    }

    /// Signals our own child, whose descriptor was created by clone and needs no verification.
    pub(crate) fn send(&self, signal: Signal) -> std::result::Result<(), Errno> {
        self.signal_raw(Some(signal))
    }

    /// Signals the process group that the gate created for the process
    /// (`PIDFD_SIGNAL_PROCESS_GROUP`, Linux 6.9); on older kernels, only the process.
    pub(crate) fn send_to_group(&self, signal: Signal) -> std::result::Result<(), Errno> {
        self.signal_number(signal.0, PIDFD_SIGNAL_PROCESS_GROUP)
            .or_else(|_| self.signal_raw(Some(signal)))
    }

    /// Returns the signal that has stopped our child, until it is continued or
    /// [`forget_stop`](Self::forget_stop) is called.
    pub(crate) fn stopped_by(&self) -> Result<Option<i32>> {
        self.stop_event(WaitIdOptions::NOWAIT)
    }

    /// Makes the current stop of our child no longer be reported.
    pub(crate) fn forget_stop(&self) -> Result<()> {
        self.stop_event(WaitIdOptions::empty()).map(drop)
    }

    fn stop_event(&self, further: WaitIdOptions) -> Result<Option<i32>> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | further;
        match waitid(WaitId::PidFd(self.0.as_fd()), options) {
            Ok(status) => Ok(status.and_then(|status| status.stopping_signal())),
            Err(Errno::INTR | Errno::CHILD) => Ok(None),
            Err(error) => Err(Error::os("failed to wait for a child to stop", error)),
        }
    }

    fn signal_raw(&self, signal: Option<Signal>) -> std::result::Result<(), Errno> {
        self.signal_number(signal.map_or(0, |signal| signal.0), 0)
    }

    /// Sends a signal by its number, since rustix's function accepts no real-time signals.
    fn signal_number(&self, number: i32, flags: usize) -> std::result::Result<(), Errno> {
        let fd = self.0.as_raw_fd().cast_unsigned() as usize;
        let args = [fd, number.cast_unsigned() as usize, 0, flags, 0];
        // SAFETY: pidfd_send_signal(2) with an open descriptor and no siginfo touches no memory of
        // ours.
        let result = unsafe { super::syscall::syscall(libc::SYS_pidfd_send_signal, args) };
        match i32::try_from(-result) {
            Ok(errno) if errno > 0 => Err(Errno::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    /// Returns the status of our own dead child; `None` while it is alive. Fails with `Gone` if it
    /// was reaped elsewhere.
    ///
    /// With `reap` the zombie is reaped; without, it stays and pins its pid and its session number.
    pub(crate) fn child_status(&self, reap: bool) -> Result<Option<ExitStatus>> {
        let mut options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if !reap {
            options |= WaitIdOptions::NOWAIT;
        }
        loop {
            match waitid(WaitId::PidFd(self.0.as_fd()), options) {
                Ok(None) => return Ok(None),
                Ok(Some(status)) => {
                    let (code, signal) = (status.exit_status(), status.terminating_signal());
                    return Ok(Some(ExitStatus::new(code, signal)));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::os("failed to wait for a child", error)),
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// From `linux/pidfd.h`.
const PIDFD_SIGNAL_PROCESS_GROUP: usize = 1 << 2;

/// A process whose identity was verified after its pidfd was opened. Only such a process can be
/// signalled.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(super) fd: Arc<PidFd>,
    pub(crate) identity: Identity,
    pub(crate) stat: Stat,
}

/// The result of looking up a recorded process.
#[derive(Debug)]
pub(crate) enum Probe {
    /// The same process, alive.
    Alive(Pinned),
    /// The same process, dead and not yet reaped: it still pins its pid and its session number.
    Zombie(Pinned),
    /// The process is certainly gone; another process may have its pid.
    Gone,
    /// It cannot be determined.
    Unknown(Error),
}

/// Whether a recorded process still exists; see [`presence`].
#[derive(Debug)]
pub(crate) enum Presence {
    Alive,
    /// It is dead; its parent may not have reaped it yet.
    Gone,
    /// It cannot be determined.
    Unknown(Error),
}

/// Determines whether the process that was recorded as `identity` still exists, without pinning it.
///
/// An inode that identifies a process decides alone, so that nothing is read from `/proc`.
pub(crate) fn presence(proc: &Proc, here: PidScope, identity: &Identity) -> Presence {
    let by_inode = match identity.pidfd_inode {
        Some(inode) if here.reach(&identity.scope) == Reach::Here => {
            presence_by_inode(identity.pid, inode)
        }
        _ => Ok(None),
    };
    match by_inode {
        Ok(Some(presence)) => presence,
        Ok(None) => match Pinned::probe(proc, here, identity) {
            Probe::Alive(_) => Presence::Alive,
            Probe::Zombie(_) | Probe::Gone => Presence::Gone,
            Probe::Unknown(error) => Presence::Unknown(error),
        },
        Err(error) => Presence::Unknown(error),
    }
}

/// Returns `None` if inodes of pidfds do not identify processes.
fn presence_by_inode(pid: Pid, inode: u64) -> Result<Option<Presence>> {
    let Some(fd) = PidFd::open(pid)? else { return Ok(Some(Presence::Gone)) };
    let Some(found) = fd.inode()? else { return Ok(None) };
    let is_alive = found == inode && !fd.is_dead()?;
    Ok(Some(if is_alive { Presence::Alive } else { Presence::Gone }))
}

impl Pinned {
    /// Pins the process that has this pid now, for a process that is about to be recorded.
    pub(crate) fn open(proc: &Proc, scope: PidScope, pid: Pid) -> Result<Option<Self>> {
        match PidFd::open(pid)? {
            Some(fd) => Self::identify(proc, scope, pid, Arc::new(fd)),
            None => Ok(None),
        }
    }

    /// Reads the identity of the process behind `fd`; `None` if it is reaped meanwhile.
    pub(crate) fn identify(
        proc: &Proc,
        scope: PidScope,
        pid: Pid,
        fd: Arc<PidFd>,
    ) -> Result<Option<Self>> {
        let stat = proc.stat(pid)?;
        // Only this proves that the data belongs to the process behind the descriptor: if that had
        // been reaped before the read, signal 0 would fail.
        if !fd.exists()? {
            return Ok(None);
        }
        let Some(stat) = stat else {
            return Err(Error::new(
                Kind::Unknown,
                format!(
                    "process {pid} exists but `/proc/{pid}/stat` cannot be seen: is /proc mounted with hidepid?"
                ),
            ));
        };
        let identity =
            Identity { scope, pid, start_tick: stat.start_tick, pidfd_inode: fd.inode()? };
        Ok(Some(Self { fd, identity, stat }))
    }

    /// Looks up the process that was recorded as `identity`.
    pub(crate) fn probe(proc: &Proc, here: PidScope, identity: &Identity) -> Probe {
        Self::try_probe(proc, here, identity).unwrap_or_else(Probe::Unknown)
    }

    fn try_probe(proc: &Proc, here: PidScope, identity: &Identity) -> Result<Probe> {
        match here.reach(&identity.scope) {
            Reach::Gone => return Ok(Probe::Gone),
            Reach::Elsewhere => return Ok(Probe::Unknown(elsewhere(identity.pid))),
            Reach::Here => {}
        }
        match PidFd::open(identity.pid)? {
            Some(fd) => Self::verify(proc, here, identity, Arc::new(fd)),
            None => Ok(Probe::Gone),
        }
    }

    /// Verifies that the process behind `fd` is the one that was recorded as `identity`.
    pub(crate) fn verify(
        proc: &Proc,
        here: PidScope,
        identity: &Identity,
        fd: Arc<PidFd>,
    ) -> Result<Probe> {
        let Some(pinned) = Self::identify(proc, here, identity.pid, fd)? else {
            return Ok(Probe::Gone);
        };
        match identity.sameness(&pinned.identity) {
            Sameness::Different => Ok(Probe::Gone),
            Sameness::Unknown => Ok(Probe::Unknown(elsewhere(identity.pid))),
            Sameness::Same if pinned.fd.is_dead()? => Ok(Probe::Zombie(pinned)),
            Sameness::Same => Ok(Probe::Alive(pinned)),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.identity.pid
    }

    pub(crate) fn fd(&self) -> &PidFd {
        &self.fd
    }

    pub(crate) fn into_fd(self) -> Arc<PidFd> {
        self.fd
    }

    /// Reports whether every thread of the process is dead.
    pub(crate) fn is_dead(&self) -> Result<bool> {
        self.fd.is_dead()
    }

    /// Reports whether the process still has its pid, alive or as a zombie.
    pub(crate) fn has_its_pid(&self) -> bool {
        self.fd.exists().unwrap_or(false)
    }

    /// Sends a signal. Fails with `Gone` if the process was reaped, and with `Denied` if we may not
    /// signal it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.fd.signal_raw(Some(signal)).map_err(|error| {
            Error::os(format!("failed to signal process {}", self.identity.pid), error)
        })
    }
}

fn elsewhere(pid: Pid) -> Error {
    Error::new(
        Kind::Unknown,
        format!(
            "process {pid} was recorded on another machine, in another PID namespace or under another clock: \
             it cannot be judged from here"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::current_pid_scope;

    #[test]
    fn this_process_is_identified_and_differs_from_an_older_one() {
        let proc = Proc::open().expect("/proc");
        let scope = current_pid_scope().expect("a scope");
        let pid = Pid::new(i64::from(std::process::id())).expect("a pid");
        let me = Pinned::open(&proc, scope, pid).expect("a lookup").expect("alive");
        assert!(matches!(Pinned::probe(&proc, scope, &me.identity), Probe::Alive(_)));
        let older = Identity { start_tick: me.identity.start_tick - 1, ..me.identity };
        assert!(matches!(Pinned::probe(&proc, scope, &older), Probe::Gone));
        let elsewhere = Identity { scope: PidScope { pid_namespace: 1, ..scope }, ..me.identity };
        assert!(matches!(Pinned::probe(&proc, scope, &elsewhere), Probe::Unknown(_)));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child of a test, which waits for it")]
    fn a_process_is_present_until_it_dies_and_another_one_with_its_pid_is_not_it() {
        let proc = Proc::open().expect("/proc");
        let scope = current_pid_scope().expect("a scope");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it runs");
        let pid = Pid::new(i64::from(child.id())).expect("a pid");
        let identity = Pinned::open(&proc, scope, pid).expect("a lookup").expect("alive").identity;
        let old = Identity { pidfd_inode: None, ..identity };
        let other = Identity { pidfd_inode: identity.pidfd_inode.map(|it| it + 1), ..identity };
        for same in [identity, old] {
            assert!(matches!(presence(&proc, scope, &same), Presence::Alive), "{same:?}");
        }
        if other != identity {
            assert!(matches!(presence(&proc, scope, &other), Presence::Gone));
        }
        let elsewhere = Identity { scope: PidScope { pid_namespace: 1, ..scope }, ..identity };
        assert!(matches!(presence(&proc, scope, &elsewhere), Presence::Unknown(_)));
        child.kill().expect("killed");
        let pinned = PidFd::open(pid).expect("a lookup").expect("it is not reaped");
        assert!(pinned.wait_dead(Duration::from_secs(10)).expect("a wait"));
        for same in [identity, old] {
            assert!(matches!(presence(&proc, scope, &same), Presence::Gone), "a zombie: {same:?}");
        }
        child.wait().expect("reaped");
        assert!(matches!(presence(&proc, scope, &identity), Presence::Gone));
    }
}
