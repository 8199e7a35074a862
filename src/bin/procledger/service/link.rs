//! The line between the supervisor and a worker: a socket of packets, which is the worker's standard input.
//!
//! A packet is one message, so neither end has to find where one begins, and a long one is cut by the kernel. Its end is the
//! order to stop. The supervisor never waits for it: a worker may hang, and what it sends is data to be checked.

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

/// Longer than any name of a file, and a letter before it.
const LONGEST: usize = 512;

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// What it is to watch was looked at and is there: its device answers.
    Found,
    /// It is not there. A sign of life.
    Missing,
    /// It has looked at everything. A sign of life.
    Looked,
    /// It begins a pass, which may take as long as the graces of the trees that it ends.
    BeginsPass,
    /// It could not do its work; why stands on its standard error. It waits for a change, or for the order to stop.
    Failed,
    /// It watches its folder in the supervisor's inotify instance, as this watch.
    Watch(i32),
    /// It could not, for this errno, and has to be sent a [`Order::Look`] each second.
    NoWatch(i32),
    /// A folder's list of ledgers begins.
    ListBegins,
    /// The name of a ledger in it.
    Name(OsString),
    /// The list is complete but for so many that are too many.
    ListEnds(u32),
}

/// What the supervisor says.
#[derive(Debug)]
pub(super) enum Order {
    /// Its inotify instance, where there is one: for a worker that stays the supervisor's own user.
    Inotify(Option<OwnedFd>),
    /// A file of this name was made or removed in the folder.
    Changed(OsString),
    /// Look at everything: what has changed is not known.
    Look,
}

/// Both ends: the supervisor's, and the worker's.
pub(super) fn pair() -> io::Result<(Link, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Link(ours), theirs))
}

/// One end.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// The worker's end: its standard input, which must be a socket of packets.
    pub(super) fn of_worker() -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        if rustix::net::sockopt::socket_type(&stdin)? != SocketType::SEQPACKET {
            return Err(Errno::PROTOTYPE.into());
        }
        Ok(Self(stdin))
    }

    /// Says something to the supervisor. A sign of life that finds no room is left out: there are signs enough.
    ///
    /// # Errors
    ///
    /// Once the supervisor has gone.
    pub(super) fn say(&self, say: &Say) -> io::Result<()> {
        let wait = match say {
            Say::Missing | Say::Looked | Say::BeginsPass => SendFlags::DONTWAIT,
            _ => SendFlags::empty(),
        };
        match self.send(&encode(say), None, wait) {
            Ok(()) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message of the worker, without waiting. `Ok(None)` where there is none yet, or none that is known.
    ///
    /// # Errors
    ///
    /// Once the worker has closed its end.
    pub(super) fn heard(&self) -> io::Result<Heard> {
        match self.receive(RecvFlags::DONTWAIT) {
            Ok((bytes, _)) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((bytes, _)) => Ok(decode(&bytes).map_or(Heard::Unknown, Heard::Said)),
            Err(Errno::AGAIN) => Ok(Heard::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives an order without waiting; `false` where there is no room for it.
    pub(super) fn order(&self, order: &Order) -> bool {
        let (bytes, fd) = match order {
            Order::Inotify(Some(fd)) => (b"i".to_vec(), Some(fd.as_fd())),
            Order::Inotify(None) => (b"-".to_vec(), None),
            Order::Changed(name) => (message(b'n', name.as_bytes()), None),
            Order::Look => (b"l".to_vec(), None),
        };
        // To one that has gone nothing has to be said.
        self.send(&bytes, fd, SendFlags::DONTWAIT) != Err(Errno::AGAIN)
    }

    /// Waits for the next order; `None` is the order to stop.
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

/// What [`Link::heard`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Said(Say),
    /// No message that is known.
    Unknown,
    Nothing,
}

fn message(letter: u8, rest: &[u8]) -> Vec<u8> {
    [&[letter][..], rest].concat()
}

fn encode(say: &Say) -> Vec<u8> {
    match say {
        Say::Found => message(b'f', b""),
        Say::Missing => message(b'?', b""),
        Say::Looked => message(b'.', b""),
        Say::BeginsPass => message(b'p', b""),
        Say::Failed => message(b'!', b""),
        Say::Watch(watch) => message(b'w', &watch.to_ne_bytes()),
        Say::NoWatch(errno) => message(b'x', &errno.to_ne_bytes()),
        Say::ListBegins => message(b'[', b""),
        Say::Name(name) => message(b'+', name.as_bytes()),
        Say::ListEnds(missing) => message(b']', &missing.to_ne_bytes()),
    }
}

fn decode(bytes: &[u8]) -> Option<Say> {
    let (letter, rest) = bytes.split_first()?;
    let number = || rest.try_into().ok().map(i32::from_ne_bytes);
    Some(match letter {
        b'f' => Say::Found,
        b'?' => Say::Missing,
        b'.' => Say::Looked,
        b'p' => Say::BeginsPass,
        b'!' => Say::Failed,
        b'w' => Say::Watch(number()?),
        b'x' => Say::NoWatch(number()?),
        b'[' => Say::ListBegins,
        b'+' => Say::Name(file_name(rest)?),
        b']' => Say::ListEnds(u32::from_ne_bytes(rest.try_into().ok()?)),
        _ => return None,
    })
}

/// A name that stays in its folder.
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

    fn both() -> (Link, Link) {
        let (ours, theirs) = pair().expect("a pair");
        (ours, Link(theirs))
    }

    #[test]
    fn what_a_worker_says_is_heard_as_it_was_meant() {
        let (ours, theirs) = both();
        let all = [
            Say::Found,
            Say::Missing,
            Say::Looked,
            Say::BeginsPass,
            Say::Failed,
            Say::Watch(7),
            Say::NoWatch(libc::EMFILE),
            Say::ListBegins,
            Say::Name(OsString::from_vec(b"a\nb\xff.db".to_vec())),
            Say::ListEnds(3),
        ];
        for say in &all {
            theirs.say(say).expect("said");
        }
        for say in all {
            assert_eq!(ours.heard().expect("a message"), Heard::Said(say));
        }
        assert_eq!(ours.heard().expect("open"), Heard::Nothing);
        drop(theirs);
        assert!(ours.heard().is_err());
    }

    #[test]
    fn what_no_worker_of_ours_says_is_unknown() {
        let (ours, theirs) = both();
        let long = [b'+'; 4096];
        for bytes in
            [&b"z"[..], b"w12", b"+", b"+../../etc/x.db", b"+.", b"+..", b"+a\0b", b"]", &long]
        {
            theirs.send(bytes, None, SendFlags::empty()).expect("sent");
            assert_eq!(ours.heard().expect("open"), Heard::Unknown, "{bytes:?}");
        }
    }

    #[test]
    fn a_descriptor_that_a_worker_sends_is_not_kept() {
        let (ours, theirs) = both();
        let count = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
        let before = count();
        for _ in 0..100 {
            theirs.send(b".", Some(theirs.as_fd()), SendFlags::empty()).expect("sent");
            assert_eq!(ours.heard().expect("open"), Heard::Said(Say::Looked));
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
