//! A pass in progress.

use std::time::{Duration, Instant};

use crate::model::{Millis, PassKind, PassRecord, Report};

/// A pass in progress.
#[derive(Clone, Copy, Debug)]
pub(in crate::tracker) struct PassRun {
    pub(in crate::tracker) kind: PassKind,
    pub(in crate::tracker) started_at: Millis,
    pub(in crate::tracker) began: Instant,
}

impl PassRun {
    pub(in crate::tracker) fn begin(kind: PassKind) -> Self {
        Self { kind, started_at: Millis::now(), began: Instant::now() }
    }

    /// Returns its record, with the figures of `report`.
    pub(in crate::tracker) fn record(&self, report: &Report) -> PassRecord {
        let duration: Duration = self.began.elapsed();
        PassRecord {
            kind: self.kind,
            started_at: self.started_at.into(),
            duration,
            checked: report.checked,
            found: report.endings.len() as u64,
            ended: report.ended(),
            survived: report.survived(),
            unknown: report.suspects.len() as u64,
            error: report.errors.first().cloned(),
        }
    }
}
