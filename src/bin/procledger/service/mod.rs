//! `watch` for many ledgers: a supervisor, and a worker of its own for each ledger.
//!
//! One process cannot act for several users, and what breaks one ledger must not touch the others: so each is watched by
//! a process of its own, which is this program again, `procledger watch --db LEDGER`, and which becomes the ledger's owner
//! before it opens it. The supervisor opens no ledger and signals no process but its workers.
//!
//! A worker's standard input is a socket to the supervisor. Its end is the order to stop, so no worker outlives its
//! supervisor, whatever killed that one; a byte on it is the worker's sign of life after each look. What the worker prints
//! is passed on with the ledger's name before it.
//!
//! - [`files`]: which ledgers there are, and whether one has changed;
//! - [`lines`]: output of a worker, line by line;
//! - [`worker`]: one process;
//! - [`watched`]: one ledger: missing, watched, or resting after a failure;
//! - [`supervisor`]: all of them.

mod files;
mod lines;
mod supervisor;
mod watched;
mod worker;

pub(crate) use supervisor::supervise;
