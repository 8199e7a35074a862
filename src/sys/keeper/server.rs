//! The setup of a keeper, and the system calls that it needs.

#![expect(
    unsafe_code,
    reason = "a disposition can be set in no other way, and libc's masks leave two signals out"
)]

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use nix::sys::{
    signal::{SigHandler, SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags},
    fs::{FileType, Mode, OFlags},
    io::Errno,
    process::WaitOptions,
};

use super::{
    COMM, NAME, Transport,
    binary::is_secure,
    protocol::{FromHost, SpawnRequest, VERSION, handshake},
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::{
        Death, PidFd,
        fd_table::raise_descriptor_limit,
        poll::poll_within,
        spawn::{Command, Resource, Rlimit, Session, StdioSource, gate::GATE_LIMIT},
    },
};

/// A keeper after its setup.
#[derive(Debug)]
pub(crate) struct KeeperServer {
    pub(crate) transport: Transport,
    pub(crate) request: SpawnRequest,
    host: PidFd,
    children: SignalFd,
}

/// The reason why a keeper wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Word(FromHost),
    /// The host is dead, or has closed the socket.
    HostGone,
    /// A child has died.
    Children,
}

/// The result of [`reap_one`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaped {
    Dead(Pid, Death),
    /// There are only live children.
    Living,
    /// There is no child left.
    NoChild,
}

/// Reports whether this process was executed as a keeper.
pub(crate) fn is_asked() -> bool {
    std::env::args_os().next().is_some_and(|name| name == NAME)
}

impl KeeperServer {
    /// Becomes a keeper: blocks all signals, becomes a subreaper, moves the socket away from
    /// standard input, and sends a handshake. Returns the program to start; `None` if the host
    /// requested only the handshake.
    pub(crate) fn take() -> Result<Option<(Self, Command)>> {
        let failed = |what: &str, error: Errno| Error::os(format!("failed to {what}"), error);
        let stdin = rustix::stdio::stdin();
        let kind = rustix::fs::fstat(stdin).map(|seen| FileType::from_raw_mode(seen.st_mode));
        if !is_asked() || kind != Ok(FileType::Socket) {
            return Err(Error::invalid(format!(
                "`{NAME}` is started only by programs that embed procledger"
            )));
        }
        if is_secure() {
            return Err(Error::new(
                Kind::Denied,
                "a keeper must have exactly the rights of its host",
            ));
        }
        // The keeper's own executable has already blocked them; another one that a host uses as its
        // keeper has not.
        crate::sys::leave_signals_to_the_host();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| failed("become a subreaper", error))?;
        let _ = rustix::thread::set_name(COMM);
        let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3)
            .map_err(|error| failed("duplicate a descriptor", error))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open `/dev/null`", error))?;
        rustix::stdio::dup2_stdin(&null).map_err(|error| failed("release its input", error))?;
        let transport = Transport::from_owned(socket);
        transport.send(&handshake(VERSION), &[], GATE_LIMIT)?;
        let Ok((request, rights)) = transport.receive_request(GATE_LIMIT) else { return Ok(None) };
        let mut rights = rights.into_iter();
        let host = rights.next().ok_or_else(|| Error::invalid("the request contains no host"))?;
        let command = command(&request, rights)?;
        let mut chld = SigSet::empty();
        chld.add(Signal::SIGCHLD);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&chld, flags)
            .map_err(|error| Error::os("failed to watch for the death of children", error))?;
        Ok(Some((Self { transport, request, host: PidFd::from_owned(host), children }, command)))
    }

    /// Reports whether the host is dead. A host that has only closed the socket is not dead.
    pub(crate) fn is_host_dead(&self) -> bool {
        self.host.is_dead().unwrap_or(false)
    }

    /// Waits until there is something to do. A message from the host is reported before its death,
    /// and both before children.
    pub(crate) fn wait(&self) -> Wake {
        let mut fds = [
            PollFd::new(&self.transport, PollFlags::IN),
            PollFd::new(&self.host, PollFlags::IN),
            PollFd::from_borrowed_fd(self.children.as_fd(), PollFlags::IN),
        ];
        // If poll fails the keeper can no longer notice the host's death, so it ends the tree now.
        if poll_within(&mut fds, None).is_err() {
            return Wake::HostGone;
        }
        let [from_host, host, _] = fds.map(|fd| !fd.revents().is_empty());
        if from_host {
            return match self.transport.receive_from_host(Duration::ZERO) {
                Ok(Some(message)) => Wake::Word(message),
                Ok(None) | Err(_) => Wake::HostGone,
            };
        }
        if host {
            return Wake::HostGone;
        }
        // One SIGCHLD may stand for several children, so all signals are read, and the caller reaps
        // all dead children.
        while matches!(self.children.read_signal(), Ok(Some(_))) {}
        Wake::Children
    }
}

