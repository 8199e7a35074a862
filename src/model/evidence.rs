//! Evidence that links a process to its root.
//!
//! The ledger stores it twice: as a text with details, and as a key. Rows of older versions have
//! only the text.

use std::fmt;

use super::stored_enums::string_enum;
use crate::identity::Pid;

string_enum! {
    /// Identifies a kind of evidence in the ledger, whatever the details in its text.
    pub EvidenceKey {
        /// It was the root itself.
        Identity = "identity",
        /// It was in the cgroup of its task.
        Cgroup = "cgroup",
        /// It was in the session of its root.
        Session = "session",
        /// It was in the foreground process group of its root.
        ProcessGroup = "process_group",
        /// It was a child of a member.
        Child = "child",
        /// It was a descendant of its root's keeper.
        Keeper = "keeper",
        /// It carried the token of its root.
        Token = "token",
        /// An earlier pass had recorded it.
        Recorded = "recorded",
        /// The kernel reported that a member had forked it.
        ForkEvent = "fork_event",
        /// The kernel counted out-of-memory kills in its cgroup.
        OomKills = "oom_kills",
        /// Its name alone; recorded by versions before 0.2.
        Name = "name",
        /// Evidence that this version does not know.
        Other = "other",
    }
}

impl EvidenceKey {
    /// Returns the key that a text implies, for rows of versions that recorded no keys.
    pub(crate) fn of_text(text: &str) -> Self {
        let plain = [
            Evidence::Root,
            Evidence::TaskCgroup,
            Evidence::Session,
            Evidence::Group,
            Evidence::Keeper,
            Evidence::Token,
            Evidence::Recorded,
            Evidence::ForkEvent,
        ];
        match plain.into_iter().find(|evidence| evidence.to_string() == text) {
            Some(evidence) => evidence.key(),
            None if text == "name" => Self::Name,
            None if text.starts_with("child of ") => Self::Child,
            None if text.starts_with("oom_kill ") => Self::OomKills,
            None => Self::Other,
        }
    }
}

/// The evidence that links a process to a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// It is the root.
    Root,
    /// It is in the cgroup that was created for the root.
    TaskCgroup,
    /// It is in the session that the gate created for the root.
    Session,
    /// It is in the foreground process group that the gate created for the root.
    Group,
    /// Its parent is a member.
    ChildOf(Pid),
    /// It was orphaned below the keeper that the gate started for the root.
    Keeper,
    /// It carries the root's token.
    Token,
    /// An earlier pass recorded it below the root.
    Recorded,
    /// The kernel reported that it was forked by a member.
    ForkEvent,
    /// The kernel counted this many out-of-memory kills in its cgroup; not used for members.
    OomKills(u64),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("identity"),
            Self::TaskCgroup => f.write_str("cgroup"),
            Self::Session => f.write_str("session"),
            Self::Group => f.write_str("process group"),
            Self::ChildOf(parent) => write!(f, "child of {parent}"),
            Self::Keeper => f.write_str("below its keeper"),
            Self::Token => f.write_str("token"),
            Self::Recorded => f.write_str("recorded descendant"),
            Self::ForkEvent => f.write_str("forked below it, as the kernel reported"),
            Self::OomKills(kills) => {
                write!(f, "oom_kill {kills} in its cgroup's memory.events")
            }
        }
    }
}

impl Evidence {
    /// Returns the key for the ledger, which counts by it.
    pub(crate) fn key(self) -> EvidenceKey {
        match self {
            Self::Root => EvidenceKey::Identity,
            Self::TaskCgroup => EvidenceKey::Cgroup,
            Self::Session => EvidenceKey::Session,
            Self::Group => EvidenceKey::ProcessGroup,
            Self::ChildOf(_) => EvidenceKey::Child,
            Self::Keeper => EvidenceKey::Keeper,
            Self::Token => EvidenceKey::Token,
            Self::Recorded => EvidenceKey::Recorded,
            Self::ForkEvent => EvidenceKey::ForkEvent,
            Self::OomKills(_) => EvidenceKey::OomKills,
        }
    }

    /// Returns the evidence as two numbers, for the file that a keeper leaves.
    pub(crate) fn code(self) -> (u8, u32) {
        match self {
            Self::Root => (1, 0),
            Self::TaskCgroup => (2, 0),
            Self::Session => (3, 0),
            Self::Group => (4, 0),
            Self::ChildOf(parent) => (5, parent.get()),
            Self::Keeper => (6, 0),
            Self::Token => (7, 0),
            Self::Recorded => (8, 0),
            Self::ForkEvent => (9, 0),
            Self::OomKills(kills) => (10, u32::try_from(kills).unwrap_or(u32::MAX)),
        }
    }

    /// Returns the evidence with this code; `None` if there is none.
    pub(crate) fn from_code(code: u8, pid: Option<Pid>) -> Option<Self> {
        Some(match code {
            1 => Self::Root,
            2 => Self::TaskCgroup,
            3 => Self::Session,
            4 => Self::Group,
            5 => Self::ChildOf(pid?),
            6 => Self::Keeper,
            7 => Self::Token,
            8 => Self::Recorded,
            9 => Self::ForkEvent,
            _ => return None,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Evidence with every key that this version records.
    pub(crate) fn all() -> [Evidence; 10] {
        [
            Evidence::Root,
            Evidence::TaskCgroup,
            Evidence::Session,
            Evidence::Group,
            Evidence::ChildOf(Pid::new(12).expect("a pid")),
            Evidence::Keeper,
            Evidence::Token,
            Evidence::Recorded,
            Evidence::ForkEvent,
            Evidence::OomKills(2),
        ]
    }

    #[test]
    fn each_key_is_distinct_round_trips_and_follows_from_its_text() {
        for key in EvidenceKey::ALL {
            assert_eq!(EvidenceKey::parse(key.as_str()), Some(*key));
        }
        for evidence in all() {
            assert_eq!(EvidenceKey::of_text(&evidence.to_string()), evidence.key(), "{evidence}");
        }
        let keys: HashSet<&str> = all().iter().map(|evidence| evidence.key().as_str()).collect();
        assert_eq!(keys.len(), EvidenceKey::ALL.len() - 2, "each key but `name` and `other`");
        assert_eq!(EvidenceKey::of_text("a hunch"), EvidenceKey::Other);
    }
}
