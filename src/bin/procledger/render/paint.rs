//! Colours, for terminals that support them and users who have not disabled them.

use std::io::{IsTerminal, stdout};

/// Whether stdout gets colors: if it is a terminal and not a dumb one, or always if
/// `CLICOLOR_FORCE` is set and not 0 (bixense.com/clicolors); never if `NO_COLOR` is set
/// (no-color.org).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    pub(crate) fn detect() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let forced = set("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self(set("NO_COLOR").is_none() && (forced || !dumb && stdout().is_terminal()))
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_text_stays_as_it_is() {
        assert_eq!(Paint(false).good("ok"), "ok");
        assert_eq!(Paint(true).good("ok"), "\x1b[32mok\x1b[0m");
    }
}
