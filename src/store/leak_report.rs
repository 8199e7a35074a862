//! Reads everything that is known about leaks at one moment.

use super::{LeakGroup, LeakGrouping, Store, leaks, passes};
use crate::{
    error::Result,
    model::{LeakRecord, Millis, PassSummary},
};

/// The leaks since a given time, counted by each key, and the passes that looked for them. They are
/// read in one transaction, so that all sums agree.
#[derive(Clone, Debug)]
pub struct LeakReport {
    /// By hour (UTC), newest first.
    pub by_hour: Vec<LeakGroup>,
    /// By day (UTC), newest first.
    pub by_day: Vec<LeakGroup>,
    /// By task, most leaks first.
    pub by_task: Vec<LeakGroup>,
    /// By rule, most leaks first.
    pub by_rule: Vec<LeakGroup>,
    /// By program, most leaks first.
    pub by_program: Vec<LeakGroup>,
    /// The newest leaks.
    pub newest: Vec<LeakRecord>,
    /// The passes of each kind.
    pub passes: Vec<PassSummary>,
}

impl Store {
    /// Reads the whole report in one transaction.
    pub(crate) fn leak_report(&self, since: Option<Millis>, limit: u32) -> Result<LeakReport> {
        let since = leaks::from(since);
        self.read("read the leaks", |connection| {
            let snapshot = connection.unchecked_transaction()?;
            let by = |by| leaks::groups(&snapshot, self.schema(), since, by);
            Ok(LeakReport {
                by_hour: by(LeakGrouping::Hour)?,
                by_day: by(LeakGrouping::Day)?,
                by_task: by(LeakGrouping::Task)?,
                by_rule: by(LeakGrouping::Rule)?,
                by_program: by(LeakGrouping::Program)?,
                newest: leaks::list(&snapshot, self.schema(), None, since, Some(limit))?,
                passes: passes::summaries(&snapshot, since)?,
            })
        })
    }
}
