//! Checks whether a WAL belongs to the file beside it.
//!
//! SQLite reads any WAL that is valid by itself. Beside a file for which it was not written, such
//! as a backup that was put in the ledger's place, it would replace single pages, and the result
//! would be neither of the two.
//!
//! The first page of a database has a change counter, which never decreases. A connection that
//! writes that page to the WAL increases the counter that it has read by one. So in the file for
//! which the WAL was written, the counter is at most one less than in the WAL's first copy of that
//! page, however much of the WAL was copied back since. A copy of a database starts counting anew
//! (`.backup`, `VACUUM INTO`), or has an older counter (a file from before the WAL). Only frames
//! with valid checksums count, and a WAL without a copy of that page proves nothing, so each
//! instance writes one with its row ([`mark`]).

use std::{
    io::{self, Read},
    path::Path,
};

use rusqlite::Connection;
use rustix::fs::OFlags;

use super::{transaction::Transaction, trust::beside};
use crate::{
    error::{Error, Kind, Result},
    sys::{
        database_file::{CHANGE_COUNTER, change_counter},
        plain_file::open_as_is,
    },
};

/// The first word of a WAL whose checksums are of little-endian words
/// (<https://sqlite.org/fileformat.html#walformat>). For big-endian words the last bit is set.
const MAGIC: u32 = 0x377f_0682;
const FRAME_HEADER: usize = 24;
/// The number of frames of a WAL that are read: the page is among the first frames of an instance's
/// first transaction.
const FRAMES: u32 = 256;
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65536;

/// Writes the first page of the ledger, unchanged, so that the WAL has a copy of it.
pub(super) fn mark(tx: &Transaction<'_>, application: i32) -> rusqlite::Result<()> {
    tx.prepare_cached(&format!("PRAGMA application_id = {application}"))?.execute([]).map(drop)
}

/// Refuses a ledger whose WAL was certainly not written for it.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<()> {
    let wal = beside(path, "-wal");
    let Ok(file) = open_as_is(&wal, OFlags::RDONLY) else { return Ok(()) };
    let Ok(Some(written)) = first_counter(io::BufReader::new(file)) else { return Ok(()) };
    // Read after the WAL: the counter may be from a later time than the WAL, but never from an
    // earlier one.
    match change_counter(connection) {
        Some(counter) if written > counter.saturating_add(1) => {
            let message = format!(
                "the ledger `{}` is not the file that `{}` belongs to (was a backup restored?): remove that `-wal` and the `-shm` to use \
                 the ledger as it is, or put the former file back",
                path.display(),
                wal.display()
            );
            Err(Error::new(Kind::NotALedger, message))
        }
        _ => Ok(()),
    }
}

/// Returns the change counter in the first copy of page 1 in a WAL; `None` if there is no valid
/// copy.
fn first_counter(mut wal: impl Read) -> io::Result<Option<u32>> {
    let mut header = [0; 32];
    wal.read_exact(&mut header)?;
    let (magic, page_size) = (word(&header, 0), word(&header, 8));
    if magic & !1 != MAGIC || !PAGE_SIZES.contains(&page_size) || !page_size.is_power_of_two() {
        return Ok(None);
    }
    let mut sum = Checksum { big_endian: magic & 1 == 1, sums: [0; 2] };
    sum.add(&header[..24]);
    if !sum.is_at(&header, 24) {
        return Ok(None);
    }
    let mut frame = vec![0; FRAME_HEADER + page_size as usize];
    for _ in 0..FRAMES {
        wal.read_exact(&mut frame)?;
        sum.add(&frame[..8]);
        sum.add(&frame[FRAME_HEADER..]);
        // Data after the last frame is from an earlier use of the file.
        if frame[8..16] != header[16..24] || !sum.is_at(&frame, 16) {
            return Ok(None);
        }
        if word(&frame, 0) == 1 {
            return Ok(Some(word(&frame, FRAME_HEADER + CHANGE_COUNTER)));
        }
    }
    Ok(None)
}

/// Returns the big-endian word at an offset.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

/// The running checksum of a WAL.
struct Checksum {
    big_endian: bool,
    sums: [u32; 2],
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let read = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        let [mut first, mut second] = self.sums;
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| pair[at..].first_chunk().map_or(0, |word| read(*word));
            first = first.wrapping_add(word(0)).wrapping_add(second);
            second = second.wrapping_add(word(4)).wrapping_add(first);
        }
        self.sums = [first, second];
    }

    /// Reports whether the checksum at an offset is this one.
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        self.sums == [word(bytes, at), word(bytes, at + 4)]
    }
}
