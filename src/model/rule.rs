//! Rules: why a process was ended or left running.
//!
//! The ledger stores each rule twice: as a sentence with details, for reading, and as a key, for
//! counting.

use std::{fmt, time::Duration};

use super::stored_enums::string_enum;
use crate::identity::Pid;

string_enum! {
    /// Identifies a rule in the ledger, whatever the details in its sentence.
    pub RuleKey {
        /// Its instance was dead.
        InstanceDead = "instance_dead",
        /// Its instance was ended by an exec of its program.
        InstanceReplaced = "instance_replaced",
        /// Its machine was restarted, or its PID namespace is gone.
        PlaceGone = "place_gone",
        /// The caller of its instance had ended.
        CallerEnded = "caller_ended",
        /// Its root had ended.
        RootEnded = "root_ended",
        /// Its root had ended, and its keeper ended it.
        KeeperEndedStray = "keeper_ended_stray",
        /// Its instance died, and its keeper ended it.
        KeeperEnded = "keeper_ended",
        /// Its instance died, and its keeper could not end it.
        KeeperFailed = "keeper_failed",
        /// Its instance died, and its keeper was ending it when the keeper was killed.
        KeeperKilled = "keeper_killed",
        /// It had survived an earlier attempt.
        SurvivedBefore = "survived_before",
        /// Its owner asked.
        OwnerAsked = "owner_asked",
        /// Its owner shut down.
        OwnerShutDown = "owner_shut_down",
        /// Its handle was dropped.
        HandleDropped = "handle_dropped",
        /// A person asked.
        PersonAsked = "person_asked",
        /// It ran longer than its limit.
        MaxRuntime = "max_runtime",
        /// Its tree used more memory than its limit.
        MaxRss = "max_rss",
        /// The kernel ran out of memory.
        OutOfMemory = "out_of_memory",
        /// The kernel enforced the memory limit of its cgroup.
        CgroupLimit = "cgroup_limit",
        /// It was not there any more.
        Gone = "gone",
        /// It was not registered, and has a configured name.
        NameMatch = "name_match",
        /// It was in a list of the former implementation.
        Imported = "imported",
        /// Left running: it was left when its tree was ended before.
        LeftBefore = "left_before",
        /// Left running: its job keeps what its root leaves.
        KeepsStrays = "keeps_strays",
        /// Left running: its program, or that of a process above it, has a protected name.
        Protected = "protected",
        /// A rule that this version does not know.
        Other = "other",
    }
}

/// The sentences with details, for which `*` stands. The first match counts. The first pattern was
/// recorded by versions before 0.2.
const SENTENCES: [(RuleKey, &str); 13] = [
    (RuleKey::NameMatch, "its name is configured, and *"),
    (RuleKey::PersonAsked, "asked by *"),
    (RuleKey::CallerEnded, "its caller * has ended"),
    (RuleKey::Imported, "the former processor left it; *"),
    (RuleKey::MaxRuntime, "ran for *, longer than its limit of *"),
    (RuleKey::MaxRss, "its tree used *, more than its limit of *"),
    (RuleKey::CgroupLimit, "the kernel enforced its memory limit of * bytes"),
    (RuleKey::LeftBefore, "it is below process *: it was left before"),
    (RuleKey::KeepsStrays, "it is below process *: its job keeps its strays"),
    (RuleKey::Protected, "*, which is protected"),
    (RuleKey::NameMatch, "executable is named *"),
    (RuleKey::NameMatch, "argv[0] is named *"),
    (RuleKey::NameMatch, "script is named *"),
];

impl RuleKey {
    /// Returns the key that a sentence implies, for rows of versions that recorded no keys.
    pub(crate) fn of_sentence(sentence: &str) -> Self {
        let plain = Self::ALL.iter().find(|key| key.sentence() == sentence);
        let fits = |(key, pattern): &(Self, &str)| fits(pattern, sentence).then_some(*key);
        plain.copied().or_else(|| SENTENCES.iter().find_map(fits)).unwrap_or(Self::Other)
    }

