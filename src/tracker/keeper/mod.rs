//! Programs under a keeper.
//!
//! - [`choice`]: which keeper an instance uses, found and tried once when the ledger is opened;
//! - [`find`]: which process is the keeper of a tree;
//! - [`below`]: what the health pass records on account of keepers;
//! - [`spawn`]: a spawn with the gate relayed through a keeper;
//! - [`account`]: what keepers have ended after their hosts' deaths;
//! - [`kept`]: the host's hold on a keeper while its program runs, and how they part;
//! - [`serve`]: the keeper itself.
//!
//! The host dies: the keeper ends the tree. The keeper dies: the program goes on, its end is known by its pidfd, and what it
//! leaves by its session, its token and recorded descendants. Both die: the next orphan pass finds the row, and goes by
//! token and recorded descendants.

mod account;
mod below;
mod choice;
mod find;
mod kept;
mod serve;
mod spawn;

pub(super) use choice::try_keeper;
pub(super) use find::{recorded_keeper, verified};
pub(super) use kept::{Kept, Word, keeper_of};
pub use serve::main;
pub(super) use spawn::spawn_kept;
