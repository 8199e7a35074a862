//! The connection between the supervisor and a worker: a packet socket, which is the worker's
//! standard input.
//!
//! A packet is one message, so neither end has to find where a message begins, and the kernel cuts
//! a long one. The end of the connection is the order to stop. The supervisor never waits for it: a
//! worker may hang, and its messages must be checked.

use std::{
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

/// Maximum length of a message: longer than any file name with a letter before it.
const LONGEST: usize = 512;

/// A message of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WorkerReport {
    /// The path to watch was checked and exists: its device answers.
    Found,
    /// The path does not exist. Shows that the worker is alive.
    Missing,
    /// It has checked everything. Shows that the worker is alive.
    Looked,
    /// It begins a pass, which may take as long as the grace periods of the trees that it ends.
    BeginsPass,
    /// It could not do its work; the reason is on its standard error. It waits for a change, or for
    /// the order to stop.
    Failed,
    /// It watches its folder in the supervisor's inotify instance, as this watch.
    Watch(i32),
    /// It could not watch its folder, for this errno, and has to be sent a [`Order::Look`] each
    /// second.
    NoWatch(i32),
    /// A folder's list of ledgers begins.
    ListBegins,
    /// The name of a ledger in it.
    Name(OsString),
    /// The list is complete, except for this number of ledgers beyond the limit.
    ListEnds(u32),
}

/// A message of the supervisor.
#[derive(Debug)]
pub(super) enum Order {
    /// Its inotify instance, if there is one: for a worker that stays the supervisor's own user.
    Inotify(Option<OwnedFd>),
    /// A file of this name was created or removed in the folder.
    Changed(OsString),
    /// Check everything: it is unknown what has changed.
    Look,
}

/// Creates both ends: the supervisor's, and the worker's.
pub(super) fn pair() -> io::Result<(Connection, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Connection(ours), theirs))
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Connection {
    /// Returns the worker's end: its standard input, which must be a packet socket.
    pub(super) fn of_worker() -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&stdin)? != SocketType::SEQPACKET {
            return Err(Errno::PROTOTYPE.into());
        }
        Ok(Self(stdin))
    }

    /// Sends a message to the supervisor. One that only shows that the worker is alive is dropped
    /// if it does not fit: others follow.
    ///
    /// # Errors
    ///
    /// Fails once the supervisor is gone.
    pub(super) fn report(&self, report: &WorkerReport) -> io::Result<()> {
        let wait = match report {
            WorkerReport::Missing | WorkerReport::Looked | WorkerReport::BeginsPass => {
                SendFlags::DONTWAIT
            }
            _ => SendFlags::empty(),
        };
        match self.send(&encode(report), None, wait) {
            Ok(()) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives the next message of the worker, without waiting.
    ///
    /// # Errors
    ///
    /// Fails once the worker has closed its end.
    pub(super) fn receive_report(&self) -> io::Result<Received> {
        match self.receive(RecvFlags::DONTWAIT) {
            Ok((bytes, _)) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((bytes, _)) => Ok(decode(&bytes).map_or(Received::Unknown, Received::Message)),
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends an order without waiting; returns `false` if it does not fit.
    pub(super) fn order(&self, order: &Order) -> bool {
        let (bytes, fd) = match order {
            Order::Inotify(Some(fd)) => (b"i".to_vec(), Some(fd.as_fd())),
            Order::Inotify(None) => (b"-".to_vec(), None),
            Order::Changed(name) => (message(b'n', name.as_bytes()), None),
            Order::Look => (b"l".to_vec(), None),
        };
        // If the worker is gone, the order does not matter.
        self.send(&bytes, fd, SendFlags::DONTWAIT) != Err(Errno::AGAIN)
    }

    /// Waits for the next order; `None` means to stop.
    pub(super) fn next_order(&self) -> Option<Order> {
        loop {
            let (bytes, fd) = self.receive(RecvFlags::empty()).ok()?;
            match bytes.split_first()? {
                (b'i', _) => return Some(Order::Inotify(fd)),
                (b'-', _) => return Some(Order::Inotify(None)),
                (b'n', name) => return Some(Order::Changed(OsString::from_vec(name.to_vec()))),
                (b'l', _) => return Some(Order::Look),
                _ => {}
            }
        }
    }

    fn send(
        &self,
        bytes: &[u8],
        fd: Option<BorrowedFd<'_>>,
        flags: SendFlags,
    ) -> Result<(), Errno> {
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            with.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let bytes = [io::IoSlice::new(bytes)];
        loop {
            match sendmsg(&self.0, &bytes, &mut with, flags | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return sent.map(drop),
            }
        }
    }

    fn receive(&self, flags: RecvFlags) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut buffer = [0; LONGEST];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            match recvmsg(&self.0, &mut [io::IoSliceMut::new(&mut buffer)], &mut with, flags) {
                Err(Errno::INTR) => {}
                received => break received?.bytes,
            }
        };
        let fds = with.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok((buffer[..length].to_vec(), fds.flatten().next()))
    }
}

/// The result of [`Connection::receive_report`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Message(WorkerReport),
    /// A message that is not known.
    Unknown,
    Nothing,
}