    /// Returns the rule as a sentence without details.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::InstanceDead => "its instance is dead",
            Self::InstanceReplaced => "its instance was ended by an exec of its program",
            Self::PlaceGone => "its machine was restarted, or its PID namespace is gone",
            Self::CallerEnded => "its caller has ended",
            Self::RootEnded => "its root had ended",
            Self::KeeperEndedStray => "its root had ended, and its keeper ended it",
            Self::KeeperEnded => "its instance died, and its keeper ended it",
            Self::KeeperFailed => "its instance died, and its keeper could not end it",
            Self::KeeperKilled => {
                "its instance died, and its keeper was ending it when that was killed"
            }
            Self::SurvivedBefore => "it had survived an earlier attempt",
            Self::OwnerAsked => "its owner asked",
            Self::OwnerShutDown => "its owner shut down",
            Self::HandleDropped => "its handle was dropped",
            Self::PersonAsked => "a person asked",
            Self::MaxRuntime => "ran longer than its limit",
            Self::MaxRss => "its tree used more memory than its limit",
            Self::OutOfMemory => "the kernel ran out of memory",
            Self::CgroupLimit => "the kernel enforced its memory limit",
            Self::Gone => "it is not there any more",
            Self::NameMatch => "its program has a configured name",
            Self::Imported => "the former processor left it",
            Self::LeftBefore => "it was left before",
            Self::KeepsStrays => "its job keeps its strays",
            Self::Protected => "its program is protected",
            Self::Other => "another rule",
        }
    }
}

/// Reports whether a text matches a pattern, in which each `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text.strip_prefix(before).is_some_and(|text| {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|at| fits(rest, &text[at..]))
        }),
    }
}

/// The part of a program that has a configured name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) part: &'static str,
    pub(crate) name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is named {}", self.part, self.name)
    }
}

/// Why a process is left running on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpareReason {
    /// It was left running when the tree was ended before: no instance is responsible for it any
    /// more.
    LeftBefore,
    /// Its job keeps what its root leaves.
    KeepsStrays,
    /// Its name is protected.
    Protected(Named),
    /// It is a descendant of a process that is left running.
    Below(Pid, Box<SpareReason>),
}

impl SpareReason {
    fn key(&self) -> RuleKey {
        match self {
            Self::LeftBefore => RuleKey::LeftBefore,
            Self::KeepsStrays => RuleKey::KeepsStrays,
            Self::Protected(_) => RuleKey::Protected,
            Self::Below(_, why) => why.key(),
        }
    }
}

impl fmt::Display for SpareReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftBefore | Self::KeepsStrays => f.write_str(self.key().sentence()),
            Self::Protected(named) => write!(f, "its {named}, which is protected"),
            Self::Below(pid, why) => write!(f, "it is below process {pid}: {why}"),
        }
    }
}

/// Why a process was ended, with details. [`Display`](fmt::Display) formats the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A rule without details, whose sentence is that of its key.
    Plain(RuleKey),
    /// The caller of its instance, as it was recorded, has ended.
    CallerEnded(String),
    /// This person asked.
    PersonAsked(String),
    MaxRuntime {
        age: Duration,
        limit: Duration,
    },
    /// All in bytes: `used` counts shared pages once, `resident` counts them in each process.
    MaxRss {
        used: u64,
        resident: u64,
        limit: u64,
    },
    /// The kernel enforced this limit, in bytes.
    CgroupLimit(u64),
    NameMatch(Named),
    Imported(Named),
    Spared(SpareReason),
}

impl Rule {
    /// Returns the key for the ledger, which counts by it.
    pub(crate) fn key(&self) -> RuleKey {
        match self {
            Self::Plain(key) => *key,
            Self::CallerEnded(_) => RuleKey::CallerEnded,
            Self::PersonAsked(_) => RuleKey::PersonAsked,
            Self::MaxRuntime { .. } => RuleKey::MaxRuntime,
            Self::MaxRss { .. } => RuleKey::MaxRss,
            Self::CgroupLimit(_) => RuleKey::CgroupLimit,
            Self::NameMatch(_) => RuleKey::NameMatch,
            Self::Imported(_) => RuleKey::Imported,
            Self::Spared(why) => why.key(),
        }
    }
}

