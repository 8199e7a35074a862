//! Cells: how the values of records are written to the ledger, and read from it.

use std::time::{Duration, SystemTime};

use rusqlite::{
    Row,
    types::{ToSqlOutput, Value, ValueRef},
};
use uuid::Uuid;

use crate::{
    identity::{Pid, PidScope},
    model::{
        Attributes, Containment, EndPlan, EndReason, EvidenceKey, ExitStatus, InstanceId, LeakKind,
        Millis, Origin, Outcome, PassKind, ProcessId, RuleKey, State, StopHow, TaskId, millis,
    },
};

/// A value in one cell of the ledger.
pub(super) trait Cell: Sized {
    fn write(&self) -> ToSqlOutput<'_>;

    /// Returns the value; `None` for a cell that no version of this program has written.
    fn read(cell: ValueRef<'_>) -> Option<Self>;
}

/// Reads the cells of a row, one after the other, in the order in which the query selects them.
pub(super) struct RowReader<'a, 'stmt> {
    row: &'a Row<'stmt>,
    next: usize,
}

impl<'a, 'stmt> RowReader<'a, 'stmt> {
    pub(super) fn of(row: &'a Row<'stmt>) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn take<T: Cell>(&mut self) -> rusqlite::Result<T> {
        let (index, cell) = (self.next, self.row.get_ref(self.next)?);
        self.next += 1;
        T::read(cell).ok_or_else(|| {
            let shown =
                Value::try_from(cell).map_or_else(|_| "BLOB".into(), |it| format!("{it:?}"));
            let why = format!("{shown} is not a value of this column");
            rusqlite::Error::FromSqlConversionFailure(index, cell.data_type(), why.into())
        })
    }

    /// Reads `machine_id`, `boot_id`, `pid_namespace`, `boottime_offset`.
    pub(super) fn pid_scope(&mut self) -> rusqlite::Result<PidScope> {
        Ok(PidScope {
            machine_id: self.take()?,
            boot_id: self.take()?,
            pid_namespace: self.take()?,
            boottime_offset: self.take()?,
        })
    }
}

/// Returns the status in `exit_code` and `exit_signal`. If both are NULL, none could be observed.
pub(super) fn status(code: Option<i32>, signal: Option<i32>) -> ExitStatus {
    let known = code.map(ExitStatus::Exited).or(signal.map(ExitStatus::Signaled));
    known.unwrap_or(ExitStatus::Unobserved)
}

/// Formats 32 hex digits, as in `/etc/machine-id`.
pub(super) fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

fn number(value: i64) -> ToSqlOutput<'static> {
    ToSqlOutput::Owned(Value::Integer(value))
}

fn text(value: &str) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(value.into())
}

impl<T: Cell> Cell for Option<T> {
    fn write(&self) -> ToSqlOutput<'_> {
        self.as_ref().map_or(ToSqlOutput::Owned(Value::Null), Cell::write)
    }

    fn read(cell: ValueRef<'_>) -> Option<Self> {
        if cell == ValueRef::Null { Some(None) } else { T::read(cell).map(Some) }
    }
}

/// A value that is written as an integer.
macro_rules! integers {
    ($($type:ty: |$self:ident| $write:expr, |$number:ident| $read:expr;)+) => {$(
        impl Cell for $type {
            fn write(&self) -> ToSqlOutput<'_> {
                let $self = self;
                number($write)
            }

            fn read(cell: ValueRef<'_>) -> Option<Self> {
                let $number = cell.as_i64().ok()?;
                $read
            }
        }
    )+};
}

integers! {
    i64: |it| *it, |number| Some(number);
    i32: |it| i64::from(*it), |number| i32::try_from(number).ok();
    u32: |it| i64::from(*it), |number| u32::try_from(number).ok();
    // Stored as the signed number with the same bits.
    u64: |it| it.cast_signed(), |number| Some(number.cast_unsigned());
    bool: |it| i64::from(*it), |number| Some(number != 0);
    Pid: |it| i64::from(it.get()), |number| Self::new(number);
    ProcessId: |it| it.0, |number| Some(Self(number));
    InstanceId: |it| it.0, |number| Some(Self(number));
    Millis: |it| it.0, |number| Some(Self(number));
    SystemTime: |it| Millis::from(*it).0, |number| Some(Millis(number).into());
    Duration: |it| millis(*it), |number| Some(Self::from_millis(u64::try_from(number).unwrap_or(0)));
}

impl Cell for f64 {
    fn write(&self) -> ToSqlOutput<'_> {
        ToSqlOutput::Owned(Value::Real(*self))
    }

    fn read(cell: ValueRef<'_>) -> Option<Self> {
        cell.as_f64().ok()
    }
}

/// A value that is written as a text.
macro_rules! texts {
    ($($type:ty: |$self:ident| $write:expr, |$text:ident| $read:expr;)+) => {$(
        impl Cell for $type {
            fn write(&self) -> ToSqlOutput<'_> {
                let $self = self;
                $write
            }

            fn read(cell: ValueRef<'_>) -> Option<Self> {
                let $text = cell.as_str().ok()?;
                $read
            }
        }
    )+};
}

texts! {
    String: |it| text(it), |text| Some(text.to_owned());
    TaskId: |it| text(it.as_str()), |text| Self::new(text).ok();
    // Read with or without hyphens.
    Uuid: |it| ToSqlOutput::Owned(hex(*it).into()), |text| Self::try_parse(text).ok();
    // A JSON array of strings.
    Vec<String>: |it| ToSqlOutput::Owned(serde_json::Value::from(it.as_slice()).to_string().into()),
        |text| serde_json::from_str(text).ok();
    // A JSON object; all of its values have a form in JSON.
    Attributes: |it| ToSqlOutput::Owned(serde_json::to_string(it).unwrap_or_default().into()),
        |text| serde_json::from_str(text).ok();
    // A JSON object as well. One that this program cannot read must not prevent an end, which then
    // begins with SIGTERM.
    EndPlan: |it| ToSqlOutput::Owned(serde_json::to_string(it).unwrap_or_default().into()),
        |text| Some(serde_json::from_str(text).ok().filter(|it: &Self| it.check().is_ok()).unwrap_or_default());
    State: |it| text(it.as_str()), |text| Self::parse(text);
    Origin: |it| text(it.as_str()), |text| Self::parse(text);
    Containment: |it| text(it.as_str()), |text| Self::parse(text);
    EndReason: |it| text(it.as_str()), |text| Self::parse(text);
    StopHow: |it| text(it.as_str()), |text| Self::parse(text);
    LeakKind: |it| text(it.as_str()), |text| Self::parse(text);
    Outcome: |it| text(it.as_str()), |text| Self::parse(text);
    PassKind: |it| text(it.as_str()), |text| Self::parse(text);
    // A newer version may know more keys.
    RuleKey: |it| text(it.as_str()), |text| Some(Self::parse(text).unwrap_or(Self::Other));
    EvidenceKey: |it| text(it.as_str()), |text| Some(Self::parse(text).unwrap_or(Self::Other));
}

/// Returns row numbers as a JSON array for `json_each`.
pub(super) fn json(ids: &[ProcessId]) -> String {
    let numbers: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("[{}]", numbers.join(","))
}
