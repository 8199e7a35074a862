//! Enums whose variants are words in the ledger and in JSON: states, origins, reasons, outcomes.

/// Defines an enum whose variants are words in the ledger and in JSON.
macro_rules! string_enum {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
        $vis enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// Every variant.
            $vis const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the word in the ledger.
            $vis fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Returns the variant of a word in the ledger.
            $vis fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.as_str() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(super) use string_enum;

string_enum! {
    /// How a process came into the ledger.
    pub Origin {
        /// Started through the gate.
        Spawned = "spawned",
        /// Started by the caller, then registered.
        Registered = "registered",
        /// Named in a JSON file that the former implementation left.
        Imported = "imported",
        /// Found below a root.
        Descendant = "descendant",
        /// Matched a configured name and was not registered.
        Swept = "swept",
    }
}

string_enum! {
    /// The state of a row.
    pub State {
        /// Not known to have ended; not being ended.
        Running = "running",
        /// Claimed: an instance is ending it.
        Ending = "ending",
        /// An attempt to end it failed; it is tried again at the next pass.
        Survived = "survived",
        /// It has ended. Final.
        Ended = "ended",
    }
}

string_enum! {
    /// The requested containment of trees.
    pub ContainmentMode {
        /// A cgroup for each task, else a keeper, else a session: the best that is available.
        Auto = "auto",
        /// A cgroup for each task, or an error.
        Cgroup = "cgroup",
        /// A keeper process, or an error.
        Keeper = "keeper",
        /// A session only.
        Session = "session",
    }
}

string_enum! {
    /// What contains a tree.
    pub Containment {
        /// Nothing: its members are known by parent pids and recorded descendants only.
        None = "none",
        /// A session (or a foreground process group) that the gate created.
        Session = "session",
        /// A keeper process that is the tree's subreaper.
        Keeper = "keeper",
        /// A cgroup v2 of its own.
        Cgroup = "cgroup",
    }
}

string_enum! {
    /// Why a process is no longer running.
    pub EndReason {
        /// It ended by itself; the exit code or signal shows how.
        Exited = "exited",
        /// It never ran: its gate was not opened, or exec failed.
        Failed = "failed",
        /// Requested by its owner.
        Terminated = "terminated",
        /// Requested by a person.
        Killed = "killed",
        /// Its owner shut down.
        Shutdown = "shutdown",
        /// Its owner had died.
        Orphan = "orphan",
        /// Its root had ended.
        Stray = "stray",
        /// It matched a configured name and was not registered.
        Unregistered = "unregistered",
        /// It ran longer than its limit.
        MaxRuntime = "max_runtime",
        /// Its tree used more memory than its limit.
        MaxRss = "max_rss",
        /// The kernel's out-of-memory killer ended it.
        Oom = "oom",
        /// It was found gone; how it ended is unknown.
        Gone = "gone",
        /// The machine was restarted.
        Rebooted = "rebooted",
        /// Its owner stopped tracking it.
        Released = "released",
        /// A person closed its row, because it could not be judged.
        Forgotten = "forgotten",
    }
}

string_enum! {
    /// How an instance stopped.
    pub(crate) StopHow {
        /// It shut down.
        Clean = "clean",
        /// It died without shutting down.
        Crashed = "crashed",
        /// The machine was restarted while it ran.
        Rebooted = "rebooted",
    }
}

string_enum! {
    /// What kind of leak it was.
    pub LeakKind {
        /// Its instance was dead.
        Orphan = "orphan",
        /// Its root had ended.
        Stray = "stray",
        /// It matched a configured name and was not registered.
        Unregistered = "unregistered",
    }
}

string_enum! {
    /// The outcome of ending a process.
    pub Outcome {
        /// It was already gone.
        Gone = "gone",
        /// It ended after SIGTERM.
        Term = "term",
        /// It had to be killed.
        Kill = "kill",
        /// It is still there.
        Survived = "survived",
        /// It was left running on purpose.
        Kept = "kept",
    }
}

string_enum! {
    /// The kind of check that a pass made.
    pub PassKind {
        /// Checks whether the recorded processes still exist.
        Health = "health",
        /// Checks for processes that dead instances left.
        Orphan = "orphan",
    }
}

string_enum! {
    /// Where the figures of a tree come from.
    pub FigureSource {
        /// The processes themselves, at the time of the query.
        Live = "live",
        /// The ledger, as the last health pass recorded them.
        Recorded = "recorded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_each_enum_round_trip() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(*state));
        }
        assert_eq!(State::parse("dead"), None);
    }
}
