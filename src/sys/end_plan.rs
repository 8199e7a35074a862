//! The end plan: how a tree is asked to end before it is killed, with which signals and waits, and
//! whether its root is asked first.
//!
//! One type is used everywhere: a job has it, the row and `ps --json` show it, a keeper receives
//! it, a call may replace it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Signal;
use crate::error::{Error, Result};

/// Maximum number of stop signals: a program that has ignored this many will ignore the next one.
const SIGNALS_MAX: usize = 8;
/// Maximum of the sum of their waits.
const WAITS_MAX: Duration = Duration::from_hours(24);
/// Maximum of a grace: a thousand years, since clocks cannot count much further.
const GRACE_MAX: Duration = Duration::from_hours(24 * 366 * 1000);

/// A wait starts anew whenever a member dies, but lasts no longer than this in all, unless a single
/// wait is longer.
pub(crate) const WAIT_CAP: Duration = Duration::from_secs(2);

/// How trees are asked to end: by default with SIGTERM to all members at once, and SIGKILL to those
/// that are left after the grace period.
///
/// The plan of a job is set by [`Job::stop_signals`](crate::Job::stop_signals),
/// [`Job::root_first`](crate::Job::root_first) and [`Job::grace`](crate::Job::grace), and every
/// instance that ends its tree follows it. A plan that is passed to a call, such as
/// [`Process::terminate_with`](crate::Process::terminate_with) or
/// [`Tracker::kill_with`](crate::Tracker::kill_with), replaces only the settings that it contains.
///
/// ```
/// use std::time::Duration;
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
/// # tracker.spawn(procledger::Job::new("web", "sleep").arg("300"))?;
/// // SIGINT to the program alone, SIGINT to the rest of its tree when it has ended, SIGKILL after 20 s.
/// let plan = procledger::EndPlan::new().signal(2).root_first(true).grace(Duration::from_secs(20));
/// let report = tracker.kill_with(&["web"], "the operator", &plan)?;
/// assert_eq!(report.survived(), 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[must_use]
pub struct EndPlan {
    /// Time from the first signal to SIGKILL; a row has a separate column for it.
    #[serde(skip)]
    grace: Option<Duration>,
    /// The only signal, set by a call, which is followed by the whole grace period.
    #[serde(skip)]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_signals: Vec<StopSignal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_first: Option<bool>,
}

/// A signal, and the time that its recipients have before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StopSignal {
    signal: i32,
    wait_ms: u64,
}

impl EndPlan {
    /// Creates a plan that changes nothing: trees are ended as their jobs say.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time between the first signal and SIGKILL. Stop signals that would come later are
    /// omitted, and the last one is followed by the remaining time.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Sets the only signal before SIGKILL, by its number in signal(7); the whole grace period
    /// follows it. SIGKILL is allowed, but since the tree is not frozen first, it may have to be
    /// repeated for processes that are forked meanwhile.
    pub fn signal(mut self, signal: i32) -> Self {
        self.signal = Some(signal);
        self.stop_signals.clear();
        self
    }

    /// Sets the signals before SIGKILL, 1 to 8 of them, each with the time that its recipients have
    /// before the next one, in milliseconds at the finest. A process that appears meanwhile gets
    /// the remaining signals.
    ///
    /// If no grace is set, it is the sum of the waits, at most a day.
    pub fn stop_signals(mut self, signals: impl IntoIterator<Item = (i32, Duration)>) -> Self {
        let in_ms = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let stop = |(signal, wait)| StopSignal { signal, wait_ms: in_ms(wait) };
        self.stop_signals = signals.into_iter().map(stop).collect();
        self.signal = None;
        self
    }

    /// Sets whether the root of each tree is asked to end before its descendants, for a program
    /// that needs its helper processes to end properly. The descendants are asked once the root has
    /// ended, or has received all signals and its grace period is over; they have their own grace
    /// period.
    pub fn root_first(mut self, on: bool) -> Self {
        self.root_first = Some(on);
        self
    }

    /// Returns the signals before SIGKILL with their waits; none if the plan does not set them:
    /// then those of the job apply, or SIGTERM.
    pub fn get_stop_signals(&self) -> impl Iterator<Item = (i32, Duration)> {
        self.stop_signals.iter().map(|stop| (stop.signal, Duration::from_millis(stop.wait_ms)))
    }

    /// Returns whether the root of each tree is asked first; `None` if the plan does not set this.
    pub fn get_root_first(&self) -> Option<bool> {
        self.root_first
    }

