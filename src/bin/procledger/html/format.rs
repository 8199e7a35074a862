//! Formatting of figures for the page.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::render::{bytes, clock, escape, span, unix_millis};

/// Text from the ledger with control characters escaped. The template additionally escapes it for
/// HTML.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown(String);

impl Shown {
    pub(super) fn new(text: &str) -> Self {
        Self(escape(text))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A figure as shown, and its raw value as in JSON, for sorting and comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) raw: String,
    pub(super) shown: String,
}

impl Figure {
    pub(super) fn count(count: u64) -> Self {
        Self { raw: count.to_string(), shown: thousands(count) }
    }

    pub(super) fn hours(hours: f64) -> Self {
        Self { raw: hours.to_string(), shown: hours_shown(hours) }
    }

    /// Returns empty text if nothing was measured.
    pub(super) fn memory(size: Option<u64>) -> Self {
        Self { raw: size.map_or_else(String::new, |size| size.to_string()), shown: bytes(size) }
    }

    pub(super) fn time(time: SystemTime) -> Self {
        Self { raw: unix_millis(time).to_string(), shown: clock(time) }
    }

    pub(super) fn age(age: Duration) -> Self {
        Self { raw: age.as_millis().to_string(), shown: span(age) }
    }
}

/// Formats a number, such as `1,234,567`.
pub(super) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats with two significant digits, or more if there are more before the decimal point.
fn hours_shown(hours: f64) -> String {
    match hours {
        hours if hours <= 0.0 => "0".to_owned(),
        ..0.001 => "< 0.001".to_owned(),
        ..0.1 => format!("{hours:.3}"),
        ..1.0 => format!("{hours:.2}"),
        ..1000.0 => format!("{hours:.1}"),
        hours => format!("{hours:.0}"),
    }
}

/// Formats a count with its noun, such as `1 leak` or `2 leaks`.
pub(super) fn counted(count: u64, word: &str, words: &str) -> String {
    format!("{} {}", thousands(count), if count == 1 { word } else { words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_formatted_readably() {
        for (count, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(count), shown);
        }
        for (hours, shown) in [
            (0.0, "0"),
            (0.0004, "< 0.001"),
            (0.0123, "0.012"),
            (0.456, "0.46"),
            (12.34, "12.3"),
            (4321.0, "4321"),
        ] {
            assert_eq!(hours_shown(hours), shown);
        }
        assert_eq!(counted(1, "leak", "leaks"), "1 leak");
        assert_eq!(Figure::memory(None).raw, "");
    }
}
