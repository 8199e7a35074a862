//! The steps of an end: the signals that the members of a tree get, their order, and the wait after
//! each.
//!
//! 1. The steps of the tree's plan, one after the other: a signal, then SIGCONT, since a stopped
//!    process keeps the signal pending. Each step lasts for its wait, and for longer while members
//!    keep dying. If the root is to end first, it gets all signals before the other members get the
//!    first.
//! 2. SIGKILL to all members that are left.

use std::time::{Duration, Instant};

use crate::{
    model::EndPlan,
    sys::{Signal, WAIT_CAP},
};

/// Limit on kill rounds. Each kill is followed by another scan; usually one round is enough, unless
/// a member in uninterruptible sleep starts processes later. Each tree has its own rounds, so that
/// a fork storm does not use up those of another tree.
const KILL_ROUNDS: u32 = 10;

/// One request to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) signal: Signal,
    pub(super) to: Recipients,
    wait: Duration,
}

/// The members that get the signal of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipients {
    All,
    /// Only the root. These steps are over once it has ended.
    Root,
    Descendants,
}

/// Returns the steps of a plan, at least one, for a tree with this grace.
pub(super) fn steps(plan: &EndPlan, grace: Duration) -> Vec<Step> {
    let to: &[Recipients] = match plan.get_root_first() {
        Some(true) => &[Recipients::Root, Recipients::Descendants],
        Some(false) | None => &[Recipients::All],
    };
    let signals = plan.signals(grace);
    let step = |to| signals.iter().map(move |&(signal, wait)| Step { signal, to, wait });
    to.iter().copied().flat_map(step).collect()
}

/// The stage of a tree's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The step with this number began at `since`.
    Asking { step: usize, since: Instant },
    /// The last grace is over, and the tree was frozen and killed this many times.
    Killing { rounds: u32 },
    /// The tree is being suspended, not ended.
    Suspending,
    /// The end was interrupted during a grace: nothing more is done to the tree.
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

    /// Returns whether all its members are to be stopped.
    pub(super) fn freezes(self) -> bool {
        matches!(self, Self::Killing { .. } | Self::Suspending)
    }

    /// Returns whether another round of kills is allowed.
    pub(super) fn may_kill(self) -> bool {
        matches!(self, Self::Killing { rounds } if rounds < KILL_ROUNDS)
    }

    /// Returns the same stage with a step that begins at `since`.
    pub(super) fn since(self, since: Instant) -> Self {
        match self {
            Self::Asking { step, .. } => Self::Asking { step, since },
            other => other,
        }
    }

    /// Returns the current step, and its number.
    pub(super) fn step(self, steps: &[Step]) -> Option<(usize, Step)> {
        match self {
            Self::Asking { step, .. } => Some((step, *steps.get(step)?)),
            Self::Killing { .. } | Self::Suspending | Self::Interrupted => None,
        }
    }

    /// Returns when the current step is over, for a tree whose last member to die died at
    /// `progress`.
    pub(super) fn deadline(self, steps: &[Step], progress: Instant) -> Option<Instant> {
        let Self::Asking { since, .. } = self else { return None };
        let wait = self.step(steps)?.1.wait;
        Some((progress.max(since) + wait).min(since + wait.max(WAIT_CAP)))
    }

    /// Returns the stage with the next step; `None` if there is no further step. The remaining
    /// steps of the root are skipped if it `has_ended`.
    pub(super) fn next_step(self, steps: &[Step], has_ended: bool, now: Instant) -> Option<Self> {
        let Self::Asking { step, .. } = self else { return None };
        let is_next = |next: &Step| !(has_ended && next.to == Recipients::Root);
        let next = steps.iter().skip(step + 1).position(is_next)?;
        Some(Self::Asking { step: step + 1 + next, since: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);

    fn root_first() -> Vec<Step> {
        let plan = EndPlan::new().stop_signals([(2, GRACE), (15, GRACE)]).root_first(true);
        steps(&plan, GRACE * 2)
    }

    #[test]
    fn a_step_lasts_for_its_wait_and_longer_while_members_die() {
        let since = Instant::now();
        let stage = Stage::Asking { step: 0, since };
        let step = steps(&EndPlan::new(), GRACE);
        assert_eq!(stage.deadline(&step, since), Some(since + GRACE));
        let progress = since + Duration::from_secs(1);
        assert_eq!(stage.deadline(&step, progress), Some(progress + GRACE));
        let long_after = since + Duration::from_mins(1);
        assert_eq!(stage.deadline(&step, long_after), Some(since + WAIT_CAP));
        let minute = Duration::from_mins(1);
        let long = steps(&EndPlan::new(), minute);
        assert_eq!(stage.deadline(&long, since), Some(since + minute), "a wait is never shortened");
        assert_eq!(Stage::Killing { rounds: 0 }.deadline(&step, since), None);
    }

    #[test]
    fn steps_follow_each_other_and_kills_are_limited() {
        let (now, steps) = (Instant::now(), root_first());
        let mut stage = Stage::first();
        let mut seen = Vec::new();
        while let Some((_, step)) = stage.step(&steps) {
            seen.push((step.signal, step.to));
            let Some(next) = stage.next_step(&steps, false, now) else { break };
            stage = next;
        }
        let int = Signal::from_number(2).expect("a signal");
        let of = |to| [(int, to), (Signal::TERM, to)];
        assert_eq!(seen, [of(Recipients::Root), of(Recipients::Descendants)].concat());
        assert!(Stage::Killing { rounds: KILL_ROUNDS - 1 }.may_kill());
        assert!(!Stage::Killing { rounds: KILL_ROUNDS }.may_kill() && !stage.may_kill());
    }

    #[test]
    fn the_steps_of_a_root_that_has_ended_are_skipped() {
        let steps = root_first();
        let second = Stage::first().next_step(&steps, true, Instant::now()).expect("a step");
        assert_eq!(
            second.step(&steps).map(|(number, step)| (number, step.to)),
            Some((2, Recipients::Descendants))
        );
    }
}
