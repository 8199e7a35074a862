//! Why trees are ended.

use crate::model::{EndReason, LeakKind};

/// Why trees are ended, as recorded in their rows.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct Cause {
    pub(in crate::tracker) reason: EndReason,
    /// The kind of leak that their members count as, if they do.
    pub(in crate::tracker) leak: Option<LeakKind>,
    /// The rule, in words.
    pub(in crate::tracker) rule: String,
}

impl Cause {
    /// Returns the cause for which strays are ended.
    pub(in crate::tracker) fn stray() -> Self {
        Self {
            reason: EndReason::Stray,
            leak: Some(LeakKind::Stray),
            rule: "its root had ended".into(),
        }
    }
}

/// The rule by which a pass ends what an earlier attempt did not.
pub(in crate::tracker) const SURVIVED: &str = "it had survived an earlier attempt";
