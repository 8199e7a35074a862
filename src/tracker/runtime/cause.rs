//! Why trees are ended.

use crate::model::{EndReason, LeakKind, Rule, RuleKey};

/// Why trees are ended, as recorded in their rows.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct Cause {
    pub(in crate::tracker) reason: EndReason,
    /// The kind of leak as which their members count, if they do.
    pub(in crate::tracker) leak: Option<LeakKind>,
    pub(in crate::tracker) rule: Rule,
}

impl Cause {
    /// Returns the cause for which strays are ended.
    pub(in crate::tracker) fn stray() -> Self {
        Self {
            reason: EndReason::Stray,
            leak: Some(LeakKind::Stray),
            rule: RuleKey::RootEnded.into(),
        }
    }
}
