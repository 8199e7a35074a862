//! The claim: what a shipper does first, and after any error.
//!
//! A mark names the last batch that was committed. It is in the ledger as well, where it is written
//! after each answer, so that a comparison shows what has happened to either side. The row of the
//! stream is locked meanwhile: a transaction of this shipper whose answer did not arrive has ended
//! by then.

use chrono::{DateTime, Utc};
use postgres::{Row, Transaction};
use uuid::Uuid;

use crate::model::{Acknowledged, OpenProcess, Position};

/// The stream's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamRow {
    pub(super) stream: i32,
    pub(super) mark: Uuid,
    pub(super) previous_mark: Option<Uuid>,
    pub(super) process: i64,
    pub(super) leak: i64,
    pub(super) process_print: Option<u32>,
    pub(super) leak_print: Option<u32>,
    pub(super) counted: Option<i64>,
    pub(super) counted_leaks: Option<i64>,
    pub(super) boot: Uuid,
    pub(super) seen_at: DateTime<Utc>,
}

/// What is known of another shipper of the same stream, on another machine or from before a
/// restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// It has not been watched for three intervals yet.
    NotYet,
    /// Its mark has changed meanwhile.
    Moves,
    /// Its mark has not changed.
    Silent,
}

/// The facts that decide a claim.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) row: Option<&'a StreamRow>,
    /// The mark in the ledger.
    pub(super) mine: Option<Uuid>,
    /// Whether the ledger has the rows up to which the fleet has it.
    pub(super) rows_agree: bool,
    /// The boot of this machine.
    pub(super) boot: Uuid,
    /// When the last batch of this process was committed, if the mark was replaced afterwards by
    /// another process.
    pub(super) swap_lost_after: Option<DateTime<Utc>>,
    pub(super) watched: Watched,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The fleet does not know this ledger.
    New,
    /// Both sides are equally far.
    Continue,
    /// The fleet is one batch ahead: the answer was lost.
    AnswerLost,
    /// A copy of this ledger is shipped elsewhere: this one becomes a ledger of its own.
    Fork,
    /// The ledger or the fleet's database was restored: shipped again from the start.
    Restart,
    /// It may be a copy that is shipped elsewhere: watch it first.
    Watch,
}

impl Facts<'_> {
    pub(super) fn claim(&self) -> Claim {
        let Some(row) = self.row else { return Claim::New };
        if self.mine == Some(row.mark) {
            return Claim::Continue;
        }
        // A ledger that was set back by exactly one batch looks the same, but for its rows.
        if self.mine.is_some() && row.previous_mark == self.mine && self.rows_agree {
            return Claim::AnswerLost;
        }
        // An older time is that of a database that was restored while this process ran.
        if self.swap_lost_after.is_some_and(|last| row.seen_at > last) {
            return Claim::Fork;
        }
        match self.watched {
            _ if row.boot == self.boot => Claim::Restart,
            Watched::NotYet => Claim::Watch,
            Watched::Moves => Claim::Fork,
            Watched::Silent => Claim::Restart,
        }
    }
}

impl StreamRow {
    /// Reads the row of this ledger, and locks it until the end of the transaction.
    pub(super) fn lock(
        transaction: &mut Transaction<'_>,
        ledger: Uuid,
    ) -> Result<Option<Self>, postgres::Error> {
        let row =
            transaction.query_opt(include_str!("../statements/ship_claim.sql"), &[&ledger])?;
        Ok(row.as_ref().map(Self::of))
    }

    fn of(row: &Row) -> Self {
        Self {
            stream: row.get("stream"),
            mark: row.get("mark"),
            previous_mark: row.get("previous_mark"),
            process: row.get("process"),
            leak: row.get("leak"),
            process_print: row.get::<_, Option<i32>>("process_print").map(i32::cast_unsigned),
            leak_print: row.get::<_, Option<i32>>("leak_print").map(i32::cast_unsigned),
            counted: row.get("counted"),
            counted_leaks: row.get("counted_leaks"),
            boot: row.get("boot"),
            seen_at: row.get("seen_at"),
        }
    }

    pub(super) fn acknowledged(&self) -> Acknowledged {
        Acknowledged { mark: self.mark, process: self.process, leak: self.leak }
    }

