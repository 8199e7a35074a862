//! Attributes that a program does not inherit from its host, like those in `posix_spawnattr_t` of
//! `posix_spawn(3)`.
//!
//! One type is used everywhere: a job has it, the row and `ps --json` show it, a keeper receives
//! it, and the child applies it.

use rustix::{
    process::{getpriority_process, getrlimit},
    thread::{CapabilitySet, capabilities},
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Highest number of supplementary groups (`NGROUPS_MAX` in `linux/limits.h`).
const GROUPS_MAX: usize = 65_536;
/// Maximum number of descriptors that a program can get: one message on a socket carries at most
/// 253 (`SCM_MAX_FD`, unix(7)), of which a keeper needs four.
pub(in crate::sys) const FDS_MAX: usize = 253 - 4;
/// Not an id: chown(2) and setresuid(2) interpret it as "unchanged".
const NO_ID: u32 = u32::MAX;

/// A resource of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Resource {
    /// `RLIMIT_AS`: address space, bytes.
    As,
    /// `RLIMIT_CORE`: size of a core dump, bytes; 0 creates none.
    Core,
    /// `RLIMIT_CPU`: processor time of each process, seconds.
    Cpu,
    /// `RLIMIT_DATA`: data segment, bytes.
    Data,
    /// `RLIMIT_FSIZE`: size of a file that the program writes, bytes.
    Fsize,
    /// `RLIMIT_MEMLOCK`: locked memory, bytes.
    Memlock,
    /// `RLIMIT_MSGQUEUE`: POSIX message queues of the user, bytes.
    Msgqueue,
    /// `RLIMIT_NICE`: 20 minus the lowest nice value that the program may set.
    Nice,
    /// `RLIMIT_NOFILE`: one more than the highest descriptor.
    Nofile,
    /// `RLIMIT_NPROC`: processes of the user.
    Nproc,
    /// `RLIMIT_RTPRIO`: real-time priority.
    Rtprio,
    /// `RLIMIT_RTTIME`: processor time between two blocking calls of a real-time process,
    /// microseconds.
    Rttime,
    /// `RLIMIT_SIGPENDING`: queued signals of the user.
    Sigpending,
    /// `RLIMIT_STACK`: stack of the first thread, bytes.
    Stack,
}

impl Resource {
    fn known(self) -> (rustix::process::Resource, &'static str) {
        use rustix::process::Resource as Known;
        match self {
            Self::As => (Known::As, "RLIMIT_AS"),
            Self::Core => (Known::Core, "RLIMIT_CORE"),
            Self::Cpu => (Known::Cpu, "RLIMIT_CPU"),
            Self::Data => (Known::Data, "RLIMIT_DATA"),
            Self::Fsize => (Known::Fsize, "RLIMIT_FSIZE"),
            Self::Memlock => (Known::Memlock, "RLIMIT_MEMLOCK"),
            Self::Msgqueue => (Known::Msgqueue, "RLIMIT_MSGQUEUE"),
            Self::Nice => (Known::Nice, "RLIMIT_NICE"),
            Self::Nofile => (Known::Nofile, "RLIMIT_NOFILE"),
            Self::Nproc => (Known::Nproc, "RLIMIT_NPROC"),
            Self::Rtprio => (Known::Rtprio, "RLIMIT_RTPRIO"),
            Self::Rttime => (Known::Rttime, "RLIMIT_RTTIME"),
            Self::Sigpending => (Known::Sigpending, "RLIMIT_SIGPENDING"),
            Self::Stack => (Known::Stack, "RLIMIT_STACK"),
        }
    }
}

/// One limit of setrlimit(2), which applies to each process of the tree separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The limited resource, which implies the unit.
    pub resource: Resource,
    /// The limit that the kernel enforces; `None` for no limit.
    pub soft: Option<u64>,
    /// The value up to which the program may raise it; `None` for any value.
    pub hard: Option<u64>,
}

/// Attributes with which a program is started instead of inheriting those of its host. An attribute
/// that is `None` or empty is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Attributes {
    /// Its argument zero as recorded; secrets are masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arg0: Option<String>,
    /// Real, effective and saved user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Real, effective and saved group id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Supplementary groups. If this is `None` but the user is another one, the program has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<u32>>,
    /// File mode creation mask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Nice value, -20 (most favorable) to 19.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// Resource limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Process group that it joins instead of getting a session: 0 for a new group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_group: Option<i32>,
    /// Numbers of the descriptors that it gets besides the standard descriptors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fds: Vec<i32>,
}

