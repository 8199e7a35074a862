//! The JSON export: a file that follows the ledger, for people and for programs that read the
//! former implementation's file.
//!
//! The file is an array of `{"task_id", "process_id", "start_time"}`, `[]` while nothing runs. The
//! ledger is authoritative; a reader that needs certainty reads the ledger. `exporter` is the
//! handle to the thread in `writer_thread`, `list` is the list in memory, `json_file` replaces the
//! file, `lock` decides which instance may do so, and `legacy` reads the file of the former
//! implementation.
//!
//! # After a crash
//!
//! Where a rename is possible, the text is written to a temporary file that is then renamed, so a
//! reader sees the old list or the new one, never a partial list or no file. A writer that dies
//! leaves the last list, and maybe a temporary file, which the next holder of the lock removes.
//! Nothing is flushed to the disk: a power cut that loses an entry also ends its process.
//!
//! Where no rename is possible, for example onto a file that was mounted into a container, the file
//! is written in place (`in_place`), and a writer that dies may leave a partial list. A rename is
//! tried again at each change.
//!
//! # Locking
//!
//! Of all instances with the same path one holds an exclusive `flock` on `PATH.lock` and writes;
//! the others stay passive and try again when they have a change to write. The kernel releases the
//! lock when its holder dies, for whatever reason. A clean end removes the lock file while it is
//! locked, so an instance that has locked a file checks that the path still names it. A holder
//! checks the same before each write, since a program that cleans `/tmp` may have removed the file.
//!
//! # Hostile paths
//!
//! In `/tmp` any user may put something at the path first. Where a rename is possible the export
//! never opens an existing file: the rename replaces the name, be it a symlink, a FIFO or another
//! user's file. It fails for a folder, and for another user's file in a sticky folder, which is not
//! written in place either. Then the error is logged once and kept for `last_error`, and tracking
//! goes on. The lock and the legacy file are opened without following a symlink and without
//! blocking; the opened file is checked, not the name.
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