    /// Returns up to which rows the fleet has the ledger, without what has not ended.
    pub(super) fn watermarks(&self) -> Position {
        Position {
            process: self.process,
            leak: self.leak,
            process_print: self.process_print,
            leak_print: self.leak_print,
            counted: self.counted,
            counted_leaks: self.counted_leaks,
            ..Position::default()
        }
    }

    /// Adds the rows that had not ended when they were shipped, for which the fleet is
    /// authoritative. Their content is not compared: live rows are shipped once more.
    pub(super) fn add_open(
        &self,
        transaction: &mut Transaction<'_>,
        position: &Position,
    ) -> Result<Position, postgres::Error> {
        let of = |row: Row| (row.get(0), row.get::<_, i32>(1).cast_unsigned());
        let open =
            transaction.query(include_str!("../statements/ship_open.sql"), &[&self.stream])?;
        let open = open.into_iter().map(of);
        let leaks = include_str!("../statements/ship_open_leaks.sql");
        let leaks = transaction.query(leaks, &[&self.stream])?;
        Ok(Position {
            open: open.map(|(id, print)| (id, OpenProcess { print, content: 0 })).collect(),
            open_leaks: leaks.into_iter().map(of).collect(),
            ..*position
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Uuid = Uuid::from_u128(1);

    fn row(mark: u128, previous: Option<u128>) -> StreamRow {
        StreamRow {
            stream: 1,
            mark: Uuid::from_u128(mark),
            previous_mark: previous.map(Uuid::from_u128),
            process: 5,
            leak: 0,
            process_print: Some(7),
            leak_print: None,
            counted: Some(5),
            counted_leaks: None,
            boot: BOOT,
            seen_at: DateTime::from_timestamp_millis(1_000).expect("a time"),
        }
    }

    fn facts(row: Option<&StreamRow>, mine: Option<u128>) -> Facts<'_> {
        Facts {
            row,
            mine: mine.map(Uuid::from_u128),
            rows_agree: true,
            boot: BOOT,
            swap_lost_after: None,
            watched: Watched::NotYet,
        }
    }

    #[test]
    fn the_mark_says_what_has_happened() {
        let row = row(20, Some(10));
        assert_eq!(facts(None, Some(10)).claim(), Claim::New);
        assert_eq!(facts(Some(&row), Some(20)).claim(), Claim::Continue);
        assert_eq!(facts(Some(&row), Some(10)).claim(), Claim::AnswerLost);
        let set_back = Facts { rows_agree: false, ..facts(Some(&row), Some(10)) };
        assert_eq!(set_back.claim(), Claim::Restart);
        assert_eq!(facts(Some(&row), Some(30)).claim(), Claim::Restart);
        assert_eq!(facts(Some(&row), None).claim(), Claim::Restart);
        let first = StreamRow { previous_mark: None, ..row };
        assert_eq!(facts(Some(&first), None).claim(), Claim::Restart, "no mark equals no mark");
    }

    #[test]
    fn a_copy_is_one_that_goes_on_elsewhere() {
        let row = StreamRow { boot: Uuid::from_u128(2), ..row(20, Some(10)) };
        let of = |watched| Facts { watched, ..facts(Some(&row), Some(30)) }.claim();
        assert_eq!(of(Watched::NotYet), Claim::Watch);
        assert_eq!(of(Watched::Moves), Claim::Fork);
        assert_eq!(of(Watched::Silent), Claim::Restart);
        assert_eq!(
            facts(Some(&row), Some(20)).claim(),
            Claim::Continue,
            "this machine was restarted"
        );
    }

    #[test]
    fn a_mark_that_was_replaced_by_another_process_is_a_copy_and_one_that_is_older_a_backup() {
        let row = row(20, Some(10));
        let after = |millis| Facts {
            swap_lost_after: DateTime::from_timestamp_millis(millis),
            ..facts(Some(&row), Some(30))
        };
        assert_eq!(after(999).claim(), Claim::Fork);
        assert_eq!(after(1_000).claim(), Claim::Restart);
        assert_eq!(after(2_000).claim(), Claim::Restart);
    }
}