impl Attributes {
    /// Returns whether the program inherits everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks everything that can be checked before there is a child.
    ///
    /// # Errors
    ///
    /// Invalid input for a value that is never valid; [`is_denied`](Error::is_denied), with the
    /// errno that the kernel would return, for an action that this process may not perform. In a
    /// user namespace the kernel may refuse more; then the child fails.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_ids()?;
        if let Some(mask) = self.umask.filter(|mask| *mask > 0o777) {
            return Err(Error::invalid(format!(
                "umask {mask:o} (octal) has bits above 777: use 0 to 777"
            )));
        }
        self.nice.map(check_nice).transpose()?;
        self.rlimits.iter().try_for_each(check_rlimit)?;
        if let Some(group) = self.process_group.filter(|group| *group < 0) {
            return Err(Error::invalid(format!(
                "process group {group} is negative: use 0 for a group of its own, or the id of a group"
            )));
        }
        check_fds(&self.fds)
    }

    fn check_ids(&self) -> Result<()> {
        let all = self.uid.iter().chain(&self.gid).chain(self.groups.iter().flatten());
        if all.into_iter().any(|id| *id == NO_ID) {
            return Err(Error::invalid(format!("{NO_ID} is no user or group id: it means none")));
        }
        let count = self.groups.as_ref().map_or(0, Vec::len);
        if count > GROUPS_MAX {
            return Err(Error::invalid(format!(
                "{count} supplementary groups are too many: a process has at most {GROUPS_MAX}"
            )));
        }
        if let Some(uid) = self.uid.filter(|_| self.changes_user()) {
            if self.gid.is_none() {
                let own = rustix::process::getegid().as_raw();
                return Err(Error::invalid(format!(
                    "a program with uid {uid} needs a gid as well: it would keep group {own} of its host"
                )));
            }
            require(CapabilitySet::SETUID, libc::EPERM, || {
                format!("cannot start a program as uid {uid}: CAP_SETUID is missing")
            })?;
        }
        if self.changes_groups() {
            require(CapabilitySet::SETGID, libc::EPERM, || {
                "cannot set the groups of a program: CAP_SETGID is missing".to_owned()
            })?;
        }
        Ok(())
    }

    /// Reports whether the program gets another user than this process.
    pub(super) fn changes_user(&self) -> bool {
        let own = |uid: u32| {
            nix::unistd::getresuid().is_ok_and(|ids| {
                [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == uid)
            })
        };
        self.uid.is_some_and(|uid| !own(uid))
    }

    /// Reports whether the program gets other groups than this process.
    pub(super) fn changes_groups(&self) -> bool {
        let own = |gid: u32| {
            nix::unistd::getresgid().is_ok_and(|ids| {
                [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == gid)
            })
        };
        self.changes_user() || self.groups.is_some() || self.gid.is_some_and(|gid| !own(gid))
    }

    /// Returns the supplementary groups to set: another user must not keep those of root.
    pub(super) fn groups_to_set(&self) -> Option<&[u32]> {
        let none: &[u32] = &[];
        self.groups.as_deref().or_else(|| self.changes_user().then_some(none))
    }

    /// Returns the limits for setrlimit(2): the number of each resource, and its two values.
    pub(super) fn limits_to_set(&self) -> Vec<(usize, [u64; 2])> {
        let value = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let limit =
            |it: &Rlimit| (it.resource.known().0 as usize, [value(it.soft), value(it.hard)]);
        self.rlimits.iter().map(limit).collect()
    }
}

/// Fails if this process lacks a capability.
fn require(capability: CapabilitySet, errno: i32, refusal: impl FnOnce() -> String) -> Result<()> {
    if capabilities(None).is_ok_and(|sets| sets.effective.contains(capability)) {
        return Ok(());
    }
    Err(Error::new(Kind::Denied, refusal()).with_errno(errno))
}

fn check_nice(nice: i32) -> Result<()> {
    if !(-20..=19).contains(&nice) {
        return Err(Error::invalid(format!("nice value {nice} does not exist: use -20 to 19")));
    }
    let own = getpriority_process(None).unwrap_or(0);
    let allowed = getrlimit(rustix::process::Resource::Nice).current.unwrap_or(u64::MAX);
    let needed = u64::try_from(20 - nice).unwrap_or(0);
    if nice >= own || needed <= allowed {
        return Ok(());
    }
    require(CapabilitySet::SYS_NICE, libc::EACCES, || {
        format!(
            "cannot start a program with nice value {nice}, below this process's {own}: CAP_SYS_NICE or RLIMIT_NICE \
             {needed} is missing"
        )
    })
}

