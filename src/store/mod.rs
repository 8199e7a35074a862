//! The ledger file: the only SQL of the crate.
//!
//! # Locking
//!
//! - The ledger is in WAL mode: readers never wait for the writer, and the writer never waits for
//!   readers.
//! - One [`Store`] has one connection that writes, behind a mutex, and an r2d2 pool of connections
//!   that read. A method fetches the connection that writes once and passes it down: fetching it
//!   twice in one call chain would deadlock. So would a read within a read or a write, since a
//!   store without a pool reads on the connection that writes.
//! - Work that can wait (old history, free pages, the WAL) is done on a separate connection, in
//!   steps of milliseconds.
//! - Every write is `BEGIN IMMEDIATE`. A transaction that began as a reader cannot wait for its
//!   turn to write: SQLite returns `SQLITE_BUSY` at once, whatever `busy_timeout` is.
//! - Rows change state by updates that are conditional on the expected state. If zero rows changed,
//!   another instance has made the transition; this is reported to the caller, and nothing else of
//!   that row is written.
//! - POSIX locks belong to a process, and closing *any* descriptor of a file drops them all. So
//!   only SQLite, which handles this, opens the ledger (<https://sqlite.org/howtocorrupt.html>,
//!   2.2).
//!
//! # Crashes
//!
//! A process that dies loses only the transaction that it had not committed. `synchronous=NORMAL`
//! may lose the last commits to a power cut; the processes that they tracked have ended as well. A
//! ledger whose setup was cut short (an empty file, WAL without tables) counts as new, and the next
//! opening completes it.
//!
//! # Compatibility
//!
//! `application_id` marks a file as a ledger; `user_version` is the oldest schema whose programs
//! may use it. A ledger that only a newer program may use, or any other file, is refused before a
//! byte is written. Migrations are append-only; the program that owns a ledger migrates it, and
//! everything else works on it as it is (`migration`).
//!
//! # Layers
//!
//! `connection`, `close`, `writer`, `open_connection`, `trust`, `setup`, `wal_origin`, `migration`,
//! `schema_check`, `budget`, `ledger_files` and `failure` make up a [`Store`]; `process`, `leaks`,
//! `instances` and `passes` each declare a `table`, which generates INSERT, SELECT and reader from
//! one list of columns. Each other file is one group of operations, with each query beside the
//! function that maps its rows. Every file may use these modules of the crate: `error`, `identity`,
//! `model`, `redact`, `sys`, and `metrics`, which counts what was committed.

mod budget;
mod cell;
mod changes;
mod claim;
mod claim_orphans;
mod close;
mod commit_counts;
mod connection;
mod descendants;
mod exported;
mod failure;
mod file_checks;
mod insert;
mod instances;
mod leak_report;
mod leaks;
mod ledger_files;
mod maintenance;
mod members;
mod metrics;
mod migration;
mod open_connection;
mod passes;
mod pool_manager;
mod pool_thread;
mod process;
mod process_queries;
mod prune;
mod prune_instances;
mod resource_usage;
mod schema_check;
mod settle;
mod setup;
mod shipment;
#[cfg(feature = "fleet")]
mod shipping;
#[cfg(feature = "fleet")]
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod transition;
mod trust;
mod unrecorded_ends;
mod wal_origin;
mod writer;

pub(crate) use changes::Position;
pub(crate) use claim::TakeOver;
pub(crate) use connection::{READERS, Store};
pub(crate) use descendants::RecordedDescendants;
pub(crate) use insert::Insertion;
pub use leak_report::LeakReport;
pub use leaks::{LeakGroup, LeakGrouping};
pub(crate) use maintenance::MaintenanceConnection;
pub(crate) use members::FoundMember;
pub(crate) use migration::Schema;
pub(crate) use setup::Upgrade;
pub(crate) use shipment::Unshipped;
#[cfg(feature = "fleet")]
pub(crate) use stream::BATCH;
pub(crate) use trust::check_path;
