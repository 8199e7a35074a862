//! The life of a row: one total function.
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
//! `ended` is final. Every transition is made in the ledger by a conditional update from the expected state; if zero rows
//! changed, another instance has made the transition, and this one stops.

use crate::error::{Error, Result};

/// The state of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not known to have ended; not being ended.
    Running,
    /// Claimed: an instance is ending it.
    Ending,
    /// An attempt to end it failed; it is tried again at the next pass.
    Survived,
    /// It has ended. Final.
    Ended,
}

/// What can happen to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An instance begins to end it, or takes over the claim of a dead instance.
    Claim,
    /// It is known to be dead, was released by its owner, or was forgotten by a person.
    Died,
    /// It could not be ended.
    Survived,
    /// A claim is given back: it cannot be determined which process it is.
    GiveBack,
    /// The next instance of the same program adopts it.
    Adopt,
}

impl State {
    /// Every state, in the order in which a row goes through them.
    pub const ALL: [Self; 4] = [Self::Running, Self::Ending, Self::Survived, Self::Ended];

    /// Returns the word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ending => "ending",
            Self::Survived => "survived",
            Self::Ended => "ended",
        }
    }

    /// Returns the state that a word in the ledger names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Returns the state after `event`.
///
/// # Errors
///
/// When the two do not fit: `ended` accepts no event; a survival or a return needs a claim first; only a running row is
/// adopted.
pub fn next(state: State, event: Event) -> Result<State> {
    match (state, event) {
        (State::Running | State::Ending | State::Survived, Event::Claim) => Ok(State::Ending),
        (State::Running | State::Ending | State::Survived, Event::Died) => Ok(State::Ended),
        (State::Ending, Event::Survived) => Ok(State::Survived),
        (State::Ending, Event::GiveBack) | (State::Running, Event::Adopt) => Ok(State::Running),
        (State::Running | State::Survived, Event::Survived | Event::GiveBack)
        | (State::Ending | State::Survived, Event::Adopt)
        | (
            State::Ended,
            Event::Claim | Event::Died | Event::Survived | Event::GiveBack | Event::Adopt,
        ) => {
            Err(Error::invalid(format!("a row that is {} cannot accept {event:?}", state.as_str())))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [Event; 5] =
        [Event::Claim, Event::Died, Event::Survived, Event::GiveBack, Event::Adopt];

    #[test]
    fn ended_is_final() {
        assert!(EVENTS.into_iter().all(|event| next(State::Ended, event).is_err()));
    }

    #[test]
    fn every_live_state_can_end_and_be_claimed() {
        for state in [State::Running, State::Ending, State::Survived] {
            assert_eq!(next(state, Event::Died).expect("can end"), State::Ended);
            assert_eq!(next(state, Event::Claim).expect("can be claimed"), State::Ending);
        }
    }

    #[test]
    fn survival_and_return_need_a_claim() {
        for state in [State::Running, State::Survived] {
            assert!(next(state, Event::Survived).is_err());
            assert!(next(state, Event::GiveBack).is_err());
        }
        assert_eq!(next(State::Ending, Event::Survived).expect("claimed"), State::Survived);
        assert_eq!(next(State::Ending, Event::GiveBack).expect("claimed"), State::Running);
    }

    proptest! {
        /// The model: a dead process stays dead; a claim is held until it is resolved, given back or taken over.
        #[test]
        fn any_sequence_of_events_follows_the_model(events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..30)) {
            let (mut state, mut dead, mut claimed, mut survived) = (State::Running, false, false, false);
            for event in events {
                let fits = !dead && match event {
                    Event::Claim | Event::Died => true,
                    Event::Survived | Event::GiveBack => claimed,
                    Event::Adopt => !claimed && !survived,
                };
                let after = next(state, event);
                prop_assert_eq!(after.is_ok(), fits, "{:?} of {:?}", event, state);
                state = after.unwrap_or(state);
                if fits {
                    dead = event == Event::Died;
                    claimed = event == Event::Claim;
                    survived = event == Event::Survived;
                }
                let expected = match (dead, claimed, survived) {
                    (true, ..) => State::Ended,
                    (_, true, _) => State::Ending,
                    (.., true) => State::Survived,
                    _ => State::Running,
                };
                prop_assert_eq!(state, expected, "after {:?}", event);
            }
        }
    }

    #[test]
    fn words_round_trip() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("dead"), None);
    }
}
