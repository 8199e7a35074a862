//! Ends trees: all trees of a call together, each with all its members.
//!
//! 1. Every root and every recorded descendant is pinned by a pidfd and verified ([`state`]).
//! 2. A snapshot of `/proc` shows which other processes belong to them ([`scan`]); these are pinned
//!    and verified too, and recorded *before* any signal, so that the next pass knows about them if
//!    we die now.
//! 3. The members get the signals of the tree's end plan, by default SIGTERM, each followed by
//!    SIGCONT ([`end_plan`], [`request_stop`], [`phases`]).
//! 4. The grace starts anew as long as members keep dying: a fixed grace for all would kill
//!    cooperative processes of a large tree. Then another snapshot is taken; new members get the
//!    signal too.
//! 5. When the grace is over, the remaining members are stopped by SIGSTOP until a snapshot shows
//!    no new member: a stopped process cannot fork. Processes that fork faster than that are
//!    stopped on sight ([`rescan`]). Then follow SIGKILL and another scan. A tree with a task
//!    cgroup is frozen and killed as a whole ([`task_cgroup`]).
//! 6. Finally the kernel reports whether a task cgroup is empty. Processes in it that cannot be
//!    seen are killed through the cgroup; if that is not allowed, the root's row stays, as that of
//!    a survivor.
//!
//! Members with protected names, and their descendants, are left running ([`exemptions`]): they are
//! pinned like the others, so that they are known, but get no signal. They are recorded only with
//! the end, as kept and released in one transaction, so that a crash in between leaves no row by
//! which another instance would end them.
//!
//! If the last scan fails, it is unknown whether all members were found. Then the root's row is not
//! ended, even if the root is dead: it is the only record that leads to the others, and the next
//! pass retries.
//!
//! The strays of a root that ended by itself are searched for until no new member appears during a
//! scan ([`new_members`]).
//!
//! A tree with a keeper has ended only when the keeper has no children left that are to be ended
//! ([`keeper_children`]).
//!
//! Signalling a tree without ending it reaches the same members ([`signal_tree`](mod@signal_tree)),
//! and so does suspending it ([`suspend_tree`](mod@suspend_tree)).
//!
//! A session counts as evidence only while a verified member pins its ID: the kernel reuses the ID
//! of a session once its last member is reaped.

mod end_plan;
mod exemptions;
mod joining;
mod keeper_children;
mod member;
mod new_members;
mod phases;
mod request_stop;
mod rescan;
mod scan;
mod signal_tree;
mod state;
mod survival_reason;
mod suspects;
mod suspend_tree;
mod task_cgroup;
mod tree_outcome;
mod wait;

pub(in crate::tracker) use exemptions::protected;
pub(in crate::tracker) use joining::{EndQueue, end_as_they_come};
pub(in crate::tracker) use phases::{end_trees, end_trees_unless, previews, strays};
pub(in crate::tracker) use signal_tree::signal_tree;
pub(in crate::tracker) use state::{EndContext, Exemptions, TreeTarget};
pub(in crate::tracker) use suspend_tree::{resume_tree, suspend_tree};
pub(in crate::tracker) use tree_outcome::{
    Fate, LeftRunning, MemberOutcome, Preview, Seen, Suspected, TreeOutcome,
};
