//! How a keeper sets itself up, and the system calls of its work.

#![expect(
    unsafe_code,
    reason = "a disposition can be set in no other way, and libc's masks leave two signals out"
)]

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::sys::{
    signal::{SigHandler, SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, Mode, OFlags},
    io::Errno,
    process::WaitOptions,
};

use super::{
    COMM, Channel, NAME,
    binary::is_secure,
    protocol::{Errand, FromHost, VERSION, hello},
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::ExitStatus,
    sys::{
        PidFd,
        spawn::{Command, Session, StdioSource, gate::GATE_LIMIT},
    },
};

/// A keeper at its post.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) channel: Channel,
    pub(crate) errand: Errand,
    host: PidFd,
    children: SignalFd,
}

/// What wakes a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Word(FromHost),
    /// The host is dead, or has closed the socket.
    HostGone,
    /// A child has died.
    Children,
}

/// What [`reap_one`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    Dead(Pid, ExitStatus),
    /// There are children, and they live.
    Living,
    /// There is nobody below any more.
    Nobody,
}

/// Whether this process was executed to be a keeper.
pub(crate) fn is_asked() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

impl Seat {
    /// Becomes a keeper: blocks all signals, becomes a subreaper, takes the socket away from standard input, and says hello.
    /// Answers with the program to start; `None` where the host wanted no more than the hello.
    pub(crate) fn take() -> Result<Option<(Self, Command)>> {
        let failed = |what: &str, error: Errno| Error::os(format!("failed to {what}"), error);
        let stdin = rustix::stdio::stdin();
        let kind = rustix::fs::fstat(stdin).map(|seen| FileType::from_raw_mode(seen.st_mode));
        if !is_asked() || kind != Ok(FileType::Socket) {
            return Err(Error::invalid(format!(
                "`{NAME}` is started by programs that embed procledger, and by nobody else"
            )));
        }
        if is_secure() {
            return Err(Error::new(Kind::Denied, "a keeper has the rights of its host, no others"));
        }
        // The executable has blocked them already, but for one that a host has named as its keeper.
        crate::sys::leave_signals_to_the_host();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| failed("become a subreaper", error))?;
        let _ = rustix::thread::set_name(COMM);
        let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3)
            .map_err(|error| failed("duplicate a descriptor", error))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open `/dev/null`", error))?;
        rustix::stdio::dup2_stdin(&null).map_err(|error| failed("let go of its input", error))?;
        let channel = Channel::from_owned(socket);
        channel.send(&hello(VERSION), &[], GATE_LIMIT)?;
        let Ok((errand, rights)) = channel.receive_errand(GATE_LIMIT) else { return Ok(None) };
        let mut rights = rights.into_iter();
        let host = rights.next().ok_or_else(|| Error::invalid("no host came with the errand"))?;
        let command = command(&errand, rights);
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&chld, flags)
            .map_err(|error| Error::os("failed to watch for the death of children", error))?;
        Ok(Some((Self { channel, errand, host: PidFd::from_owned(host), children }, command)))
    }

    /// Whether the host is dead. One that has closed the socket only is not.
    pub(crate) fn is_host_dead(&self) -> bool {
        self.host.is_dead().unwrap_or(false)
    }

    /// Waits until there is something to do. What the host has said comes before its death, and both before the children.
    pub(crate) fn wait(&self) -> Wake {
        loop {
            let mut fds = [
                PollFd::new(&self.channel, PollFlags::IN),
                PollFd::new(&self.host, PollFlags::IN),
                PollFd::from_borrowed_fd(self.children.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Without its eyes a keeper keeps nothing: the tree ends now, not never.
                Err(_) => return Wake::HostGone,
            }
            let ready = fds.map(|fd| !fd.revents().is_empty());
            if ready[0] {
                return match self.channel.hear_host(Duration::ZERO) {
                    Ok(Some(word)) => Wake::Word(word),
                    Ok(None) | Err(_) => Wake::HostGone,
                };
            }
            if ready[1] {
                return Wake::HostGone;
            }
            if ready[2] {
                // They are many in one: all are read, and all dead children looked for.
                while matches!(self.children.read_signal(), Ok(Some(_))) {}
                return Wake::Children;
            }
        }
    }
}

/// The program, with the descriptors that came for it.
fn command(errand: &Errand, mut standard: impl Iterator<Item = OwnedFd>) -> Command {
    let stdio = errand.open.map(|open| {
        let fd = if open { standard.next() } else { None };
        fd.map_or(StdioSource::Closed, StdioSource::Fd)
    });
    Command {
        program: errand.program.clone(),
        args: errand.args.clone(),
        environment: errand.environment.clone(),
        directory: errand.directory.clone(),
        stdio,
        session: Session::New,
        place: None,
    }
}

/// Takes away one dead child.
pub(crate) fn reap_one() -> Reaped {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let code = status.exit_status().map(ExitStatus::Exited);
                let signal = status.terminating_signal().map(ExitStatus::Signaled);
                let status = code.or(signal).unwrap_or(ExitStatus::Unobserved);
                if let Some(pid) = Pid::new(i64::from(pid.as_raw_nonzero().get())) {
                    return Reaped::Dead(pid, status);
                }
            }
            Ok(None) => return Reaped::Living,
            Err(Errno::INTR) => {}
            Err(_) => return Reaped::Nobody,
        }
    }
}

/// Blocks every signal that can be blocked, raw: libc keeps two real-time signals to itself (nptl(7)), and unblocks them
/// when it starts a thread.
pub(crate) fn block_all_signals() {
    let all = u64::MAX;
    let args = [libc::SIG_SETMASK as usize, (&raw const all) as usize, 0, size_of_val(&all), 0];
    // SAFETY: the pointer is to a signal set of the kernel's size, 8 bytes.
    unsafe { crate::sys::syscall::syscall(libc::SYS_rt_sigprocmask, args) };
}

/// From now on the kernel takes dead children away by itself.
pub(crate) fn ignore_dead_children() {
    // SAFETY: no handler is installed.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) };
}