fn check_rlimit(limit: &Rlimit) -> Result<()> {
    let (resource, name) = limit.resource.known();
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |it| it.to_string());
    let exceeds = |a: Option<u64>, b: Option<u64>| a.unwrap_or(u64::MAX) > b.unwrap_or(u64::MAX);
    if exceeds(limit.soft, limit.hard) {
        return Err(Error::invalid(format!(
            "{name}: the soft limit {} is above the hard limit {}",
            shown(limit.soft),
            shown(limit.hard)
        )));
    }
    let own = getrlimit(resource).maximum;
    if !exceeds(limit.hard, own) {
        return Ok(());
    }
    require(CapabilitySet::SYS_RESOURCE, libc::EPERM, || {
        format!(
            "cannot start a program with the hard limit {} of {name}, above this process's {}: CAP_SYS_RESOURCE is missing",
            shown(limit.hard),
            shown(own)
        )
    })
}

fn check_fds(fds: &[i32]) -> Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Error::invalid(format!(
            "{} descriptors are too many: a program can get {FDS_MAX}",
            fds.len()
        )));
    }
    let limit = getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    for (at, fd) in fds.iter().enumerate() {
        if (0..=2).contains(fd) {
            return Err(Error::invalid(format!(
                "descriptor {fd} is a standard one: set it with `stdin`, `stdout` or `stderr`"
            )));
        }
        if u64::try_from(*fd).map_or(true, |fd| fd >= limit) {
            return Err(Error::invalid(format!(
                "descriptor {fd} does not exist: use 3 to {} (RLIMIT_NOFILE of this process)",
                limit.saturating_sub(1)
            )));
        }
        if fds[..at].contains(fd) {
            return Err(Error::invalid(format!("descriptor {fd} is given twice")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_are_set_are_written() {
        let json = |it: &Attributes| serde_json::to_string(it).expect("JSON");
        let set = Attributes {
            nice: Some(5),
            rlimits: vec![Rlimit { resource: Resource::Nofile, soft: Some(64), hard: None }],
            ..Attributes::default()
        };
        assert_eq!(json(&Attributes::default()), "{}");
        let text = json(&set);
        assert_eq!(text, r#"{"nice":5,"rlimits":[{"resource":"nofile","soft":64,"hard":null}]}"#);
        assert_eq!(serde_json::from_str::<Attributes>(&text).expect("read"), set);
        // A newer version may write more attributes.
        let newer = r#"{"nice":5,"personality":1}"#;
        assert_eq!(serde_json::from_str::<Attributes>(newer).expect("read").nice, Some(5));
    }

    #[test]
    fn a_value_that_is_never_valid_is_refused() {
        let none = Attributes::default;
        let limit = |soft, hard| Rlimit { resource: Resource::Core, soft, hard };
        let own = rustix::process::geteuid().as_raw();
        let wrong = [
            (Attributes { uid: Some(NO_ID), gid: Some(1), ..none() }, "no user or group id"),
            (Attributes { gid: Some(NO_ID), ..none() }, "no user or group id"),
            (Attributes { groups: Some(vec![1, NO_ID]), ..none() }, "no user or group id"),
            (Attributes { groups: Some(vec![1; GROUPS_MAX + 1]), ..none() }, "too many"),
            (Attributes { uid: Some(own + 1), ..none() }, "needs a gid"),
            (Attributes { umask: Some(0o1000), ..none() }, "umask 1000"),
            (Attributes { nice: Some(20), ..none() }, "nice value 20"),
            (Attributes { nice: Some(-21), ..none() }, "nice value -21"),
            (Attributes { process_group: Some(-1), ..none() }, "negative"),
            (Attributes { rlimits: vec![limit(Some(2), Some(1))], ..none() }, "soft limit 2"),
            (Attributes { rlimits: vec![limit(None, Some(1))], ..none() }, "soft limit unlimited"),
            (Attributes { fds: vec![2], ..none() }, "descriptor 2 is a standard one"),
            (Attributes { fds: vec![-1], ..none() }, "descriptor -1 does not exist"),
            (Attributes { fds: vec![i32::MAX], ..none() }, "does not exist"),
            (Attributes { fds: vec![5, 6, 5], ..none() }, "descriptor 5 is given twice"),
            (Attributes { fds: (3..500).collect(), ..none() }, "too many"),
        ];
        for (attributes, why) in wrong {
            let error = attributes.check().expect_err(why);
            assert!(error.is_invalid_input() && error.to_string().contains(why), "{error}");
        }
        let own = Attributes { uid: Some(own), umask: Some(0o77), fds: vec![3, 9], ..none() };
        own.check().expect("any user may set these");
    }
}
