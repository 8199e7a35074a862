//! Escaping: task ids, commands and evidence are untrusted, and are made harmless before they reach
//! a terminal.

use std::{borrow::Cow, fmt::Write};

/// Escapes C0, DEL and C1 as `\x1b`, and characters that change the direction of text or break
/// lines as `\u{202e}`.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    push_escaped(&mut safe, text);
    safe
}

/// Appends the text, escaped like [`escape`].
pub(crate) fn push_escaped(safe: &mut String, text: &str) {
    if is_plain_ascii(text) {
        return safe.push_str(text);
    }
    for char in text.chars() {
        let code = u32::from(char);
        // Writing to a String cannot fail.
        let _ = match code {
            _ if !is_harmful(char) => safe.write_char(char),
            0..0x80 => write!(safe, "\\x{code:02x}"),
            _ => write!(safe, "\\u{{{code:x}}}"),
        };
    }
}

/// Escapes like [`escape`], without a copy if there is nothing to escape.
pub(crate) fn escaped(text: String) -> String {
    if is_plain_ascii(&text) || !text.chars().any(is_harmful) { text } else { escape(&text) }
}

/// Reports whether a text has printable ASCII alone, as nearly all have. A list may have a million
/// cells.
fn is_plain_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Escapes a whole JSON text with JSON's own `\u` escapes, which keeps its meaning. Line breaks
/// between values stay. There is no copy if there is nothing to escape: a list may have 50 MB.
pub(crate) fn escape_json(json: String) -> String {
    if !has_harmful_bytes(&json) {
        return json;
    }
    let mut safe = String::with_capacity(json.len());
    for line in json.split_inclusive('\n') {
        if !has_harmful_bytes(line) {
            safe.push_str(line);
            continue;
        }
        for char in line.chars() {
            // Writing to a String cannot fail.
            let _ = if is_harmful(char) && char != '\n' {
                write!(safe, "\\u{:04x}", u32::from(char))
            } else {
                safe.write_char(char)
            };
        }
    }
    safe
}

/// Looks for [harmful bytes](may_be_harmful), in blocks without a branch for each byte.
fn has_harmful_bytes(text: &str) -> bool {
    let is_harmful =
        |block: &[u8]| block.iter().fold(false, |found, &byte| found | may_be_harmful(byte));
    text.as_bytes().chunks(64).any(is_harmful)
}

/// Reports whether a byte other than a line break may be the first one of a harmful character: C0
/// and DEL, or the lead of C1, of U+061C, or of U+2000 to U+2FFF.
fn may_be_harmful(byte: u8) -> bool {
    matches!(byte, 0..=0x09 | 0x0b..=0x1f | 0x7f | 0xc2 | 0xd8 | 0xe2)
}

/// Formats a command as shell input, escaped.
pub(crate) fn shell_words(command: &[impl AsRef<str>]) -> String {
    let mut line = String::new();
    for (index, word) in command.iter().enumerate() {
        if index > 0 {
            line.push(' ');
        }
        line.push_str(&quoted(word.as_ref()));
    }
    escaped(line)
}

fn quoted(word: &str) -> Cow<'_, str> {
    let plain_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte);
    let plain = |char: char| char.is_alphanumeric() || u8::try_from(char).is_ok_and(plain_byte);
    if !word.is_empty() && (word.bytes().all(plain_byte) || word.chars().all(plain)) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''")).into()
    }
}

fn is_harmful(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_and_bidi_overrides_are_shown() {
        for (text, shown) in [
            ("plain täxt 日本", "plain täxt 日本"),
            ("\x1b[2J", "\\x1b[2J"),
            ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
            ("\0\x7f", "\\x00\\x7f"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202a}\u{202e}x\u{2066}\u{2069}", "\\u{202a}\\u{202e}x\\u{2066}\\u{2069}"),
            ("\u{2028}", "\\u{2028}"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = vec!["\u{9b}\u{202e}\x7f\x1b".to_owned()];
        let json = escape_json(serde_json::to_string_pretty(&value).expect("strings"));
        assert_eq!(json, "[\n  \"\\u009b\\u202e\\u007f\\u001b\"\n]");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).expect("JSON"), value);
    }

    #[test]
    fn words_are_quoted_as_a_shell_takes_them() {
        let command = ["sh", "-c", "echo 'a' $b", "", "x\x1b"].map(str::to_owned);
        assert_eq!(shell_words(&command), r"sh -c 'echo '\''a'\'' $b' '' 'x\x1b'");
    }

    #[test]
    fn each_harmful_character_begins_with_a_byte_that_is_looked_for() {
        for char in ('\0'..=char::MAX).filter(|&char| is_harmful(char) && char != '\n') {
            assert!(may_be_harmful(char.encode_utf8(&mut [0; 4]).as_bytes()[0]), "{char:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_moves_a_cursor_reaches_a_terminal(text in "(\\PC|\\p{Cc}|\\p{Cf}|\u{2028}|\u{2029}){0,40}") {
            prop_assert!(!escape(&text).chars().any(is_harmful));
            prop_assert!(!escape_json(text.clone()).chars().any(|char| is_harmful(char) && char != '\n'));
            prop_assert_eq!(escape(&escape(&text)), escape(&text));
        }

        #[test]
        fn json_keeps_any_meaning(value: Vec<String>) {
            let json = escape_json(serde_json::to_string_pretty(&value).expect("strings"));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json).expect("JSON"), value);
        }

        #[test]
        fn a_shell_reads_quoted_words_unchanged(words in prop::collection::vec("[ -~äß]{0,12}", 0..6)) {
            prop_assert_eq!(::shell_words::split(&shell_words(&words)), Ok(words));
        }
    }
}
