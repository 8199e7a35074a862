//! In which order a tree is ended: which signals its members get, and how long each of them waits for the next.
//!
//! 1. The steps of the plan, one after the other: a signal, then SIGCONT, since a stopped process keeps the signal pending. Each
//!    step lasts for the grace of the tree, and for longer while members keep dying.
//! 2. SIGKILL, to all that are left.

use std::time::{Duration, Instant};

use crate::sys::Signal;

/// The grace starts anew while members keep dying, but lasts no longer than this in all, unless a single grace is longer.
const GRACE_CAP: Duration = Duration::from_secs(2);
/// Limit on kill rounds. Each kill is followed by another scan; only what a member in uninterruptible sleep starts later needs
/// more than one. Each tree has its own rounds: a fork storm must not use up those of another tree.
const KILL_ROUNDS: u32 = 10;

/// The signals by which trees are asked to end; never empty.
#[derive(Clone, Debug)]
pub(in crate::tracker) struct EndPlan(Vec<Step>);

/// A request to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) signal: Signal,
    pub(super) to: Recipients,
}

/// The members that get the signal of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipients {
    /// The root. The step is over once it has ended.
    Root,
    /// Each member that has got no signal yet.
    Rest,
}

impl EndPlan {
    /// Sends a signal to all members at once.
    pub(in crate::tracker) fn at_once(signal: Signal) -> Self {
        Self(vec![Step { signal, to: Recipients::Rest }])
    }

    /// Sends it to the root alone first; to the other members once that has ended, or its grace is over. They then have a grace
    /// of their own.
    pub(in crate::tracker) fn root_first(signal: Signal) -> Self {
        Self([Recipients::Root, Recipients::Rest].map(|to| Step { signal, to }).into())
    }
}

impl Default for EndPlan {
    fn default() -> Self {
        Self::at_once(Signal::TERM)
    }
}

/// How far the end of a tree has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The step with this number began then.
    Asking { step: usize, since: Instant },
    /// The last grace is over. It was frozen and killed so often.
    Killing { rounds: u32 },
    /// It was interrupted in a grace: nothing more is done to it.
    Interrupted,
}

impl Stage {
    /// Returns the first stage of an end that begins now.
    pub(super) fn first() -> Self {
        Self::Asking { step: 0, since: Instant::now() }
    }

    pub(super) fn is_killing(self) -> bool {
        matches!(self, Self::Killing { .. })
    }

    /// Returns whether another round of kills is allowed.
    pub(super) fn may_kill(self) -> bool {
        matches!(self, Self::Killing { rounds } if rounds < KILL_ROUNDS)
    }

    /// Returns the step that is being done.
    pub(super) fn step(self, plan: &EndPlan) -> Option<Step> {
        match self {
            Self::Asking { step, .. } => plan.0.get(step).copied(),
            Self::Killing { .. } | Self::Interrupted => None,
        }
    }

    /// Returns when the step that is being done is over, for a tree with this grace, a member of which died last at `progress`.
    pub(super) fn deadline(self, grace: Duration, progress: Instant) -> Option<Instant> {
        match self {
            Self::Asking { since, .. } => {
                Some((progress.max(since) + grace).min(since + grace.max(GRACE_CAP)))
            }
            Self::Killing { .. } | Self::Interrupted => None,
        }
    }

    /// Returns the stage that follows a step; `None` where that is not another step.
    pub(super) fn next_step(self, plan: &EndPlan, now: Instant) -> Option<Self> {
        match self {
            Self::Asking { step, .. } if step + 1 < plan.0.len() => {
                Some(Self::Asking { step: step + 1, since: now })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);

    #[test]
    fn a_step_lasts_for_the_grace_and_longer_while_members_die() {
        let since = Instant::now();
        let stage = Stage::Asking { step: 0, since };
        assert_eq!(stage.deadline(GRACE, since), Some(since + GRACE));
        let progress = since + Duration::from_secs(1);
        assert_eq!(stage.deadline(GRACE, progress), Some(progress + GRACE));
        let long_after = since + Duration::from_mins(1);
        assert_eq!(stage.deadline(GRACE, long_after), Some(since + GRACE_CAP));
        let minute = Duration::from_mins(1);
        assert_eq!(stage.deadline(minute, since), Some(since + minute), "a grace is never cut");
        assert_eq!(Stage::Killing { rounds: 0 }.deadline(GRACE, since), None);
    }

    #[test]
    fn steps_follow_each_other_and_kills_are_limited() {
        let now = Instant::now();
        let plan = EndPlan::root_first(Signal::TERM);
        let first = Stage::first();
        assert_eq!(first.step(&plan).map(|step| step.to), Some(Recipients::Root));
        let second = first.next_step(&plan, now).expect("a step");
        assert_eq!(second.step(&plan).map(|step| step.to), Some(Recipients::Rest));
        assert_eq!(second.next_step(&plan, now), None);
        assert_eq!(first.next_step(&EndPlan::default(), now), None);
        assert!(Stage::Killing { rounds: KILL_ROUNDS - 1 }.may_kill());
        assert!(!Stage::Killing { rounds: KILL_ROUNDS }.may_kill() && !first.may_kill());
    }
}
