//! The kernel's process events connector, which reports every fork and every exit on the machine.
//!
//! A netlink socket of the family `NETLINK_CONNECTOR` that has joined the group `CN_IDX_PROC` and
//! has sent a request to listen receives a datagram for each event (`linux/cn_proc.h`,
//! `linux/connector.h`, `Documentation/driver-api/connector.rst`). Older kernels let only root
//! listen.
//!
//! Events contain pids of the initial PID namespace and times of the initial time namespace, so
//! they are meaningless elsewhere. The kernel does not wait for a slow reader: it drops events, and
//! reports that by `ENOBUFS`. Events of no interest, such as the start and the name of a thread,
//! are dropped by a filter before they wake the reader or take room.

#![expect(unsafe_code, reason = "a socket option without a wrapper")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recvfrom, send, socket_with, sockopt,
    },
};

use super::poll::poll_within;
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
};

/// An event that the kernel reports. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A process (not a thread) was forked.
    Fork { parent: Pid, child: Pid, at: u64 },
    /// A process called exec or setsid, changed its uid, or one of its threads ended, usually the
    /// last one.
    Change { process: Pid },
}

/// `PROC_PID_INIT_INO` and `PROC_TIME_INIT_INO` of `linux/proc_ns.h`: the same on every machine.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
const INITIAL_TIME_NAMESPACE: u64 = 0xEFFF_FFFA;
/// `linux/connector.h`.
const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
/// `linux/cn_proc.h`.
const LISTEN: u32 = 1;
const IGNORE: u32 = 2;
const EVENT_NONE: u32 = 0;
const EVENT_FORK: u32 = 1;
const EVENT_EXEC: u32 = 2;
const EVENT_UID: u32 = 4;
const EVENT_SID: u32 = 0x80;
const EVENT_EXIT: u32 = 0x8000_0000;
/// `struct nlmsghdr`, then `struct cn_msg`, then `struct proc_event`: what, cpu, time, and
/// event-specific data.
const NLMSG_HEADER: usize = 16;
const CN_HEADER: usize = 20;
const EVENT: usize = NLMSG_HEADER + CN_HEADER;
const PAYLOAD: usize = EVENT + 16;
/// Buffer size for one event; so far events have at most 76 bytes.
const DATAGRAM: usize = 512;
/// Instructions of classic BPF (`linux/bpf_common.h`): load a word at an offset, copy it to the
/// register X, jump if the loaded word is equal to a constant or to X, return a length.
const LOAD: u16 = 0x20;
const COPY_TO_X: u16 = 0x07;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_EQUAL_TO_X: u16 = 0x1d;
const RETURN: u16 = 0x06;
/// Size of the socket's buffer: room for some thousand events. An event that does not fit is lost.
const ROOM: usize = 4 << 20;
/// Usually the answer is available as soon as the request was sent; this is the limit for a kernel
/// that behaves otherwise.
const ANSWER: Duration = Duration::from_millis(100);

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Event(Event),
    /// Of no interest here.
    Other,
    /// Nothing more for now.
    Nothing,
    /// Events were dropped before this.
    Lost,
}

/// The content of one datagram.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// The answer to a request to listen, by any process, with an errno.
    Answer(u32),
    Event(Event),
    Other,
}

/// A socket on which the kernel reports forks and exits.
#[derive(Debug)]
pub(crate) struct Connector(OwnedFd);

