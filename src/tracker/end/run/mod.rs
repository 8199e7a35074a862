//! Ending trees: all trees of a call together, each to the last member.
//!
//! 1. Every root and every recorded descendant is pinned by a pidfd and verified ([`state`]).
//! 2. A snapshot of `/proc` shows who else belongs to them ([`scan`]); these are pinned and verified too, and recorded
//!    *before* any signal: if we die now, the next pass knows them.
//! 3. SIGTERM, then SIGCONT, since a stopped process keeps SIGTERM pending ([`request_stop`], [`phases`]).
//! 4. The grace is counted anew as long as members keep dying: a shared fixed one kills obedient processes of a large
//!    tree. Then another snapshot; what is new gets its SIGTERM too.
//! 5. What is left when the grace is over is frozen by SIGSTOP until a snapshot shows nobody new: a stopped process
//!    cannot fork. What forks faster than that is stopped on sight ([`rescan`]). Then SIGKILL, and another look. A tree with a cgroup leaf of its own is frozen and killed as one
//!    ([`task_cgroup`]).
//! 6. Last, the kernel says whether a leaf is empty. What lives in it and cannot be seen is killed through the leaf; where
//!    that may not be, the root's row stays, as that of a survivor.
//!
//! Members of protected names, and what is below them, are left ([`exemptions`]): they are pinned like the others, so that they
//! are known, and get no signal. They are not recorded before the end but with it, as kept and released in one transaction:
//! a crash in between leaves no row by which somebody else would end them.
//!
//! Where the last look fails, nobody knows whether all members were seen. Then the root's row is not ended, dead as it may
//! be: it is all that leads to the others, and the next pass tries again.
//!
//! What a root that ended by itself has left is looked for until nobody came during the look ([`new_members`]).
//!
//! Where the tree has a keeper, it is ended only when that one has no children left that are to be ended ([`keeper_children`]).
//!
//! A session counts only while somebody verified pins its number; the kernel hands out the number of a session again when
//! its last member is reaped.

mod exemptions;
mod joining;
mod keeper_children;
mod member;
mod new_members;
mod phases;
mod request_stop;
mod rescan;
mod scan;
mod state;
mod survival_reason;
mod suspects;
mod task_cgroup;
mod tree_outcome;
mod wait;

pub(in crate::tracker) use exemptions::{Leave, protected};
pub(in crate::tracker) use joining::{Feed, end_as_they_come};
pub(in crate::tracker) use member::command_of;
pub(in crate::tracker) use phases::{end_trees, end_trees_unless, preview, strays};
pub(in crate::tracker) use state::{Tree, World};
pub(in crate::tracker) use task_cgroup::list as list_leaf;
pub(in crate::tracker) use tree_outcome::{Found, MemberEnd, Preview, Stray, Suspected, TreeEnd};
