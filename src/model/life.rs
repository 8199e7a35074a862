//! The life of a process in the ledger, and the events that change it.
//!
//! ```text
//!             Claim                Survived
//!  running ----------> ending ------------------> survived
//!     |  ^               |  ^                        |  |
//!     |  '---GiveBack----'  '---------Claim----------'  |
//!     |Died              |Died                      Died|
//!     '----------------> ended <------------------------'
//! ```
//!
//! `ended` is final. The store applies an event to the life of a row, and writes the result by a
//! conditional update: if zero rows changed, another instance has made a transition, and this one
//! stops.

use std::time::SystemTime;

use super::{
    EndReason, Evidence, EvidenceKey, ExitStatus, InstanceId, Millis, Rule, RuleKey, State,
};

/// The life of a process, as far as the ledger knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// Not known to have ended; not being ended.
    Running,
    /// An instance is ending it.
    Ending {
        /// That instance.
        claimed_by: InstanceId,
    },
    /// An attempt to end it failed; it is tried again at the next pass.
    Survived,
    /// It has ended. Final.
    Ended(End),
}

/// How and why a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it ended, or was found to have ended.
    pub at: SystemTime,
    /// Its exit status.
    pub status: ExitStatus,
    /// Whether it dumped core; `false` if that is not known.
    pub core_dumped: bool,
    /// Why it is no longer running.
    pub reason: EndReason,
    /// Why and on what evidence it was ended; `None` if it ended by itself.
    pub because: Option<Justification>,
}

impl End {
    /// Returns an end that nothing observed: its status is unknown, and no instance ended the
    /// process.
    pub(crate) fn unobserved(reason: EndReason, at: Millis) -> Self {
        Self {
            at: at.into(),
            status: ExitStatus::Unobserved,
            core_dumped: false,
            reason,
            because: None,
        }
    }
}

/// The rule and the evidence of a kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Justification {
    /// Why it was ended, as a sentence.
    pub rule: String,
    /// Identifies the rule.
    pub rule_key: RuleKey,
    /// The evidence that linked it to its task.
    pub evidence: String,
    /// Identifies the evidence.
    pub evidence_key: EvidenceKey,
}

impl Justification {
    pub(crate) fn new(rule: &Rule, evidence: Evidence) -> Self {
        Self {
            rule: rule.to_string(),
            rule_key: rule.key(),
            evidence: evidence.to_string(),
            evidence_key: evidence.key(),
        }
    }

    /// Returns the recorded justification. Keys that were not recorded are derived from the texts.
    pub(crate) fn recorded(
        (rule, rule_key): (String, Option<RuleKey>),
        (evidence, evidence_key): (String, Option<EvidenceKey>),
    ) -> Self {
        Self {
            rule_key: rule_key.unwrap_or_else(|| RuleKey::of_sentence(&rule)),
            rule,
            evidence_key: evidence_key.unwrap_or_else(|| EvidenceKey::of_text(&evidence)),
            evidence,
        }
    }
}

/// What can happen to a row.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// An instance begins to end it, or takes over the claim of another one.
    Claim(InstanceId),
    /// It is known to be dead, or was released by its owner, or a person closed its row with
    /// `forget`.
    Died(End),
    /// It could not be ended.
    Survived,
    /// A claim is given back, because its process cannot be identified.
    GiveBack,
    /// The next instance of the same program adopts it.
    Adopt,
}

/// An event that does not fit the life of a row.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a row that is {state} cannot accept {event:?}")]
pub(crate) struct IllegalTransition {
    state: State,
    event: Event,
}

impl Life {
    /// Returns the state of its row.
    pub fn state(&self) -> State {
        match self {
            Self::Running => State::Running,
            Self::Ending { .. } => State::Ending,
            Self::Survived => State::Survived,
            Self::Ended(_) => State::Ended,
        }
    }

    /// Returns the instance that is ending it.
    pub fn claimed_by(&self) -> Option<InstanceId> {
        if let Self::Ending { claimed_by } = self { Some(*claimed_by) } else { None }
    }

