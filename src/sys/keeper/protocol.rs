//! The messages on the socket between a host and a keeper: frames of 16 bytes, and one spawn
//! request.
//!
//! Both ends run on one machine, so numbers are in its byte order. The keeper sends first. The
//! format of its handshake never changes, so that the host can determine the keeper's version
//! before it reads anything else.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::{Death, EndPlan, ExitStatus, SignalState, spawn::Attributes},
};

/// The version of this protocol. A host uses only a keeper of its own version.
pub(crate) const VERSION: u32 = 4;
pub(super) const FRAME: usize = 16;
pub(super) type Frame = [u8; FRAME];

const MAGIC: [u8; 8] = *b"plkeeper";
/// Maximum length of a request, which contains the arguments and the environment. The kernel limits
/// both (execve(2)), so no host sends more.
const REQUEST_LIMIT: usize = 64 << 20;

/// A message of a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FromKeeper {
    /// The child that waits at the gate. Its pidfd is sent with this message.
    Child(Pid),
    /// The child did not become a program; with the step that it reached, and the errno there.
    Failed { step: u32, errno: i32 },
    /// The program is running.
    Started,
    /// The program has ended.
    Ended(Death),
}

/// A message of a host after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FromHost {
    /// The row is committed.
    Go,
    /// The row will not be committed.
    Refuse,
    /// The remaining processes keep running: end nothing, and exit.
    Leave,
}

/// A program to run below the keeper. The host's pidfd, the program's standard descriptors and its
/// further descriptors are sent with it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpawnRequest {
    pub(crate) program: OsString,
    pub(crate) arg0: Option<OsString>,
    pub(crate) args: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    /// Which of the program's standard descriptors are open.
    pub(crate) open: [bool; 3],
    pub(crate) signals: SignalState,
    /// Numbers of the host's own descriptors that the program gets as well.
    pub(crate) inherited: Vec<i32>,
    /// Whether `LISTEN_PID` is set to the PID that the program gets.
    pub(crate) listens: bool,
    pub(crate) attributes: Attributes,
    pub(crate) params: Params,
}

/// The data that a keeper needs besides the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) token: Uuid,
    pub(crate) grace: Duration,
    pub(crate) end_plan: EndPlan,
    /// The user whose processes may be signalled.
    pub(crate) uid: u32,
    /// Whether the arguments of processes below the keeper may be recorded.
    pub(crate) arguments: bool,
    /// The ledger's real path. The lock files of its instances, and the files that keepers leave
    /// for the next instance, are beside it.
    pub(crate) ledger: PathBuf,
    /// Names of programs that are never ended.
    pub(crate) protected: Vec<OsString>,
}

fn frame(kind: u32, first: i32, second: i32) -> Frame {
    let mut frame = [0; FRAME];
    frame[..4].copy_from_slice(&kind.to_ne_bytes());
    frame[4..8].copy_from_slice(&first.to_ne_bytes());
    frame[8..12].copy_from_slice(&second.to_ne_bytes());
    frame
}

fn fields(frame: &Frame) -> (u32, i32, i32) {
    let four = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
    (u32::from_ne_bytes(four(0)), i32::from_ne_bytes(four(4)), i32::from_ne_bytes(four(8)))
}

fn unknown(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{what} sent a message that cannot be understood"))
}

/// Returns a keeper's first frame.
pub(super) fn handshake(version: u32) -> Frame {
    let mut frame = [0; FRAME];
    frame[..8].copy_from_slice(&MAGIC);
    frame[8..12].copy_from_slice(&version.to_ne_bytes());
    frame
}

/// Returns the version in a handshake; `None` if the frame is not a handshake.
pub(super) fn version_of(frame: &Frame) -> Option<u32> {
    let version = [frame[8], frame[9], frame[10], frame[11]];
    frame.starts_with(&MAGIC).then(|| u32::from_ne_bytes(version))
}

/// Returns the frame that announces a request of this many bytes.
pub(super) fn announce(length: usize) -> Frame {
    let mut frame = [0; FRAME];
    frame[..8].copy_from_slice(&MAGIC);
    frame[8..].copy_from_slice(&(length as u64).to_ne_bytes());
    frame
}

/// Returns the length in bytes of the request that a frame announces.
pub(super) fn announced(frame: &Frame) -> Result<usize> {
    let mut length = [0; 8];
    length.copy_from_slice(&frame[8..]);
    let length = usize::try_from(u64::from_ne_bytes(length)).unwrap_or(usize::MAX);
    if frame.starts_with(&MAGIC) && length <= REQUEST_LIMIT {
        Ok(length)
    } else {
        Err(unknown("the host"))
    }
}

