//! The rows of a batch as columns: each statement takes arrays, whatever the number of rows.

use chrono::{DateTime, Utc};
use postgres::types::ToSql;

use crate::model::{
    Justification, Millis, PassDay, ProcessRecord, StreamLeak, StreamProcess, millis,
};

/// The first and the last millisecond that every engine can represent: the years 1 to 9999.
const EARLIEST: i64 = -62_135_596_800_000;
const LATEST: i64 = 253_402_300_799_999;

/// Maximum length of a file name. A process can give itself any name, and the sums by program have
/// an index on it.
const PROGRAM_MAX: usize = 255;

/// A parameter of a statement.
pub(super) type Column = Box<dyn ToSql + Sync + Send>;

/// How rows are shipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commands {
    /// Whether arguments are shipped as well.
    pub(super) whole: bool,
}

/// Converts a time; one that the fleet cannot represent becomes the nearest that it can.
pub(super) fn at(time: impl Into<Millis>) -> DateTime<Utc> {
    let time = time.into().0.clamp(EARLIEST, LATEST);
    DateTime::from_timestamp_millis(time).unwrap_or_default()
}

/// PostgreSQL has no text with a NUL.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn column<R, T: ToSql + Sync + Send + 'static>(rows: &[R], of: impl Fn(&R) -> T) -> Column
where
    Vec<T>: ToSql,
{
    Box::new(rows.iter().map(of).collect::<Vec<T>>())
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn pid(pid: crate::identity::Pid) -> i32 {
    i32::try_from(pid.get()).unwrap_or(i32::MAX)
}

impl Commands {
    /// Returns the last part of a command's first word, cut off where it cannot be the name of a
    /// file.
    fn program(command: &[String]) -> String {
        let word = command.first().map_or("", String::as_str);
        let mut program = text(word.rsplit('/').next().unwrap_or_default());
        program.truncate(program.floor_char_boundary(PROGRAM_MAX));
        program
    }

    /// Returns a command as a JSON array.
    fn json(self, command: &[String]) -> String {
        let shown = if self.whole { command.to_vec() } else { vec![Self::program(command)] };
        text(&serde_json::Value::from(shown).to_string())
    }

    /// Returns what a live process and one that has ended have in common, in the order of
    /// `ship_live.sql` and `ship_ended.sql`.
    fn common(self, rows: &[StreamProcess]) -> Vec<Column> {
        vec![
            column(rows, |it| it.row.id.0),
            column(rows, |it| it.print.cast_signed()),
            column(rows, |it| it.row.spec.root.map(|root| root.0)),
            column(rows, |it| it.row.spec.task_id.as_ref().map(|task| text(task.as_str()))),
            column(rows, |it| pid(it.row.pid())),
            column(rows, |it| it.row.spec.origin.as_str()),
            column(rows, |it| it.row.spec.containment.as_str()),
            column(rows, |it| text(&it.row.owner_program)),
            column(rows, |it| i64::from(it.row.spec.uid)),
            column(rows, |it| Self::program(&it.row.spec.command)),
            column(rows, |it| self.json(&it.row.spec.command)),
            column(rows, |it| at(it.row.spec.started_at)),
            column(rows, |it| it.row.peak_rss.map(bytes)),
            column(rows, |it| it.row.cpu.map(millis)),
            column(rows, |it| it.row.last_error.as_deref().map(text)),
        ]
    }

    pub(super) fn live(self, rows: &[StreamProcess]) -> Vec<Column> {
        let mut columns = self.common(rows);
        columns.push(column(rows, |it| it.row.life.state().as_str()));
        columns.push(column(rows, |it| it.row.spec.limits.survive));
        columns
    }

    pub(super) fn ended(self, rows: &[StreamProcess]) -> Vec<Column> {
        let mut columns = self.common(rows);
        let end = |it: &StreamProcess| it.row.life.end().cloned();
        columns.extend([
            column(rows, |it| end(it).map(|end| at(end.at))),
            column(rows, |it| end(it).map(|end| end.reason.as_str())),
            column(rows, |it| because(&it.row).map(|because| text(&because.rule))),
            column(rows, |it| because(&it.row).map(|because| because.rule_key.as_str())),
            column(rows, |it| because(&it.row).map(|because| text(&because.evidence))),
            column(rows, |it| end(it).and_then(|end| end.status.code())),
            column(rows, |it| end(it).and_then(|end| end.status.signal())),
            column(rows, |it| it.row.requested_by.as_deref().map(text)),
        ]);
        columns
    }

    pub(super) fn leaks(self, rows: &[StreamLeak]) -> Vec<Column> {
        vec![
            column(rows, |it| it.id),
            column(rows, |it| it.print.cast_signed()),
            column(rows, |it| it.row.process.0),
            column(rows, |it| it.row.root.0),
            column(rows, |it| it.row.verified),
            column(rows, |it| it.row.task_id.as_ref().map(|task| text(task.as_str()))),
            column(rows, |it| pid(it.row.pid)),
            column(rows, |it| it.row.kind.as_str()),
            column(rows, |it| text(&it.row.rule)),
            column(rows, |it| it.row.rule_key.as_str()),
            column(rows, |it| text(&it.row.evidence)),
            column(rows, |it| it.row.evidence_key.as_str()),
            column(rows, |it| at(it.row.found_at)),
            column(rows, |it| millis(it.row.age)),
            column(rows, |it| it.row.rss_bytes.map(bytes)),
            column(rows, |it| it.row.outcome.as_str()),
            column(rows, |it| it.row.died_after.map(millis)),
            column(rows, |it| Self::program(&it.row.command)),
            column(rows, |it| self.json(&it.row.command)),
            column(rows, |it| it.row.stop_signal),
        ]
    }
}

fn because(row: &ProcessRecord) -> Option<&Justification> {
    row.life.end()?.because.as_ref()
}

pub(super) fn pass_days(days: &[PassDay]) -> Vec<Column> {
    vec![
        column(days, |it| at(it.start).date_naive()),
        column(days, |it| it.kind.as_str()),
        column(days, |it| it.passes),
        column(days, |it| it.failed),
        column(days, |it| it.longest_gap_ms),
        column(days, |it| at(it.last_at)),
    ]
}