    /// Returns how it ended; `None` if it is not known to have ended.
    pub fn end(&self) -> Option<&End> {
        if let Self::Ended(end) = self { Some(end) } else { None }
    }

    /// Returns the life after `event`.
    ///
    /// # Errors
    ///
    /// If the event does not fit the life: `ended` accepts no event, `Survived` and `GiveBack`
    /// require a claim, and only a running row can be adopted.
    pub(crate) fn apply(&self, event: Event) -> Result<Self, IllegalTransition> {
        match (self, event) {
            (Self::Ended(_), event) => Err(IllegalTransition { state: State::Ended, event }),
            (_, Event::Claim(claimed_by)) => Ok(Self::Ending { claimed_by }),
            (_, Event::Died(end)) => Ok(Self::Ended(end)),
            (Self::Ending { .. }, Event::Survived) => Ok(Self::Survived),
            (Self::Ending { .. }, Event::GiveBack) | (Self::Running, Event::Adopt) => {
                Ok(Self::Running)
            }
            (life, event) => Err(IllegalTransition { state: life.state(), event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: InstanceId = InstanceId(1);

    fn end() -> End {
        End::unobserved(EndReason::Gone, Millis(0))
    }

    fn events() -> [Event; 5] {
        [Event::Claim(ME), Event::Died(end()), Event::Survived, Event::GiveBack, Event::Adopt]
    }

    #[test]
    fn ended_is_final() {
        let ended = Life::Ended(end());
        assert!(events().into_iter().all(|event| ended.apply(event).is_err()));
    }

    #[test]
    fn every_live_state_can_end_and_be_claimed() {
        for life in [Life::Running, Life::Ending { claimed_by: InstanceId(2) }, Life::Survived] {
            assert_eq!(life.apply(Event::Died(end())).expect("can end"), Life::Ended(end()));
            let claimed = life.apply(Event::Claim(ME)).expect("can be claimed");
            assert_eq!(claimed.claimed_by(), Some(ME));
        }
    }

    #[test]
    fn survival_and_return_need_a_claim() {
        for life in [Life::Running, Life::Survived] {
            assert!(life.apply(Event::Survived).is_err());
            assert!(life.apply(Event::GiveBack).is_err());
        }
        let ending = Life::Ending { claimed_by: ME };
        assert_eq!(ending.apply(Event::Survived).expect("claimed"), Life::Survived);
        assert_eq!(ending.apply(Event::GiveBack).expect("claimed"), Life::Running);
    }

    #[test]
    fn a_refusal_names_the_state_and_the_event() {
        let error = Life::Ended(end()).apply(Event::Claim(ME)).expect_err("final");
        assert_eq!(error.to_string(), "a row that is ended cannot accept Claim(InstanceId(1))");
    }

    proptest! {
        /// The model: an ended process stays ended; a claim is held until it is resolved, given
        /// back or taken over.
        #[test]
        fn any_sequence_of_events_follows_the_model(events in prop::collection::vec(prop::sample::select(events().to_vec()), 0..30)) {
            let (mut life, mut dead, mut claimed, mut survived) = (Life::Running, false, false, false);
            for event in events {
                let fits = !dead && match event {
                    Event::Claim(_) | Event::Died(_) => true,
                    Event::Survived | Event::GiveBack => claimed,
                    Event::Adopt => !claimed && !survived,
                };
                let after = life.apply(event.clone());
                prop_assert_eq!(after.is_ok(), fits, "{:?} of {:?}", event, life);
                life = after.unwrap_or(life);
                if fits {
                    dead = matches!(event, Event::Died(_));
                    claimed = matches!(event, Event::Claim(_));
                    survived = matches!(event, Event::Survived);
                }
                let expected = match (dead, claimed, survived) {
                    (true, ..) => State::Ended,
                    (_, true, _) => State::Ending,
                    (.., true) => State::Survived,
                    _ => State::Running,
                };
                prop_assert_eq!(life.state(), expected, "after {:?}", event);
            }
        }
    }
}