    /// Returns whether the plan sets nothing but a grace.
    pub(crate) fn is_default(&self) -> bool {
        let Self { signal, stop_signals, root_first, .. } = self;
        signal.is_none() && stop_signals.is_empty() && !root_first.unwrap_or(false)
    }

    /// Checks the plan. Every call that takes a plan does this before anything is started or
    /// signalled.
    ///
    /// # Errors
    ///
    /// Invalid input for a number that is no signal, for SIGKILL and SIGSTOP among the stop
    /// signals, for more than 8 stop signals, and for waits of more than a day in all.
    pub fn check(&self) -> Result<()> {
        if let Some(signal) = self.signal {
            number(signal)?;
        }
        for (signal, _) in self.get_stop_signals() {
            let name = match number(signal)? {
                Signal::KILL => "SIGKILL",
                Signal::STOP => "SIGSTOP",
                _ => continue,
            };
            return Err(Error::invalid(format!(
                "{name} is not a stop signal: no program can act on it, and SIGKILL follows the stop signals anyway"
            )));
        }
        if self.stop_signals.len() > SIGNALS_MAX {
            let count = self.stop_signals.len();
            return Err(Error::invalid(format!(
                "{count} stop signals are too many: use at most {SIGNALS_MAX}"
            )));
        }
        if self.stop_signals_last() > WAITS_MAX {
            return Err(Error::invalid("the waits of the stop signals add up to more than a day"));
        }
        Ok(())
    }

    fn stop_signals_last(&self) -> Duration {
        self.get_stop_signals().fold(Duration::ZERO, |sum, (_, wait)| sum.saturating_add(wait))
    }

    /// Replaces the settings of a task's plan, and its grace, by those that this plan contains.
    pub(crate) fn replace_in(&self, plan: &mut Self, grace: &mut Duration) {
        let has_signals = !self.stop_signals.is_empty();
        if let Some(replaced) = self.grace.or(has_signals.then(|| self.stop_signals_last())) {
            *grace = replaced;
        }
        if has_signals || self.signal.is_some() {
            plan.signal = self.signal;
            plan.stop_signals.clone_from(&self.stop_signals);
        }
        plan.root_first = self.root_first.or(plan.root_first);
    }

    /// Returns the time between the first signal to a tree with this grace and SIGKILL, apart from
    /// the cap on its first wait.
    pub(crate) fn asking_time(&self, grace: Duration) -> Duration {
        let signals = u32::try_from(self.stop_signals.len().max(1)).unwrap_or(u32::MAX);
        let times = if self.root_first == Some(true) { 2 } else { 1 };
        let caps = WAIT_CAP.saturating_mul(signals * times - 1);
        grace.min(GRACE_MAX) * times + caps
    }

    /// Returns the signals for a tree with this grace, each with the wait after it: at least one,
    /// and `grace` in all.
    pub(crate) fn signals(&self, grace: Duration) -> Vec<(Signal, Duration)> {
        let known = |(signal, wait)| Some((Signal::from_number(signal)?, wait));
        let grace = grace.min(GRACE_MAX);
        let single = self.signal.and_then(Signal::from_number).map(|signal| (signal, grace));
        let mut signals: Vec<_> = match single {
            Some(signal) => vec![signal],
            None => self.get_stop_signals().filter_map(known).collect(),
        };
        if signals.is_empty() {
            signals.push((Signal::TERM, grace));
        }
        let mut left = grace;
        let mut kept = 0;
        for (_, wait) in &mut signals {
            if kept > 0 && left.is_zero() {
                break;
            }
            *wait = left.min(*wait);
            left -= *wait;
            kept += 1;
        }
        signals.truncate(kept);
        if let Some((_, wait)) = signals.last_mut() {
            *wait += left;
        }
        signals
    }
}