impl FromKeeper {
    pub(super) fn encode(self) -> Frame {
        match self {
            Self::Child(pid) => frame(1, pid.raw(), 0),
            Self::Failed { step, errno } => frame(2, step.cast_signed(), errno),
            Self::Started => frame(3, 0, 0),
            Self::Ended(Death { status, dumped_core }) => match status {
                ExitStatus::Exited(code) => frame(4, 0, code),
                ExitStatus::Signaled(signal) => frame(4, if dumped_core { 3 } else { 1 }, signal),
                ExitStatus::Unobserved => frame(4, 2, 0),
            },
        }
    }

    pub(super) fn decode(frame: &Frame) -> Result<Self> {
        match fields(frame) {
            (1, pid, _) => {
                Pid::new(i64::from(pid)).map(Self::Child).ok_or_else(|| unknown("the keeper"))
            }
            (2, step, errno) => Ok(Self::Failed { step: step.cast_unsigned(), errno }),
            (3, ..) => Ok(Self::Started),
            (4, how @ 0..=3, number) => {
                let status = match how {
                    0 => ExitStatus::Exited(number),
                    2 => ExitStatus::Unobserved,
                    _ => ExitStatus::Signaled(number),
                };
                Ok(Self::Ended(Death { status, dumped_core: how == 3 }))
            }
            _ => Err(unknown("the keeper")),
        }
    }
}

impl FromHost {
    pub(super) fn encode(self) -> Frame {
        match self {
            Self::Go => frame(1, 0, 0),
            Self::Refuse => frame(2, 0, 0),
            Self::Leave => frame(3, 0, 0),
        }
    }

    pub(super) fn decode(frame: &Frame) -> Result<Self> {
        match fields(frame).0 {
            1 => Ok(Self::Go),
            2 => Ok(Self::Refuse),
            3 => Ok(Self::Leave),
            _ => Err(unknown("the host")),
        }
    }
}

impl SpawnRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Params { token, grace, end_plan, uid, arguments, ledger, protected } = &self.params;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(token.as_bytes());
        put_number(&mut bytes, u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX));
        put_number(&mut bytes, u64::from(*uid));
        put_number(&mut bytes, self.signals.ignored);
        put_number(&mut bytes, self.signals.blocked);
        bytes.extend(self.open.map(u8::from));
        let switches = [self.directory.is_some(), *arguments, self.arg0.is_some(), self.listens];
        bytes.extend(switches.map(u8::from));
        let directory = self.directory.iter().map(|path| path.as_os_str().as_bytes());
        let texts = directory.chain([ledger.as_os_str().as_bytes(), self.program.as_bytes()]);
        texts.for_each(|text| put(&mut bytes, text));
        self.arg0.iter().for_each(|text| put(&mut bytes, text.as_bytes()));
        // Neither can have a value that JSON cannot represent.
        put(&mut bytes, &serde_json::to_vec(&self.attributes).unwrap_or_default());
        put(&mut bytes, &serde_json::to_vec(end_plan).unwrap_or_default());
        put_number(&mut bytes, self.inherited.len() as u64);
        for number in &self.inherited {
            put_number(&mut bytes, u64::from(number.cast_unsigned()));
        }
        for list in [&self.args, protected] {
            put_number(&mut bytes, list.len() as u64);
            for text in list {
                put(&mut bytes, text.as_bytes());
            }
        }
        for (key, value) in &self.environment {
            put(&mut bytes, key.as_bytes());
            put(&mut bytes, value.as_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        Self::take(&mut rest).filter(|_| rest.is_empty()).ok_or_else(|| unknown("the host"))
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let token = Uuid::from_slice(take_bytes(rest, 16)?).ok()?;
        let grace = Duration::from_nanos(take_number(rest)?);
        let uid = u32::try_from(take_number(rest)?).ok()?;
        let signals = SignalState { ignored: take_number(rest)?, blocked: take_number(rest)? };
        let switches = take_bytes(rest, 7)?;
        let open = [switches[0] != 0, switches[1] != 0, switches[2] != 0];
        let directory = if switches[3] == 0 { None } else { Some(PathBuf::from(take_text(rest)?)) };
        let arguments = switches[4] != 0;
        let ledger = take_text(rest)?.into();
        let program = take_text(rest)?;
        let zeroth = if switches[5] == 0 { None } else { Some(take_text(rest)?) };
        let attributes = serde_json::from_slice(take_text(rest)?.as_bytes()).ok()?;
        let end_plan = serde_json::from_slice(take_text(rest)?.as_bytes()).ok()?;
        let inherited = (0..take_number(rest)?)
            .map(|_| i32::try_from(take_number(rest)?).ok())
            .collect::<Option<_>>()?;
        let args = take_list(rest)?;
        let protected = take_list(rest)?;
        let mut environment = Vec::new();
        while !rest.is_empty() {
            environment.push((take_text(rest)?, take_text(rest)?));
        }
        let params = Params { token, grace, end_plan, uid, arguments, ledger, protected };
        Some(Self {
            program,
            arg0: zeroth,
            args,
            environment,
            directory,
            open,
            signals,
            inherited,
            listens: switches[6] != 0,
            attributes,
            params,
        })
    }
}

