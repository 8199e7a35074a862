//! Converts cells to records. A query selects columns in the order in which its function reads them.

use std::time::Duration;

use rusqlite::{
    Row,
    types::{FromSql, Type},
};
use uuid::Uuid;

use crate::{
    identity::{Pid, Place},
    model::{ExitStatus, Millis, TaskId},
};

/// The cells of a row, read one after the other.
pub(super) struct Cells<'a, 'stmt> {
    row: &'a Row<'stmt>,
    next: usize,
}

impl<'a, 'stmt> Cells<'a, 'stmt> {
    pub(super) fn of(row: &'a Row<'stmt>) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn take<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        let index = self.next;
        self.next += 1;
        self.row.get(index)
    }

    /// Reads a text through `parse`; a text that it does not know was written by no version of ours.
    pub(super) fn parse<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> rusqlite::Result<T> {
        let text: String = self.take()?;
        parse(&text).ok_or_else(|| self.bad(&text))
    }

    pub(super) fn parse_opt<T>(
        &mut self,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> rusqlite::Result<Option<T>> {
        let text: Option<String> = self.take()?;
        text.map(|text| parse(&text).ok_or_else(|| self.bad(&text))).transpose()
    }

    pub(super) fn pid(&mut self) -> rusqlite::Result<Pid> {
        let raw = self.take()?;
        Pid::new(raw).ok_or_else(|| self.bad(&raw.to_string()))
    }

    pub(super) fn pid_opt(&mut self) -> rusqlite::Result<Option<Pid>> {
        let raw: Option<i64> = self.take()?;
        raw.map(|raw| Pid::new(raw).ok_or_else(|| self.bad(&raw.to_string()))).transpose()
    }

    /// Reads an unsigned number, which SQLite stores as the signed one with the same bits.
    pub(super) fn u64(&mut self) -> rusqlite::Result<u64> {
        self.take().map(i64::cast_unsigned)
    }

    pub(super) fn u64_opt(&mut self) -> rusqlite::Result<Option<u64>> {
        Ok(self.take::<Option<i64>>()?.map(i64::cast_unsigned))
    }

    pub(super) fn time(&mut self) -> rusqlite::Result<Millis> {
        self.take().map(Millis)
    }

    pub(super) fn time_opt(&mut self) -> rusqlite::Result<Option<Millis>> {
        Ok(self.take::<Option<i64>>()?.map(Millis))
    }

    pub(super) fn millis(&mut self) -> rusqlite::Result<Duration> {
        self.take().map(span)
    }

    pub(super) fn millis_opt(&mut self) -> rusqlite::Result<Option<Duration>> {
        Ok(self.take::<Option<i64>>()?.map(span))
    }

    pub(super) fn task(&mut self) -> rusqlite::Result<Option<TaskId>> {
        self.parse_opt(|text| TaskId::new(text).ok())
    }

    /// Reads a JSON array of strings.
    pub(super) fn command(&mut self) -> rusqlite::Result<Vec<String>> {
        self.parse(|text| serde_json::from_str(text).ok())
    }

    /// Reads `machine_id`, `boot_id`, `pid_namespace`, `boottime_offset`.
    pub(super) fn place(&mut self) -> rusqlite::Result<Place> {
        Ok(Place {
            machine_id: self.parse_opt(uuid)?,
            boot_id: self.parse(uuid)?,
            pid_namespace: self.u64()?,
            boottime_offset: self.take()?,
        })
    }

    /// Reads `exit_code`, `exit_signal`; both NULL in an ended row: the status could not be observed.
    pub(super) fn status(&mut self, ended: bool) -> rusqlite::Result<Option<ExitStatus>> {
        let (code, signal): (Option<i32>, Option<i32>) = (self.take()?, self.take()?);
        let known = code.map(ExitStatus::Exited).or(signal.map(ExitStatus::Signaled));
        Ok(known.or(ended.then_some(ExitStatus::Unobserved)))
    }

    fn bad(&self, value: &str) -> rusqlite::Error {
        let why = format!("{value:?} is not a value of this column");
        rusqlite::Error::FromSqlConversionFailure(self.next - 1, Type::Text, why.into())
    }
}

/// Parses a UUID, with hyphens or without.
pub(super) fn uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok()
}

/// Formats 32 hex digits, as in `/etc/machine-id`.
pub(super) fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

fn span(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
