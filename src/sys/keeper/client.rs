//! The host's end: starts a keeper, sends its request, receives its messages, and dismisses it.

use std::{
    ffi::{CString, OsString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::FdFlags;

use super::{
    ARGUMENT, Binary, NAME, Transport,
    protocol::{FromHost, FromKeeper, Params, SpawnRequest, VERSION, version_of},
};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, PidScope},
    sys::Death,
    sys::{
        PidFd, Pinned, Proc, Signal,
        spawn::{
            Command, Descriptor, Helper, Sources, borrowed, failure, gate::GATE_LIMIT, not_made,
            prepare_stdio, start,
        },
    },
};

/// Time limit for the handshake, which a keeper sends within a millisecond; on a machine that swaps
/// it may take longer.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Time limit for writing one frame; the keeper reads it at once.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// A keeper that sends nothing for this time may have been stopped.
const RESUME_AFTER: Duration = Duration::from_millis(250);
/// Time limit for the death of a keeper after SIGKILL, which takes microseconds.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// A running keeper. When this is dropped, the keeper ends the processes that are left below it,
/// and exits; [`KeeperClient::dismiss`] also reaps it.
#[derive(Debug)]
pub(crate) struct KeeperClient {
    /// `None` once the host has closed the connection.
    transport: Option<Transport>,
    pid: Pid,
    pidfd: Arc<PidFd>,
}

/// The program's child at the gate, and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) program: OsString,
    pub(crate) pid: Pid,
    pub(crate) pidfd: PidFd,
    pub(crate) pipes: [Option<OwnedFd>; 3],
}

impl Binary {
    /// Starts a keeper and reads its handshake.
    ///
    /// Its arguments do not describe the tree, since every user can read them; other processes find
    /// the keeper by its identity.
    pub(crate) fn start(&self) -> Result<KeeperClient> {
        let failed = |error| Error::os("failed to duplicate a descriptor", error);
        let (transport, socket) = Transport::pair()?;
        let helper = Helper {
            executable: self.as_fd().try_clone_to_owned().map_err(failed)?,
            argv: [NAME, ARGUMENT]
                .into_iter()
                .filter_map(|message| CString::new(message).ok())
                .collect(),
            socket,
        };
        let (pid, pidfd) = start(&helper)?;
        // The keeper must be the only holder of its end of the socket: otherwise its death would
        // not close the socket.
        drop(helper);
        let client = KeeperClient { transport: Some(transport), pid, pidfd };
        match client.check_handshake(self) {
            Ok(()) => Ok(client),
            Err(error) => {
                client.kill();
                Err(error)
            }
        }
    }
}

impl KeeperClient {
    /// Reads the keeper's identity, by which other processes find it; `None` if it has been reaped.
    pub(crate) fn identify(&self, proc: &Proc, scope: PidScope) -> Result<Option<Identity>> {
        let pinned = Pinned::identify(proc, scope, self.pid, Arc::clone(&self.pidfd))?;
        Ok(pinned.map(|pinned| pinned.identity))
    }