impl Connector {
    /// Starts listening.
    ///
    /// # Errors
    ///
    /// If the kernel has no connector, refuses, or would report pids of another namespace.
    pub(crate) fn open() -> Result<Self> {
        check_namespaces()?;
        let failed =
            |error: Errno| Error::os("the kernel's process events are not available", error);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::CONNECTOR);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)
            .map_err(failed)?;
        // Only root may exceed the machine's limit; for others the buffer is as large as the limit
        // allows.
        if sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, ROOM).map_err(failed)?;
        }
        // Without it, events of no interest are read and ignored.
        if let Err(error) = attach_filter(&socket) {
            tracing::debug!("the kernel's process events cannot be filtered: {error}");
        }
        bind(&socket, &SocketAddrNetlink::new(0, CN_IDX_PROC)).map_err(failed)?;
        send(&socket, &request(LISTEN), SendFlags::empty()).map_err(failed)?;
        let connector = Self(socket);
        connector.await_answer()?;
        Ok(connector)
    }

    /// Waits for the answer. A request from a user or PID namespace other than the initial one is
    /// not answered.
    fn await_answer(&self) -> Result<()> {
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.receive() {
                Ok(Some(Message::Answer(0))) => return Ok(()),
                Ok(Some(Message::Answer(errno))) => {
                    let errno = Errno::from_raw_os_error(i32::try_from(errno).unwrap_or(0));
                    return Err(Error::os("the kernel refuses to report forks", errno));
                }
                Ok(Some(_)) | Err(Errno::NOBUFS) => {}
                Ok(None) if Instant::now() < deadline => {
                    let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
                    let left = deadline.saturating_duration_since(Instant::now());
                    let _ = poll_within(&mut fds, Some(left));
                }
                Ok(None) => {
                    return Err(Error::new(Kind::Unsupported, "the kernel does not answer"));
                }
                Err(error) => {
                    return Err(Error::os("the kernel's process events cannot be read", error));
                }
            }
        }
    }

    /// Reads the next message; never waits.
    ///
    /// # Errors
    ///
    /// Errors of `recvfrom(2)` after which no more events can be expected.
    pub(crate) fn read(&self) -> Result<Reading> {
        match self.receive() {
            Ok(None) => Ok(Reading::Nothing),
            Ok(Some(Message::Event(event))) => Ok(Reading::Event(event)),
            Ok(Some(_)) => Ok(Reading::Other),
            Err(Errno::NOBUFS) => Ok(Reading::Lost),
            Err(error) => Err(Error::os("the kernel's process events cannot be read", error)),
        }
    }

    fn receive(&self) -> std::result::Result<Option<Message>, Errno> {
        let mut room = [MaybeUninit::<u8>::uninit(); DATAGRAM];
        loop {
            return match recvfrom(&self.0, &mut room, RecvFlags::empty()) {
                Ok(((bytes, _), _, sender)) => {
                    // Only the kernel has the port 0.
                    let sender = sender.and_then(|any| SocketAddrNetlink::try_from(any).ok());
                    let known = sender.is_some_and(|sender| sender.pid() == 0);
                    Ok(Some(if known { parse(bytes) } else { Message::Other }))
                }
                Err(Errno::AGAIN) => Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error),
            };
        }
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Connector {
    /// Stops listening explicitly: on older kernels, closing the socket alone does not reduce the
    /// number of listeners.
    fn drop(&mut self) {
        let _ = send(&self.0, &request(IGNORE), SendFlags::empty());
    }
}

fn check_namespaces() -> Result<()> {
    let inode = |name: &str| std::fs::metadata(format!("/proc/self/ns/{name}")).map(|at| at.ino());
    let initial = inode("pid").is_ok_and(|inode| inode == INITIAL_PID_NAMESPACE)
        // Before Linux 5.6 there is only one.
        && inode("time").map_or(true, |inode| inode == INITIAL_TIME_NAMESPACE);
    if initial {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        "the kernel reports forks with pids of the initial PID namespace, and this is another one",
    ))
}

