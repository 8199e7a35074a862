//! Streams: a ledger as it is sent to a receiver in another place, batch by batch.
//!
//! A [`Position`] describes what the receiver has; a [`Batch`] contains what it lacks. Both are
//! plain data: [`Position::after`] needs neither the ledger nor the receiver.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{LeakRecord, Millis, Outcome, PassKind, ProcessRecord, millis};

/// The part of a ledger that a receiver has.
///
/// Row numbers are dense and are assigned in the order of the commits, so two numbers describe
/// which rows it has. Rows that had not ended are listed as well, since they change without getting
/// a new number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The largest number of a process that it has.
    pub process: i64,
    /// The largest number of a leak that it has.
    pub leak: i64,
    /// Fingerprint of the process with the number `process`; `None` if the receiver has no
    /// processes.
    pub process_print: Option<u32>,
    /// Fingerprint of the leak with the number `leak`.
    pub leak_print: Option<u32>,
    /// The number above which missing processes are counted; `None` before the first batch, which
    /// begins with the oldest row.
    pub counted: Option<i64>,
    /// The same for leaks.
    pub counted_leaks: Option<i64>,
    /// The processes that had not ended, by number.
    pub open: BTreeMap<i64, OpenProcess>,
    /// The fingerprints of the leaks that had survived, by number.
    pub open_leaks: BTreeMap<i64, u32>,
}

/// A process that had not ended when it was shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenProcess {
    /// Fingerprint of the data that never changes.
    pub print: u32,
    /// Fingerprint of the data that may change: state, owner, memory and CPU time.
    pub content: u32,
}

/// A process in a batch.
#[derive(Clone, Debug)]
pub struct StreamProcess {
    /// Fingerprint of the data that never changes: boot, PID namespace, PID, start tick, inode of
    /// the pidfd, token and time of the start. It detects that a row number belongs to another
    /// process, as may happen in a ledger that was restored from a backup.
    pub print: u32,
    /// The row.
    pub row: ProcessRecord,
}

/// A leak in a batch.
#[derive(Clone, Debug)]
pub struct StreamLeak {
    /// Row number.
    pub id: i64,
    /// Fingerprint of the data that never changes: process, kind, time, age and memory.
    pub print: u32,
    /// The row.
    pub row: LeakRecord,
}

/// A row that the receiver has, but that is no longer in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LostRow {
    /// Its number.
    pub id: i64,
    /// Its fingerprint.
    pub print: u32,
}

/// The rows that a receiver lacks, or as many of them as fit a batch, as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Processes that have not ended and are new or have changed.
    pub live: Vec<StreamProcess>,
    /// Processes that have ended.
    pub ended: Vec<StreamProcess>,
    /// Processes that had not ended when they were shipped, and are no longer in the ledger.
    pub lost: Vec<LostRow>,
    /// Leaks that are new or have changed.
    pub leaks: Vec<StreamLeak>,
    /// Leaks that had survived when they were shipped, and are no longer in the ledger.
    pub lost_leaks: Vec<LostRow>,
    /// The number of processes that were pruned before they were shipped.
    pub gap: u64,
    /// The number of leaks that were pruned before they were shipped.
    pub leak_gap: u64,
    /// The largest number of a process that the receiver has with this batch.
    pub process: i64,
    /// The largest number of a leak that the receiver has with this batch.
    pub leak: i64,
    /// Fingerprint of the process with the number `process`.
    pub process_print: Option<u32>,
    /// Fingerprint of the leak with the number `leak`.
    pub leak_print: Option<u32>,
    /// Whether there are rows for another batch.
    pub more: bool,
}

/// The part of a ledger that a fleet has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// Identifies the last batch.
    pub(crate) mark: Uuid,
    /// The largest number of a process that it has.
    pub(crate) process: i64,
    /// The largest number of a leak that it has.
    pub(crate) leak: i64,
}

