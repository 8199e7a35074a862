//! The elements of a list in indented JSON, byte for byte as `serde_json` formats them. A list may
//! have 100,000: a name is written together with the spaces before it, not in five pieces.

use std::{borrow::Cow, fmt::Write, time::SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

/// `push_element!(text, name: value, …)` appends an object as `serde_json` formats it as an element
/// of a list: the names of the fields and the spaces before them are a single text.
macro_rules! push_element {
    ($text:expr, $first:ident: $value:expr, $($name:ident: $other:expr,)+) => {{
        let text: &mut String = $text;
        text.push_str(concat!("  {\n    \"", stringify!($first), "\": "));
        $crate::render::json_list::JsonValue::push_to(&$value, text);
        $(
            text.push_str(concat!(",\n    \"", stringify!($name), "\": "));
            $crate::render::json_list::JsonValue::push_to(&$other, text);
        )+
        text.push_str("\n  }");
    }};
}

pub(crate) use push_element;

/// A value of a field of such an object.
pub(crate) trait JsonValue {
    fn push_to(&self, text: &mut String);
}

impl JsonValue for &str {
    fn push_to(&self, text: &mut String) {
        let is_plain = |&byte: &u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        if self.as_bytes().iter().all(is_plain) {
            text.push('"');
            text.push_str(self);
            text.push('"');
        } else {
            // Displayed as compact JSON.
            push_displayed(text, serde_json::Value::from(*self));
        }
    }
}

impl JsonValue for i32 {
    fn push_to(&self, text: &mut String) {
        push_displayed(text, self);
    }
}

impl JsonValue for i64 {
    fn push_to(&self, text: &mut String) {
        push_displayed(text, self);
    }
}

impl JsonValue for bool {
    fn push_to(&self, text: &mut String) {
        text.push_str(if *self { "true" } else { "false" });
    }
}

/// In UTC, with milliseconds.
impl JsonValue for SystemTime {
    fn push_to(&self, text: &mut String) {
        let time = DateTime::<Utc>::from(*self).to_rfc3339_opts(SecondsFormat::Millis, true);
        text.push('"');
        text.push_str(&time);
        text.push('"');
    }
}

impl<T: JsonValue> JsonValue for Option<T> {
    fn push_to(&self, text: &mut String) {
        match self {
            Some(value) => value.push_to(text),
            None => text.push_str("null"),
        }
    }
}

impl JsonValue for &[Cow<'_, str>] {
    fn push_to(&self, text: &mut String) {
        let mut before = "[\n      ";
        for word in *self {
            text.push_str(before);
            (&**word).push_to(text);
            before = ",\n      ";
        }
        text.push_str(if self.is_empty() { "[]" } else { "\n    ]" });
    }
}

fn push_displayed(text: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{value}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    #[derive(Serialize)]
    struct Element<'a> {
        text: &'a str,
        owner: Option<&'a str>,
        pid: i32,
        cpu_ms: Option<i64>,
        survive: bool,
        command: Vec<Cow<'a, str>>,
    }

    proptest! {
        #[test]
        fn an_element_is_formatted_as_by_serde_json(
            text: String, owner: Option<String>, pid: i32, cpu_ms: Option<i64>, survive: bool, command: Vec<String>
        ) {
            let element = Element {
                text: &text,
                owner: owner.as_deref(),
                pid,
                cpu_ms,
                survive,
                command: command.iter().map(|word| word.as_str().into()).collect(),
            };
            let mut list = "[\n".to_owned();
            push_element!(&mut list,
                text: element.text,
                owner: element.owner,
                pid: element.pid,
                cpu_ms: element.cpu_ms,
                survive: element.survive,
                command: element.command.as_slice(),
            );
            prop_assert_eq!(list + "\n]", serde_json::to_string_pretty(&[element]).expect("valid"));
        }
    }
}