fn message(letter: u8, rest: &[u8]) -> Vec<u8> {
    [&[letter][..], rest].concat()
}

fn encode(report: &WorkerReport) -> Vec<u8> {
    match report {
        WorkerReport::Found => message(b'f', b""),
        WorkerReport::Missing => message(b'?', b""),
        WorkerReport::Looked => message(b'.', b""),
        WorkerReport::BeginsPass => message(b'p', b""),
        WorkerReport::Failed => message(b'!', b""),
        WorkerReport::Watch(watch) => message(b'w', &watch.to_ne_bytes()),
        WorkerReport::NoWatch(errno) => message(b'x', &errno.to_ne_bytes()),
        WorkerReport::ListBegins => message(b'[', b""),
        WorkerReport::Name(name) => message(b'+', name.as_bytes()),
        WorkerReport::ListEnds(missing) => message(b']', &missing.to_ne_bytes()),
    }
}

fn decode(bytes: &[u8]) -> Option<WorkerReport> {
    let (letter, rest) = bytes.split_first()?;
    let number = || rest.try_into().ok().map(i32::from_ne_bytes);
    Some(match letter {
        b'f' => WorkerReport::Found,
        b'?' => WorkerReport::Missing,
        b'.' => WorkerReport::Looked,
        b'p' => WorkerReport::BeginsPass,
        b'!' => WorkerReport::Failed,
        b'w' => WorkerReport::Watch(number()?),
        b'x' => WorkerReport::NoWatch(number()?),
        b'[' => WorkerReport::ListBegins,
        b'+' => WorkerReport::Name(file_name(rest)?),
        b']' => WorkerReport::ListEnds(u32::from_ne_bytes(rest.try_into().ok()?)),
        _ => return None,
    })
}

/// Returns a file name, if it does not lead out of its folder.
fn file_name(bytes: &[u8]) -> Option<OsString> {
    let is_name = !bytes.is_empty()
        && bytes.len() <= 255
        && !bytes.contains(&b'/')
        && !bytes.contains(&0)
        && bytes != b"."
        && bytes != b"..";
    is_name.then(|| OsStr::from_bytes(bytes).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> (Connection, Connection) {
        let (ours, theirs) = pair().expect("a pair");
        (ours, Connection(theirs))
    }

    #[test]
    fn messages_of_a_worker_are_received_as_they_were_sent() {
        let (ours, theirs) = both();
        let all = [
            WorkerReport::Found,
            WorkerReport::Missing,
            WorkerReport::Looked,
            WorkerReport::BeginsPass,
            WorkerReport::Failed,
            WorkerReport::Watch(7),
            WorkerReport::NoWatch(libc::EMFILE),
            WorkerReport::ListBegins,
            WorkerReport::Name(OsString::from_vec(b"a\nb\xff.db".to_vec())),
            WorkerReport::ListEnds(3),
        ];
        for report in &all {
            theirs.report(report).expect("reports");
        }
        for report in all {
            assert_eq!(ours.receive_report().expect("a message"), Received::Message(report));
        }
        assert_eq!(ours.receive_report().expect("open"), Received::Nothing);
        drop(theirs);
        assert!(ours.receive_report().is_err());
    }

    #[test]
    fn messages_that_no_worker_sends_are_unknown() {
        let (ours, theirs) = both();
        let long = [b'+'; 4096];
        for bytes in
            [&b"z"[..], b"w12", b"+", b"+../../etc/x.db", b"+.", b"+..", b"+a\0b", b"]", &long]
        {
            theirs.send(bytes, None, SendFlags::empty()).expect("sent");
            assert_eq!(ours.receive_report().expect("open"), Received::Unknown, "{bytes:?}");
        }
    }

    #[test]
    fn a_descriptor_that_a_worker_sends_is_closed() {
        let (ours, theirs) = both();
        let count = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
        let before = count();
        for _ in 0..100 {
            theirs.send(b".", Some(theirs.as_fd()), SendFlags::empty()).expect("sent");
            assert_eq!(
                ours.receive_report().expect("open"),
                Received::Message(WorkerReport::Looked)
            );
        }
        // Other tests of this process open some at the same time.
        assert!(count() < before + 50);
    }

    #[test]
    fn an_order_never_waits_for_a_worker_that_does_not_read() {
        let (ours, theirs) = both();
        let name = || Order::Changed("x".repeat(255).into());
        let given = (0..100_000).take_while(|_| ours.order(&name())).count();
        assert!(given > 1 && given < 100_000, "{given}");
        for _ in 0..given {
            assert!(matches!(theirs.next_order(), Some(Order::Changed(_))));
        }
        drop(ours);
        assert!(theirs.next_order().is_none());
    }
}
