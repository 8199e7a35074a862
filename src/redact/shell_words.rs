//! Splits a text as a shell would: quotes hold a word together, operators separate words.

use std::ops::Range;

/// One word of a text, as written, including its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) range: Range<usize>,
    /// The text between the quotes, if they enclose the whole word.
    pub(super) inner: Option<Range<usize>>,
}

/// Returns the words of a text. Without `quotes` a quote is a character like any other, as in text
/// that is not a command line.
pub(super) fn split(text: &str, quotes: bool) -> Vec<Word> {
    let bytes = text.as_bytes();
    let (mut words, mut at) = (Vec::new(), 0);
    // If no closing quote was found once, none will be found later.
    let mut unclosed = [false; 2];
    while at < bytes.len() {
        if parts(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let mut inner = None;
        while at < bytes.len() && !parts(bytes[at]) {
            let kind = usize::from(bytes[at] == b'"');
            let quote = matches!(bytes[at], b'"' | b'\'');
            if quotes && bytes[at] == b'\\' {
                at += if at + 1 < bytes.len() { 2 } else { 1 };
            } else if quotes && quote && !unclosed[kind] {
                match closing(bytes, at) {
                    Some(end) => {
                        inner = (at == start).then_some(at + 1..end);
                        at = end + 1;
                        continue;
                    }
                    None => unclosed[kind] = true,
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        let end = at.min(bytes.len());
        words.push(Word { range: start..end, inner: inner.filter(|inner| inner.end + 1 == end) });
    }
    words
}

/// Returns where the quote that opens at `open` is closed.
fn closing(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if bytes[open] == b'"' => at += 1,
            byte if byte == bytes[open] => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Reports whether a byte separates words, as white space and the operators of a shell do.
fn parts(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b";|&()<>`".contains(&byte)
}

/// Reports whether the text is a single word.
pub(super) fn is_one(text: &str) -> bool {
    !text.bytes().any(|byte| parts(byte) || matches!(byte, b'"' | b'\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        split(text, true).into_iter().map(|word| &text[word.range]).collect()
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words("a 'b c' d"), ["a", "'b c'", "d"]);
        assert_eq!(words(r#"--x="b \" c";d"#), [r#"--x="b \" c""#, "d"]);
        assert_eq!(words("it's a b"), ["it's", "a", "b"], "no quote closes it");
        assert_eq!(words(r"a\ b \"), [r"a\ b", r"\"]);
        assert_eq!(words(" \n"), [""; 0]);
    }

    #[test]
    fn only_what_is_quoted_as_a_whole_has_an_inside() {
        let inner =
            |text: &'static str| split(text, true)[0].inner.clone().map(|inner| &text[inner]);
        assert_eq!(inner("'a b'"), Some("a b"));
        assert_eq!(inner("''"), Some(""));
        assert_eq!(inner("x'a b'"), None);
        assert_eq!(inner("'a''b'"), None);
    }
}
