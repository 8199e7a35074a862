//! One batch, in one transaction.
//!
//! The mark is replaced first, by compare and swap: a transaction that finds another mark writes
//! nothing. All other statements may be repeated: history is only appended to, and sums are
//! recomputed for whole days and hours.

use std::{collections::BTreeMap, time::SystemTime};

use chrono::{DateTime, Utc};
use postgres::{Client, Row, Statement, Transaction, error::SqlState, types::ToSql};
use uuid::Uuid;

use super::{
    super::{connection::has_session, leak_sums},
    columns::{self, Column, Commands, at},
};
use crate::model::{Batch, PassDay, PassKind, Position};

/// A batch that a transaction ships.
#[derive(Debug)]
pub(super) struct Shipment<'a> {
    pub(super) stream: i32,
    /// The mark of the batch before.
    pub(super) before: Uuid,
    pub(super) mark: Uuid,
    pub(super) batch: &'a Batch,
    /// What the fleet has afterwards.
    pub(super) after: &'a Position,
    pub(super) passes: &'a [PassDay],
    pub(super) host: &'a str,
    pub(super) boot: Uuid,
    pub(super) commands: Commands,
    /// Whether history is shipped, besides what runs and leaks.
    pub(super) history: bool,
}

/// Statements that were prepared on a connection.
#[derive(Default)]
pub(super) struct Statements(BTreeMap<&'static str, Statement>);

impl Statements {
    fn get(
        &mut self,
        transaction: &mut Transaction<'_>,
        sql: &'static str,
    ) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.0.get(sql) {
            return Ok(statement.clone());
        }
        let statement = transaction.prepare(sql)?;
        self.0.insert(sql, statement.clone());
        Ok(statement)
    }
}

/// Reports whether a transaction was rolled back because of a conflict with another one, and can be
/// repeated.
pub(super) fn is_retryable(error: &postgres::Error) -> bool {
    [Some(&SqlState::T_R_SERIALIZATION_FAILURE), Some(&SqlState::T_R_DEADLOCK_DETECTED)]
        .contains(&error.code())
}

/// The result of shipping a batch.
#[derive(Debug)]
pub(super) enum Answer {
    /// The batch was committed at this time, by the clock of the database.
    Committed(DateTime<Utc>),
    /// The mark is no longer that of the batch before: nothing was written.
    MarkReplaced,
    /// The session has other settings than those of its connection: nothing was written.
    OtherSession,
}

/// Ships a batch.
pub(super) fn ship(
    client: &mut Client,
    statements: &mut Statements,
    it: &Shipment<'_>,
) -> Result<Answer, postgres::Error> {
    let mut writer = BatchWriter { transaction: client.transaction()?, statements, it };
    let Some((seen_at, search_path)) = writer.swap()? else {
        writer.transaction.rollback()?;
        return Ok(Answer::MarkReplaced);
    };
    if !has_session(&search_path) {
        writer.transaction.rollback()?;
        return Ok(Answer::OtherSession);
    }
    writer.processes()?;
    writer.leaks()?;
    if !it.passes.is_empty() {
        let columns = columns::pass_days(it.passes);
        writer.run(include_str!("../statements/ship_pass_day.sql"), &columns)?;
    }
    writer.transaction.commit()?;
    Ok(Answer::Committed(seen_at))
}

struct BatchWriter<'a, 'c> {
    transaction: Transaction<'c>,
    statements: &'a mut Statements,
    it: &'a Shipment<'a>,
}

impl BatchWriter<'_, '_> {
    /// Executes a statement with the stream and these parameters.
    fn query(
        &mut self,
        sql: &'static str,
        columns: &[Column],
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.statements.get(&mut self.transaction, sql)?;
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&self.it.stream];
        for column in columns {
            parameters.push(&**column);
        }
        self.transaction.query(&statement, &parameters)
    }

    fn run(&mut self, sql: &'static str, columns: &[Column]) -> Result<(), postgres::Error> {
        self.query(sql, columns).map(drop)
    }

    /// Replaces the mark; returns the time by the clock of the database, and the `search_path` of
    /// the session.
    fn swap(&mut self) -> Result<Option<(DateTime<Utc>, String)>, postgres::Error> {
        let Shipment { batch, after, passes, .. } = self.it;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let last = |kind: PassKind| {
            let days = passes.iter().filter(|day| day.kind == kind);
            days.map(|day| day.last_at).max().map(at)
        };
        let columns: Vec<Column> = vec![
            Box::new(self.it.before),
            Box::new(self.it.mark),
            Box::new(after.process),
            Box::new(after.leak),
            Box::new(after.process_print.map(u32::cast_signed)),
            Box::new(after.leak_print.map(u32::cast_signed)),
            Box::new(after.counted),
            Box::new(after.counted_leaks),
            Box::new(self.it.host.to_owned()),
            Box::new(self.it.boot),
            Box::new(env!("CARGO_PKG_VERSION")),
            Box::new(at(SystemTime::now())),
            Box::new(batch.gap.cast_signed()),
            Box::new(batch.leak_gap.cast_signed()),
            Box::new(count(batch.lost.len())),
            Box::new(count(batch.lost_leaks.len())),
            Box::new(last(PassKind::Health)),
            Box::new(last(PassKind::Orphan)),
        ];
        let rows = self.query(include_str!("../statements/ship_swap.sql"), &columns)?;
        Ok(rows.first().map(|row| (row.get(0), row.get(1))))
    }

    fn processes(&mut self) -> Result<(), postgres::Error> {
        let Shipment { batch, commands, .. } = self.it;
        if self.it.history && !batch.ended.is_empty() {
            let columns = commands.ended(&batch.ended);
            self.run(include_str!("../statements/ship_ended.sql"), &columns)?;
        }
        let ended = batch.ended.iter().map(|process| process.row.id.0);
        let gone: Vec<i64> = ended.chain(batch.lost.iter().map(|row| row.id)).collect();
        if !gone.is_empty() {
            self.run(include_str!("../statements/ship_live_delete.sql"), &[Box::new(gone)])?;
        }
        if !batch.live.is_empty() {
            let columns = commands.live(&batch.live);
            self.run(include_str!("../statements/ship_live.sql"), &columns)?;
        }
        Ok(())
    }

    fn leaks(&mut self) -> Result<(), postgres::Error> {
        let Shipment { batch, commands, .. } = self.it;
        let mut found: Vec<DateTime<Utc>> =
            batch.leaks.iter().map(|leak| at(leak.row.found_at)).collect();
        if !batch.lost_leaks.is_empty() {
            let ids: Vec<i64> = batch.lost_leaks.iter().map(|row| row.id).collect();
            let prints: Vec<i32> =
                batch.lost_leaks.iter().map(|row| row.print.cast_signed()).collect();
            let sql = include_str!("../statements/ship_leak_lost.sql");
            let lost = self.query(sql, &[Box::new(ids), Box::new(prints)])?;
            found.extend(lost.iter().map(|row| row.get::<_, DateTime<Utc>>(0)));
        }
        if !batch.leaks.is_empty() {
            self.run(include_str!("../statements/ship_leak.sql"), &commands.leaks(&batch.leaks))?;
        }
        leak_sums::recompute(self.it.stream, found, |sql, parameters| {
            let statement = self.statements.get(&mut self.transaction, sql)?;
            self.transaction.execute(&statement, parameters)
        })
    }
}