/// Returns the program, with the descriptors that were sent for it.
fn command(request: &SpawnRequest, rights: impl Iterator<Item = OwnedFd>) -> Result<Command> {
    let mut rights = rights.map(Arc::new);
    let stdio = request.open.map(|open| {
        let fd = if open { rights.next() } else { None };
        fd.map_or(StdioSource::Closed, StdioSource::Fd)
    });
    let numbers = || request.attributes.fds.iter().chain(&request.inherited);
    let fds: Vec<_> = numbers().copied().zip(rights).collect();
    if fds.len() < numbers().count() {
        return Err(Error::invalid("the request lacks descriptors"));
    }
    let mut attributes = request.attributes.clone();
    // As in the host, a descriptor may have a number beyond the limits, and ending a tree needs a
    // descriptor for each of its processes. The program itself gets the limits of the host.
    let needed = numbers().max().map_or(0, |last| u64::try_from(*last).unwrap_or(0) + 1);
    let is_set = attributes.rlimits.iter().any(|limit| limit.resource == Resource::Nofile);
    if let Some((soft, hard)) = raise_descriptor_limit(needed).filter(|_| !is_set) {
        let (soft, hard) = (Some(soft), Some(hard));
        attributes.rlimits.push(Rlimit { resource: Resource::Nofile, soft, hard });
    }
    // In a session without other groups than those of this keeper and its programs.
    let has_group = request.attributes.process_group.is_some();
    Ok(Command {
        program: request.program.clone(),
        arg0: request.arg0.clone(),
        args: request.args.clone(),
        environment: request.environment.clone(),
        directory: request.directory.clone(),
        stdio,
        signals: request.signals,
        fds,
        inherited: Vec::new(),
        listens: request.listens,
        attributes,
        session: if has_group { Session::Group } else { Session::New },
        target: None,
    })
}

/// Reaps one dead child.
pub(crate) fn reap_one() -> Reaped {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let death = Death::from(ExitStatus::from_raw(status.as_raw()));
                if let Some(pid) = Pid::new(i64::from(pid.as_raw_nonzero().get())) {
                    return Reaped::Dead(pid, death);
                }
            }
            Ok(None) => return Reaped::Living,
            Err(Errno::INTR) => {}
            Err(_) => return Reaped::NoChild,
        }
    }
}

/// Blocks every signal that can be blocked, by the raw system call: libc reserves two real-time
/// signals (nptl(7)), and unblocks them when it starts a thread.
pub(crate) fn block_all_signals() {
    let all = u64::MAX;
    let args = [libc::SIG_SETMASK as usize, (&raw const all) as usize, 0, size_of_val(&all), 0];
    // SAFETY: the pointer is to a signal set of the kernel's size, 8 bytes.
    unsafe { crate::sys::syscall::syscall(libc::SYS_rt_sigprocmask, args) };
}

/// Makes the kernel reap dead children by itself from now on.
pub(crate) fn ignore_dead_children() {
    // SAFETY: no handler is installed.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) };
}
