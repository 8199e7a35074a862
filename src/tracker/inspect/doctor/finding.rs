//! Findings of `doctor`.

use serde::Serialize;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything is in order.
    Ok,
    /// It works, with a limitation.
    Warning,
    /// It does not work.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Name of the check, in a word or two.
    pub check: String,
    /// Severity.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do; empty if there is nothing to do.
    pub advice: String,
}

/// Creates a finding.
pub(super) fn finding(
    check: &str,
    level: Level,
    detail: impl Into<String>,
    advice: impl Into<String>,
) -> Finding {
    Finding { check: check.into(), level, detail: detail.into(), advice: advice.into() }
}
