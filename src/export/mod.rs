//! The JSON export: a file that follows the ledger, for people and for readers of the former implementation's file.
//!
//! The file is an array of `{"task_id", "process_id", "start_time"}`, `[]` while nothing runs. The ledger is authoritative; a
//! reader that needs certainty reads that. `exporter` is the handle on the thread in `writer_thread` that follows the ledger,
//! `list` is the list in memory, `json_file` replaces the file, `lock` decides which instance may do so, and `legacy` reads the file of the former implementation.
//!
//! # At a crash
//!
//! Where a rename is possible, the text is written to a temporary file that is then renamed, so a reader sees the old list or
//! the new one, never a part, and never no file. A writer that dies leaves the last list, and maybe a temporary file, which the
//! next holder of the lock removes. Nothing is flushed to the disk: a power cut that loses an entry has also ended its process.
//!
//! Where no rename is possible, as onto a file that was mounted into a container, the file is written in place (`in_place`),
//! and a writer that dies may leave a part of a list. A rename is tried again at each change.
//!
//! # Locking
//!
//! Of all instances with the same path one holds an exclusive `flock` on `PATH.lock` and writes; the others stay passive and
//! try again when they have a change to write. The kernel drops the lock with its holder, however that dies. A clean end
//! removes the lock file while it is locked, so an instance that locks a file checks that the path still names it. A holder
//! checks the same before each write: a program that cleans `/tmp` may have removed the file.
//!
//! # Hostile paths
//!
//! In `/tmp` any user may put something at the path first. Where a rename is possible the export never opens what is there: the
//! rename replaces a symlink, a FIFO or another user's file as a name. It fails on a folder, and on another user's file in a
//! sticky folder, which is not written in place either; then the error is logged once, kept for `last_error`, and tracking goes
//! on. The lock and the legacy file are opened without following a symlink and without blocking, and are judged by what was
//! opened, not by the name.
mod exporter;
mod in_place;
mod json_file;
mod legacy;
mod list;
mod lock;
#[cfg(test)]
mod tests;
mod writer_thread;

pub(crate) use exporter::Exporter;
pub(crate) use json_file::{Prospect, prospect, to_json, write_once};
#[cfg(fuzzing)]
pub(crate) use legacy::fuzz as fuzz_legacy;
pub(crate) use legacy::{Legacy, LegacyEntry, read_legacy};