    fn check_handshake(&self, binary: &Binary) -> Result<()> {
        let shown = binary.path().display();
        let handshake = match self.transport()?.receive(&mut Vec::new(), HANDSHAKE_LIMIT) {
            Err(error) if error.is_busy() => {
                let limit = HANDSHAKE_LIMIT.as_secs();
                let message = format!("`{shown}` is not a keeper: it sent nothing for {limit} s");
                return Err(Error::new(Kind::Unsupported, message));
            }
            handshake => handshake?,
        };
        match handshake.as_ref().and_then(version_of) {
            Some(VERSION) => Ok(()),
            Some(other) => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the keeper `{shown}` uses version {other} of the keeper protocol, this program version \
                     {VERSION}: install the one that belongs to it"
                ),
            )),
            None => Err(Error::new(Kind::Unsupported, format!("`{shown}` is not a keeper"))),
        }
    }

    /// Requests the program's child from the keeper; the child then waits at the gate.
    pub(crate) fn request_child(&self, command: Command, params: Params) -> Result<Reply> {
        command.check()?;
        let Command {
            program,
            arg0,
            args,
            environment,
            directory,
            stdio,
            signals,
            fds,
            inherited,
            listens,
            attributes,
            ..
        } = command;
        let (descriptors, sources, pipes) = prepare_stdio(stdio)?;
        let (open, standard) = passed_on(&descriptors, &sources);
        let own = own_pidfd()?;
        let others = fds.iter().map(|(_, fd)| fd.as_fd());
        let rights: Vec<BorrowedFd<'_>> = [own.as_fd()]
            .into_iter()
            .chain(standard)
            .chain(others)
            .chain(inherited.iter().map(|&number| borrowed(number)))
            .collect();
        let request = SpawnRequest {
            program,
            arg0,
            args,
            environment,
            directory,
            open,
            signals,
            inherited: inherited.clone(),
            listens,
            attributes,
            params,
        };
        let sent = self.transport()?.send_request(&request, &rights, SEND_LIMIT);
        sent.map_err(|error| lost(&request.program).with_source(error))?;
        match self.receive_reply(&request.program)? {
            (FromKeeper::Child(pid), mut rights) if !rights.is_empty() => {
                let pidfd = PidFd::from_owned(rights.swap_remove(0));
                Ok(Reply { program: request.program, pid, pidfd, pipes })
            }
            (message, _) => Err(not_started(&request.program, message)),
        }
    }

    /// Reports to the keeper whether the row was committed. If it was, waits until the program is
    /// running; fails if it could not be started.
    pub(crate) fn decide(&self, go: bool, program: &OsString) -> Result<()> {
        let message = if go { FromHost::Go } else { FromHost::Refuse };
        let sent = self.transport()?.send_to_keeper(message, SEND_LIMIT);
        sent.map_err(|error| lost(program).with_source(error))?;
        if !go {
            return Ok(());
        }
        match self.receive_reply(program)? {
            (FromKeeper::Started, _) => Ok(()),
            (message, _) => Err(not_started(program, message)),
        }
    }

    fn receive_reply(&self, program: &OsString) -> Result<(FromKeeper, Vec<OwnedFd>)> {
        let transport = self.transport()?;
        let deadline = Instant::now() + GATE_LIMIT;
        // The program may have stopped the keeper before it could report that the program is
        // running.
        while !transport.is_readable(RESUME_AFTER) && Instant::now() < deadline {
            self.resume();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        transport.receive_from_keeper(left)?.ok_or_else(|| lost(program))
    }

    /// Returns how the program ended, as far as the keeper reports it within `limit`.
    pub(crate) fn death(&self, limit: Duration) -> Option<Death> {
        match self.transport().ok()?.receive_from_keeper(limit) {
            Ok(Some((FromKeeper::Ended(death), _))) => Some(death),
            _ => None,
        }
    }

    /// Resumes a keeper that was stopped: its tree has the same uid and can send SIGSTOP, which
    /// cannot be blocked.
    pub(crate) fn resume(&self) {
        // The descriptor is that of our own child, created by clone.
        let _ = self.pidfd.send(Signal::CONT);
    }

    /// Asks the keeper to leave the remaining processes running. If it has already exited, there is
    /// nothing to do.
    pub(crate) fn leave(&self) {
        let _ = self
            .transport()
            .and_then(|transport| transport.send_to_keeper(FromHost::Leave, SEND_LIMIT));
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.wait_dead(Duration::ZERO)
    }

    /// Reports whether the keeper exits by itself within `limit`.
    pub(crate) fn wait_dead(&self, limit: Duration) -> bool {
        self.pidfd.wait_dead(limit).unwrap_or(false)
    }

    /// Closes the connection, after which the keeper ends the processes that are left below it, and
    /// exits. It is reaped; a keeper that is still alive after `limit` is returned.
    pub(crate) fn dismiss(mut self, limit: Duration) -> Option<Self> {
        self.transport = None;
        if !limit.is_zero() {
            self.resume();
        }
        if !self.pidfd.wait_dead(limit).unwrap_or(false) {
            return Some(self);
        }
        // An error means that the host reaps its children itself.
        let _ = self.pidfd.child_status(true);
        None
    }

    /// Ends a keeper that does not exit, and reaps it.
    pub(crate) fn kill(self) {
        // The descriptor is that of our own child, created by clone.
        let _ = self.pidfd.send(Signal::KILL);
        let _ = self.pidfd.wait_dead(KILL_LIMIT);
        let _ = self.pidfd.child_status(true);
    }

    fn transport(&self) -> Result<&Transport> {
        self.transport.as_ref().ok_or_else(|| Error::new(Kind::Gone, "the keeper was released"))
    }
}

impl AsFd for KeeperClient {
    /// Returns the keeper's pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Returns which of the standard descriptors the program gets, and those descriptors. Inherited
/// descriptors are the host's own, unless they are closed or close-on-exec.
fn passed_on<'a>(
    descriptors: &[Descriptor; 3],
    sources: &'a Sources,
) -> ([bool; 3], Vec<BorrowedFd<'a>>) {
    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let mut open = [false; 3];
    let mut passed = Vec::with_capacity(3);
    let mut passed_last = None;
    for (target, descriptor) in descriptors.iter().enumerate() {
        let stays =
            |fd| rustix::io::fcntl_getfd(fd).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC));
        let fd = match descriptor {
            Descriptor::Keep => Some(own[target]).filter(|fd| stays(*fd)),
            Descriptor::Copy(_) => sources[target].as_ref().map(AsFd::as_fd),
            Descriptor::Merge => passed_last,
            Descriptor::Close => None,
        };
        open[target] = fd.is_some();
        passed.extend(fd);
        // Standard error comes after standard output, whose copy it may be.
        passed_last = fd;
    }
    (open, passed)
}

fn lost(program: &OsString) -> Error {
    let name = program.display();
    Error::new(
        Kind::NotStarted,
        format!("failed to start `{name}`: its keeper ended before it ran"),
    )
}

fn own_pidfd() -> Result<PidFd> {
    let own = Pid::new(i64::from(std::process::id()));
    let opened = own.map(PidFd::open).transpose()?.flatten();
    opened.ok_or_else(|| Error::new(Kind::Unknown, "this process cannot open a pidfd for itself"))
}

fn not_started(program: &OsString, message: FromKeeper) -> Error {
    match message {
        FromKeeper::Failed { step: 0, errno } if errno != 0 => {
            not_made(errno).with_context(&format!("failed to start `{}`", program.display()))
        }
        FromKeeper::Failed { step, errno } => failure(program, step, errno),
        _ => failure(program, 0, 0),
    }
}