pub(crate) fn put_number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_ne_bytes());
}

pub(crate) fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text);
}

pub(crate) fn take_bytes<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

pub(crate) fn take_number(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(take_bytes(rest, 8)?.try_into().ok()?))
}

pub(crate) fn take_text(rest: &mut &[u8]) -> Option<OsString> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    Some(OsString::from_vec(take_bytes(rest, length)?.to_vec()))
}

fn take_list(rest: &mut &[u8]) -> Option<Vec<OsString>> {
    let count = take_number(rest)?;
    (0..count).map(|_| take_text(rest)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::spawn::{Resource, Rlimit};

    fn text() -> impl Strategy<Value = OsString> {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(OsString::from_vec)
    }

    prop_compose! {
        fn attributes()(
            uid: Option<u32>,
            groups: Option<Vec<u32>>,
            nice: Option<i32>,
            limits in proptest::collection::vec(any::<(Option<u64>, Option<u64>)>(), 0..3),
            fds: Vec<i32>,
        ) -> Attributes {
            let limit = |(soft, hard)| Rlimit { resource: Resource::Nofile, soft, hard };
            let rlimits = limits.into_iter().map(limit).collect();
            Attributes { uid, gid: uid, groups, nice, rlimits, fds, ..Attributes::default() }
        }
    }

    prop_compose! {
        fn request()(
            program in text(),
            arg0 in proptest::option::of(text()),
            args in proptest::collection::vec(text(), 0..5),
            environment in proptest::collection::vec((text(), text()), 0..5),
            directory in proptest::option::of(text()),
            open in any::<[bool; 3]>(),
            (ignored, blocked) in any::<(u64, u64)>(),
            inherited in proptest::collection::vec(0..i32::MAX, 0..3),
            listens: bool,
            attributes in attributes(),
            token in any::<u128>(),
            grace in any::<u64>(),
            stops in proptest::collection::vec((1..=64, 0..1000_u64), 0..3),
            uid in any::<u32>(),
            arguments: bool,
            ledger in text(),
            protected in proptest::collection::vec(text(), 0..3),
        ) -> SpawnRequest {
            SpawnRequest {
                program,
                arg0,
                args,
                environment,
                directory: directory.map(PathBuf::from),
                open,
                signals: SignalState { ignored, blocked },
                inherited,
                listens,
                attributes,
                params: Params {
                    token: Uuid::from_u128(token),
                    grace: Duration::from_nanos(grace),
                    end_plan: EndPlan::new()
                        .stop_signals(stops.into_iter().map(|(signal, wait)| (signal, Duration::from_millis(wait)))),
                    uid,
                    arguments,
                    ledger: ledger.into(),
                    protected,
                },
            }
        }
    }

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(request in request()) {
            prop_assert_eq!(SpawnRequest::decode(&request.encode()).expect("understood"), request);
        }

        #[test]
        fn a_truncated_request_never_names_another_program(
            request in request(),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = request.encode();
            let part = &bytes[..cut.index(bytes.len())];
            if let Ok(understood) = SpawnRequest::decode(part) {
                prop_assert_eq!(understood.program, request.program);
                prop_assert_eq!(understood.args, request.args);
            }
        }

        #[test]
        fn noise_never_panics(bytes: Vec<u8>, frame: Frame) {
            let _ = SpawnRequest::decode(&bytes);
            let _ = FromKeeper::decode(&frame);
            let _ = FromHost::decode(&frame);
            let _ = announced(&frame);
        }
    }

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let pid = Pid::new(7).expect("a pid");
        for message in [
            FromKeeper::Child(pid),
            FromKeeper::Failed { step: 8, errno: 2 },
            FromKeeper::Started,
            FromKeeper::Ended(Death { status: ExitStatus::Exited(255), dumped_core: false }),
            FromKeeper::Ended(Death { status: ExitStatus::Signaled(64), dumped_core: false }),
            FromKeeper::Ended(Death { status: ExitStatus::Signaled(11), dumped_core: true }),
            FromKeeper::Ended(Death { status: ExitStatus::Unobserved, dumped_core: false }),
        ] {
            assert_eq!(FromKeeper::decode(&message.encode()).expect("understood"), message);
        }
        for message in [FromHost::Go, FromHost::Refuse, FromHost::Leave] {
            assert_eq!(FromHost::decode(&message.encode()).expect("understood"), message);
        }
        assert_eq!(version_of(&handshake(9)), Some(9));
        assert_eq!(version_of(&FromKeeper::Started.encode()), None);
        assert_eq!(announced(&announce(70_000)).expect("a length"), 70_000);
        assert!(announced(&announce(usize::MAX)).is_err());
    }
}
