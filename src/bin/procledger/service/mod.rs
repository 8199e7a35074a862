//! `watch` for many ledgers: a supervisor, and a worker of its own for each ledger and each folder of ledgers.
//!
//! One process cannot act for several users, and what breaks one ledger must not touch the others: so each is watched by
//! a process of its own, which is this program again, `procledger watch --worker --db LEDGER`, and which becomes the
//! ledger's owner before it opens it. A folder is listed by `--worker --dir DIR`, as the folder's owner.
//!
//! The supervisor opens no ledger, looks at no path of a user and signals no process but its workers. A path may lie in a
//! mount that is dead, and a look at it then never returns: only the worker hangs there, which the supervisor notices,
//! reports and replaces. Nothing that it does waits for a worker, nor for the reader of its own output.
//!
//! A worker's standard input is a socket to the supervisor. Its end is the order to stop, so no worker outlives its
//! supervisor, whatever killed that one; on it the worker says how far it is, and after each look that it is alive. What the
//! worker prints is data: escaped, cut, bounded, and passed on with the ledger's name before it.
//!
//! - [`link`]: the messages between the two;
//! - [`duty`]: a worker from the inside;
//! - [`worker`]: a worker as the supervisor sees it;
//! - [`lines`]: output of a worker, line by line, within bounds;
//! - [`watched`]: one ledger or folder: watched, or resting after a failure;
//! - [`arrivals`]: one inotify instance for all folders of the supervisor's own user;
//! - [`supervisor`]: all of them.

mod arrivals;
mod duty;
mod lines;
mod link;
mod supervisor;
mod watched;
mod worker;

pub(crate) use duty::{Duty, Post, serve_folder};
pub(crate) use supervisor::supervise;