fn number(signal: i32) -> Result<Signal> {
    Signal::from_number(signal).ok_or_else(|| {
        Error::invalid(format!("{signal} is not a signal: use 1 to {}", Signal::LAST))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stops(seconds: [(i32, u32); 3]) -> EndPlan {
        EndPlan::new().stop_signals(seconds.map(|(signal, wait)| (signal, SECOND * wait)))
    }

    fn signals(plan: &EndPlan, grace: u32) -> Vec<(i32, u64)> {
        let number = |signal| (1..=64).find(|number| Signal::from_number(*number) == Some(signal));
        let signals = plan.signals(SECOND * grace).into_iter();
        signals.map(|(signal, wait)| (number(signal).expect("a number"), wait.as_secs())).collect()
    }

    #[test]
    fn a_grace_omits_the_last_signals_or_lengthens_the_last_wait() {
        let plan = stops([(2, 1), (15, 2), (3, 3)]);
        assert_eq!(signals(&plan, 6), [(2, 1), (15, 2), (3, 3)]);
        assert_eq!(signals(&plan, 2), [(2, 1), (15, 1)]);
        assert_eq!(signals(&plan, 3), [(2, 1), (15, 2)]);
        assert_eq!(signals(&plan, 0), [(2, 0)]);
        assert_eq!(signals(&plan, 9), [(2, 1), (15, 2), (3, 6)]);
        assert_eq!(signals(&EndPlan::new(), 5), [(15, 5)]);
        assert_eq!(signals(&EndPlan::new().signal(9), 5), [(9, 5)]);
    }

    #[test]
    fn a_call_replaces_only_the_settings_that_it_contains() {
        let replaced = |call: EndPlan| {
            let (mut plan, mut grace) =
                (stops([(2, 1), (15, 2), (3, 3)]).root_first(true), SECOND * 6);
            call.replace_in(&mut plan, &mut grace);
            (signals(&plan, u32::try_from(grace.as_secs()).unwrap()), plan.get_root_first())
        };
        assert_eq!(replaced(EndPlan::new()).0, [(2, 1), (15, 2), (3, 3)]);
        assert_eq!(replaced(EndPlan::new().grace(SECOND)), (vec![(2, 1)], Some(true)));
        assert_eq!(replaced(EndPlan::new().signal(1)).0, [(1, 6)]);
        assert_eq!(replaced(EndPlan::new().signal(1).grace(SECOND)).0, [(1, 1)]);
        assert_eq!(replaced(EndPlan::new().stop_signals([(1, SECOND)])).0, [(1, 1)]);
        assert_eq!(replaced(EndPlan::new().root_first(false)).1, Some(false));
    }

    #[test]
    fn each_further_step_may_take_longer_than_its_wait() {
        let plan = stops([(2, 1), (15, 2), (3, 3)]);
        assert_eq!(EndPlan::new().asking_time(SECOND), SECOND);
        assert_eq!(EndPlan::new().root_first(true).asking_time(SECOND), SECOND * 2 + WAIT_CAP);
        assert_eq!(plan.asking_time(SECOND * 6), SECOND * 6 + WAIT_CAP * 2);
        assert_eq!(plan.root_first(true).asking_time(SECOND * 6), SECOND * 12 + WAIT_CAP * 5);
        assert_eq!(EndPlan::new().asking_time(Duration::MAX), GRACE_MAX);
        assert_eq!(EndPlan::new().signals(Duration::MAX), [(Signal::TERM, GRACE_MAX)]);
    }

    #[test]
    fn bad_plans_are_refused_each_with_its_reason() {
        let stop = |signal, wait| EndPlan::new().stop_signals([(signal, wait)]);
        for (plan, why) in [
            (EndPlan::new().signal(0), "0 is not a signal"),
            (stop(-1, SECOND), "-1 is not a signal"),
            (stop(65, SECOND), "65 is not a signal"),
            (stop(libc::SIGKILL, SECOND), "SIGKILL is not a stop signal"),
            (stop(libc::SIGSTOP, SECOND), "SIGSTOP is not a stop signal"),
            (EndPlan::new().stop_signals([(2, SECOND); 9]), "9 stop signals are too many"),
            (stop(2, Duration::MAX), "more than a day"),
            (EndPlan::new().stop_signals([(2, SECOND * 50_000); 2]), "more than a day"),
        ] {
            let error = plan.check().expect_err(why);
            assert!(error.is_invalid_input() && error.to_string().contains(why), "{error}");
        }
        let most = EndPlan::new().stop_signals([(64, SECOND * 10_800); 8]);
        assert!(most.check().is_ok() && EndPlan::new().signal(9).check().is_ok());
    }

    #[test]
    fn a_row_has_the_signals_and_the_order() {
        let plan = stops([(2, 1), (15, 2), (3, 3)]).root_first(true).grace(SECOND);
        let json = serde_json::to_string(&plan).unwrap();
        let text = r#"{"stop_signals":[{"signal":2,"wait_ms":1000},{"signal":15,"wait_ms":2000},{"signal":3,"wait_ms":3000}],"root_first":true}"#;
        assert_eq!(json, text);
        assert_eq!(serde_json::from_str::<EndPlan>(text).unwrap(), EndPlan { grace: None, ..plan });
        assert!(serde_json::from_str::<EndPlan>("{}").unwrap().is_default());
    }
}