/// The passes of one kind in a day (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassDay {
    pub(crate) start: Millis,
    pub(crate) kind: PassKind,
    pub(crate) passes: i64,
    pub(crate) failed: i64,
    pub(crate) longest_gap_ms: i64,
    pub(crate) last_at: Millis,
}

impl Batch {
    /// Reports whether the batch is empty: the receiver has the whole ledger.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.live.len()
            + self.ended.len()
            + self.lost.len()
            + self.leaks.len()
            + self.lost_leaks.len()
    }
}

impl Position {
    /// Returns the position of a receiver that has this batch as well. Receiving a batch twice
    /// changes nothing.
    #[must_use]
    pub fn after(mut self, batch: &Batch) -> Self {
        (self.process, self.leak) = (batch.process, batch.leak);
        (self.process_print, self.leak_print) = (batch.process_print, batch.leak_print);
        self.counted = self.counted.max(Some(batch.process));
        self.counted_leaks = self.counted_leaks.max(Some(batch.leak));
        // Lost rows first, since another process may have the number now.
        let gone = batch.lost.iter().map(|row| row.id);
        let ended = batch.ended.iter().map(|process| process.row.id.0);
        for id in gone.chain(ended) {
            self.open.remove(&id);
        }
        self.open.extend(batch.live.iter().map(|it| (it.row.id.0, OpenProcess::of(&it.row))));
        for row in &batch.lost_leaks {
            self.open_leaks.remove(&row.id);
        }
        for leak in &batch.leaks {
            if leak.row.outcome == Outcome::Survived {
                self.open_leaks.insert(leak.id, leak.print);
            } else {
                self.open_leaks.remove(&leak.id);
            }
        }
        self
    }
}

impl OpenProcess {
    pub(crate) fn of(row: &ProcessRecord) -> Self {
        let content = Fingerprint::default()
            .text(row.life.state().as_str())
            .number(row.owner.0)
            .maybe(row.peak_rss.map(u64::cast_signed))
            .maybe(row.cpu.map(millis));
        Self { print: print_of_process(row), content: content.0 }
    }
}

pub(crate) fn print_of_process(row: &ProcessRecord) -> u32 {
    let (spec, identity) = (&row.spec, &row.spec.identity);
    Fingerprint::default()
        .bytes(identity.scope.boot_id.as_bytes())
        .number(identity.scope.pid_namespace.cast_signed())
        .number(identity.pid.get().into())
        .number(identity.start_tick.cast_signed())
        .maybe(identity.pidfd_inode.map(u64::cast_signed))
        .bytes(spec.token.as_ref().map_or(&[][..], |token| token.as_bytes()))
        .number(Millis::from(spec.started_at).0)
        .0
}

pub(crate) fn print_of_leak(row: &LeakRecord) -> u32 {
    Fingerprint::default()
        .number(row.process.0)
        .text(row.kind.as_str())
        .number(Millis::from(row.found_at).0)
        .number(millis(row.age))
        .maybe(row.rss_bytes.map(u64::cast_signed))
        .0
}

/// FNV-1a in 32 bits, which is the same on every machine and in every version; the standard
/// library's hashers do not guarantee that.
struct Fingerprint(u32);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fingerprint {
    fn bytes(self, bytes: &[u8]) -> Self {
        Self(
            bytes
                .iter()
                .fold(self.0, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)),
        )
    }

    fn number(self, number: i64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Adds an optional value. A missing one differs from every other value.
    fn maybe(self, number: Option<i64>) -> Self {
        match number {
            Some(number) => self.bytes(&[1]).number(number),
            None => self.bytes(&[0]),
        }
    }

    /// Adds a text, terminated by a byte that no text contains.
    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes()).bytes(&[0xff])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of <http://www.isthe.com/chongo/tech/comp/fnv/>.
    #[test]
    fn fingerprints_are_those_of_fnv_1a() {
        let of = |text: &str| Fingerprint::default().bytes(text.as_bytes()).0;
        assert_eq!((of(""), of("a"), of("foobar")), (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968));
    }
}