/// Makes the kernel discard the events that [`parsed`] ignores (`SO_ATTACH_FILTER` in socket(7)).
fn attach_filter(socket: &OwnedFd) -> io::Result<()> {
    let mut steps = filter();
    let length = libc::c_ushort::try_from(steps.len()).unwrap_or(0);
    let program = libc::sock_fprog { len: length, filter: steps.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).unwrap_or(0);
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the kernel reads `len` instructions at `filter`, which outlive the call, and copies
    // them.
    let result = unsafe {
        let program = (&raw const program).cast();
        libc::setsockopt(socket.as_raw_fd(), level, option, program, size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns a program that decides about each datagram: it returns how much of it the kernel queues.
/// A load beyond its end discards it.
fn filter() -> [libc::sock_filter; 13] {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let load = |at: usize| step(LOAD, u32::try_from(at).unwrap_or(u32::MAX), 0, 0);
    // A word is loaded in network byte order. A jump skips the given number of steps, depending on
    // whether the words are equal.
    let jump = |word: u32, equal, unequal| step(JUMP_IF_EQUAL, word.to_be(), equal, unequal);
    [
        load(EVENT),
        jump(EVENT_NONE, 10, 0),
        jump(EVENT_EXEC, 9, 0),
        jump(EVENT_UID, 8, 0),
        jump(EVENT_SID, 7, 0),
        jump(EVENT_EXIT, 6, 0),
        jump(EVENT_FORK, 0, 4),
        // A thread is a child whose own id is not that of its process.
        load(PAYLOAD + 8),
        step(COPY_TO_X, 0, 0, 0),
        load(PAYLOAD + 12),
        step(JUMP_IF_EQUAL_TO_X, 0, 1, 0),
        step(RETURN, 0, 0, 0),
        step(RETURN, u32::MAX, 0, 0),
    ]
}

fn request(operation: u32) -> Vec<u8> {
    let length = u32::try_from(EVENT + size_of::<u32>()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(EVENT + size_of::<u32>());
    // struct nlmsghdr: length, type NLMSG_DONE and no flags, number, sender.
    for word in [length, 3, 0, 0] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    // struct cn_msg: id, numbers, the length of what follows, flags.
    for word in [CN_IDX_PROC, CN_VAL_PROC, 0, 0] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&4_u16.to_ne_bytes());
    bytes.extend_from_slice(&0_u16.to_ne_bytes());
    bytes.extend_from_slice(&operation.to_ne_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Message {
    parsed(bytes).unwrap_or(Message::Other)
}

fn parsed(bytes: &[u8]) -> Option<Message> {
    let is_process_event =
        word(bytes, NLMSG_HEADER)? == CN_IDX_PROC && word(bytes, NLMSG_HEADER + 4)? == CN_VAL_PROC;
    if !is_process_event {
        return None;
    }
    let pid = |at: usize| Pid::new(i64::from(word(bytes, PAYLOAD + at)?));
    match word(bytes, EVENT)? {
        EVENT_NONE => Some(Message::Answer(word(bytes, PAYLOAD)?)),
        // Thread and process of the parent, thread and process of the child.
        EVENT_FORK => {
            let (parent, thread, child) = (pid(4)?, pid(8)?, pid(12)?);
            let at = u64::from_ne_bytes(bytes.get(EVENT + 8..PAYLOAD)?.try_into().ok()?);
            (thread == child).then_some(Message::Event(Event::Fork { parent, child, at }))
        }
        // Thread and process.
        EVENT_EXEC | EVENT_UID | EVENT_SID | EVENT_EXIT => {
            Some(Message::Event(Event::Change { process: pid(4)? }))
        }
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(all(test, target_endian = "little"))]
mod captured {
    use super::*;

    // As sent by Linux 6.18 on x86_64.
    const ANSWER: &str = "4c00000003000000dbd31300000000000100000001000000dbd3130001000000280000000000000001000000b81bdeb974100000000000000000000000000000000000000000000000000000";
    const FORK: &str = "4c00000003000000dcd31300000000000100000001000000dcd31300000000002800000001000000010000002627dfb974100000fc0e0000fc0e00005d0f00005d0f00000000000000000000";
    const EXEC: &str = "4c00000003000000ddd31300000000000100000001000000ddd31300000000002800000002000000010000004709e3b9741000005d0f00005d0f000000000000000000000000000000000000";
    const EXIT: &str = "4c00000003000000ded31300000000000100000001000000ded3130000000000280000000000008001000000304ceeb9741000005d0f00005d0f00000000000011000000fc0e0000fc0e0000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(digits).collect()
    }

    fn pid(number: i64) -> Pid {
        Pid::new(number).expect("a pid")
    }

    #[test]
    fn captured_messages_of_the_kernel_are_parsed() {
        let at = 0x1074_b9df_2726;
        assert_eq!(parse(&bytes(ANSWER)), Message::Answer(0));
        assert_eq!(
            parse(&bytes(FORK)),
            Message::Event(Event::Fork { parent: pid(0xefc), child: pid(0xf5d), at })
        );
        let change = Message::Event(Event::Change { process: pid(0xf5d) });
        assert_eq!(
            (parse(&bytes(EXEC)), parse(&bytes(EXIT))),
            (Message::Event(Event::Change { process: pid(0xf5d) }), change)
        );
    }

    /// The event is like that of an exec, followed by the ids.
    #[test]
    fn a_change_of_the_uid_is_a_change() {
        let mut uid = bytes(EXEC);
        uid[EVENT..EVENT + 4].copy_from_slice(&EVENT_UID.to_ne_bytes());
        assert_eq!(parse(&uid), Message::Event(Event::Change { process: pid(0xf5d) }));
    }

    #[test]
    fn a_thread_is_not_a_child() {
        let mut thread = bytes(FORK);
        thread[PAYLOAD + 12..PAYLOAD + 16].copy_from_slice(&0xefc_u32.to_ne_bytes());
        assert_eq!(parse(&thread), Message::Other);
    }

    #[test]
    fn a_truncated_or_foreign_message_is_ignored() {
        let fork = bytes(FORK);
        for length in 0..PAYLOAD + 16 {
            assert_eq!(parse(&fork[..length]), Message::Other, "{length}");
        }
        let mut other = fork;
        other[NLMSG_HEADER] = 2;
        assert_eq!(parse(&other), Message::Other);
    }

    #[test]
    fn a_request_has_the_length_that_it_names() {
        let request = request(LISTEN);
        assert_eq!(word(&request, 0), u32::try_from(request.len()).ok());
        assert_eq!(request.len(), 40);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child of a test, which waits for it")]
    fn a_thread_and_its_name_are_filtered_and_a_child_is_reported() {
        // If there is no connector, `doctor` reports that, and there is nothing to test here.
        let Ok(connector) = Connector::open() else { return };
        let thread = std::thread::Builder::new().name("filtered".into());
        thread.spawn(|| ()).expect("a thread").join().expect("it ends");
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        let is_it = |event: &Event| matches!(event, Event::Fork { child: new, .. } if new.get() == child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match connector.receive() {
                Ok(Some(Message::Event(event))) if is_it(&event) => break,
                Ok(Some(Message::Other)) => panic!("an event of no interest was delivered"),
                Ok(_) => assert!(Instant::now() < deadline, "the fork was not reported"),
                Err(error) => panic!("{error}"),
            }
        }
        child.wait().expect("it ends");
    }

    #[test]
    fn dropped_events_are_reported_as_lost() {
        // If there is no connector, `doctor` reports that, and there is nothing to test here.
        let Ok(connector) = Connector::open() else { return };
        // The kernel rounds this up to its minimum, which fits a few events.
        sockopt::set_socket_recv_buffer_size(&connector.0, 1).expect("a small room");
        // A thread's start and end are events as well.
        for _ in 0..100 {
            std::thread::spawn(|| ()).join().expect("a thread");
        }
        let read: Vec<Reading> = std::iter::from_fn(|| connector.read().ok())
            .take_while(|next| *next != Reading::Nothing)
            .collect();
        assert!(read.contains(&Reading::Lost), "{read:?}");
    }
}