impl From<RuleKey> for Rule {
    fn from(key: RuleKey) -> Self {
        Self::Plain(key)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(key) => f.write_str(key.sentence()),
            Self::CallerEnded(caller) => write!(f, "its caller {caller} has ended"),
            Self::PersonAsked(person) => write!(f, "asked by {person}"),
            Self::MaxRuntime { age, limit } => {
                write!(f, "ran for {age:.1?}, longer than its limit of {limit:.1?}")
            }
            Self::MaxRss { used, resident, limit } => write!(
                f,
                "its tree used {used} bytes of memory and swap, shared pages counted once ({resident} when counted in each \
                 process), more than its limit of {limit}"
            ),
            Self::CgroupLimit(bytes) => {
                write!(f, "the kernel enforced its memory limit of {bytes} bytes")
            }
            Self::NameMatch(named) => named.fmt(f),
            Self::Imported(named) => write!(f, "the former processor left it; {named}"),
            Self::Spared(why) => why.fmt(f),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Rules with every key that this version records.
    pub(crate) fn all() -> Vec<Rule> {
        let particular = [
            RuleKey::CallerEnded,
            RuleKey::PersonAsked,
            RuleKey::MaxRuntime,
            RuleKey::MaxRss,
            RuleKey::CgroupLimit,
            RuleKey::NameMatch,
            RuleKey::Imported,
            RuleKey::Protected,
            RuleKey::Other,
        ];
        let plain = RuleKey::ALL.iter().filter(|key| !particular.contains(key));
        let named = |part| Named { part, name: "a worker".to_owned() };
        let protected = || SpareReason::Protected(named("script"));
        let below = |why| SpareReason::Below(Pid::new(12).expect("a pid"), Box::new(why));
        let (age, limit) = (Duration::from_millis(1500), Duration::from_secs(1));
        let mut rules: Vec<Rule> = plain.map(|key| Rule::from(*key)).collect();
        rules.extend([
            Rule::CallerEnded("12 (make, which is protected)".to_owned()),
            Rule::PersonAsked("root, which is protected".to_owned()),
            Rule::MaxRuntime { age, limit },
            Rule::MaxRss { used: 3, resident: 4, limit: 2 },
            Rule::CgroupLimit(5),
            Rule::NameMatch(named("executable")),
            Rule::NameMatch(named("argv[0]")),
            Rule::NameMatch(named("script")),
            Rule::Imported(named("script")),
            Rule::Spared(protected()),
            Rule::Spared(SpareReason::LeftBefore),
            Rule::Spared(SpareReason::KeepsStrays),
            Rule::Spared(below(SpareReason::LeftBefore)),
            Rule::Spared(below(SpareReason::KeepsStrays)),
            Rule::Spared(below(below(protected()))),
        ]);
        rules
    }

    #[test]
    fn each_key_is_distinct_and_round_trips() {
        let texts: HashSet<&str> = RuleKey::ALL.iter().map(|key| key.as_str()).collect();
        let sentences: HashSet<&str> = RuleKey::ALL.iter().map(|key| key.sentence()).collect();
        assert_eq!((texts.len(), sentences.len()), (RuleKey::ALL.len(), RuleKey::ALL.len()));
        for key in RuleKey::ALL {
            assert_eq!(RuleKey::parse(key.as_str()), Some(*key));
        }
    }

    #[test]
    fn the_key_of_each_rule_follows_from_its_sentence() {
        let rules = all();
        for rule in &rules {
            assert_eq!(RuleKey::of_sentence(&rule.to_string()), rule.key(), "{rule}");
        }
        let keys: HashSet<RuleKey> = rules.iter().map(Rule::key).collect();
        assert_eq!(keys.len(), RuleKey::ALL.len() - 1, "each key but `other`");
        for unknown in ["", "its instance is dead, they say", "owner-dead"] {
            assert_eq!(RuleKey::of_sentence(unknown), RuleKey::Other);
        }
    }
}
