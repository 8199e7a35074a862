//! CSV of RFC 4180: comma, CRLF, quotes where needed.
//!
//! Fields are raw data except for control characters, which are escaped as on a terminal, so that a
//! record is one line. A leading `=`, `+`, `-` or `@` is not prefixed: a spreadsheet treats such a
//! field as a formula, so import it as text.

use super::escape;

/// Formats a header and its records.
pub(crate) fn csv(header: &[&str], records: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = line(header.iter().copied());
    for record in records {
        text.push_str(&line(record.iter().map(String::as_str)));
    }
    text
}

fn line<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    let fields: Vec<String> = fields.map(field).collect();
    fields.join(",") + "\r\n"
}

fn field(text: &str) -> String {
    let text = escape(text);
    if text.contains([',', '"']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_quoted_where_needed() {
        for (text, shown) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            (" edge", "\" edge\""),
            ("two\r\nlines", "two\\x0d\\x0alines"),
            ("=1+1", "=1+1"),
        ] {
            assert_eq!(field(text), shown);
        }
    }

    #[test]
    fn lines_end_with_crlf() {
        let records = [vec!["1".to_owned(), "x,y".to_owned()]];
        assert_eq!(csv(&["a", "b"], records.into_iter()), "a,b\r\n1,\"x,y\"\r\n");
    }

    proptest! {
        #[test]
        fn a_record_is_one_line_and_is_read_as_it_was(record in prop::collection::vec("([ -~é]|\\PC|[\r\n\t\x1b]){0,12}", 2..6)) {
            let text = line(record.iter().map(String::as_str));
            prop_assert_eq!(text.matches(['\r', '\n']).count(), 2);
            let meant: Vec<String> = record.iter().map(|field| escape(field)).collect();
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
            let records: Vec<Vec<String>> = reader.deserialize().collect::<Result<_, _>>().expect("CSV");
            prop_assert_eq!(records, [meant]);
        }
    }
}
