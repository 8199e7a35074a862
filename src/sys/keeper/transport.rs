//! The socket between a host and a keeper. It transports whole frames and descriptors, with time
//! limits and without SIGPIPE.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

use super::protocol::{FRAME, Frame, FromHost, FromKeeper, SpawnRequest, announce, announced};
use crate::{
    error::{Error, Kind, Result},
    sys::{poll::poll_within, spawn::FDS_MAX},
};

/// Maximum number of descriptors with one frame: the host's pidfd, three standard descriptors, and
/// the further ones.
const RIGHTS: usize = 4 + FDS_MAX;

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Transport(OwnedFd);

impl Transport {
    /// Creates both ends.
    pub(super) fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| Error::os("failed to create a socket to a keeper", error))?;
        Ok((Self(ours), theirs))
    }

    pub(super) fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn send_to_host(
        &self,
        message: FromKeeper,
        pidfd: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<()> {
        self.send(&message.encode(), pidfd, limit)
    }

    pub(crate) fn send_to_keeper(&self, message: FromHost, limit: Duration) -> Result<()> {
        self.send(&message.encode(), &[], limit)
    }

    pub(super) fn send_request(
        &self,
        request: &SpawnRequest,
        rights: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<()> {
        let bytes = request.encode();
        let (first, more) = rights.split_at(rights.len().min(RIGHTS));
        self.send(&announce(bytes.len()), first, limit)?;
        let mut bytes = bytes.as_slice();
        // Each of these messages carries one byte of the request, which is longer than the list of
        // descriptors in it.
        for some in more.chunks(RIGHTS) {
            let (byte, rest) = bytes.split_at(1);
            self.send(byte, some, limit)?;
            bytes = rest;
        }
        self.send(bytes, &[], limit)
    }

    /// Receives the request and the descriptors that were sent with it.
    pub(super) fn receive_request(&self, limit: Duration) -> Result<(SpawnRequest, Vec<OwnedFd>)> {
        let mut rights = Vec::new();
        let frame = self.receive(&mut rights, limit)?.ok_or_else(closed)?;
        let mut bytes = vec![0; announced(&frame)?];
        if !self.fill(&mut bytes, &mut rights, limit)? {
            return Err(closed());
        }
        Ok((SpawnRequest::decode(&bytes)?, rights))
    }

    /// Receives a message of the host; `None` if the host is gone.
    pub(crate) fn receive_from_host(&self, limit: Duration) -> Result<Option<FromHost>> {
        let frame = self.receive(&mut Vec::new(), limit)?;
        frame.map(|frame| FromHost::decode(&frame)).transpose()
    }

    /// Receives a message of the keeper, and the descriptors that were sent with it; `None` if the
    /// keeper is gone.
    pub(super) fn receive_from_keeper(
        &self,
        limit: Duration,
    ) -> Result<Option<(FromKeeper, Vec<OwnedFd>)>> {
        let mut rights = Vec::new();
        let Some(frame) = self.receive(&mut rights, limit)? else { return Ok(None) };
        Ok(Some((FromKeeper::decode(&frame)?, rights)))
    }

    /// Returns whether data, or the end of the stream, can be read within `limit`.
    pub(super) fn is_readable(&self, limit: Duration) -> bool {
        self.wait(PollFlags::IN, Instant::now() + limit).is_ok()
    }

    /// Receives a whole frame; `None` at the end of the stream.
    pub(super) fn receive(
        &self,
        rights: &mut Vec<OwnedFd>,
        limit: Duration,
    ) -> Result<Option<Frame>> {
        let mut frame = [0; FRAME];
        Ok(self.fill(&mut frame, rights, limit)?.then_some(frame))
    }

    pub(super) fn send(
        &self,
        mut bytes: &[u8],
        rights: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<()> {
        let failed = |error| Error::os("failed to write to a keeper's socket", error);
        let deadline = Instant::now() + limit;
        let mut rights = rights;
        while !bytes.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RIGHTS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !rights.is_empty() && !control.push(SendAncillaryMessage::ScmRights(rights)) {
                return Err(Error::new(Kind::Other, "too many descriptors for one message"));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    rights = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Fills the buffer; returns `false` if the other end is closed.
    fn fill(&self, buffer: &mut [u8], rights: &mut Vec<OwnedFd>, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let mut filled = 0;
        while filled < buffer.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RIGHTS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let mut parts = [IoSliceMut::new(&mut buffer[filled..])];
            match recvmsg(&self.0, &mut parts, &mut control, flags) {
                // The connection is reset if a keeper is killed before it has read everything.
                Ok(message) if message.bytes == 0 => return Ok(false),
                Err(Errno::CONNRESET) => return Ok(false),
                Ok(message) => filled += message.bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(error) => {
                    return Err(Error::os("failed to read from a keeper's socket", error));
                }
            }
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    rights.extend(received);
                }
            }
        }
        Ok(true)
    }

    fn wait(&self, events: PollFlags, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&self.0, events)];
        match poll_within(&mut fds, Some(left)) {
            Ok(0) => {
                Err(Error::new(Kind::Busy, "the other end of a keeper's socket does not answer"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(Error::os("failed to poll a keeper's socket", error)),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn closed() -> Error {
    Error::new(Kind::Gone, "the other end of a keeper's socket is closed")
}
