//! The amount that a run measures.

/// The amount that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Quick,
    Full,
}

impl Scale {
    pub(crate) fn parse(word: &str) -> Self {
        if word == "quick" { Self::Quick } else { Self::Full }
    }

    pub(crate) fn word(self) -> &'static str {
        if self == Self::Quick { "quick" } else { "full" }
    }

    /// Picks one of two numbers.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        if self == Self::Quick { quick } else { full }
    }
}
