//! Masks a command line, word by word: an option or a header determines how the words after it are
//! treated.

use std::borrow::Cow;

use super::{
    MASK,
    known_programs::Program,
    names::{NAME_MAX, Value, is_random, of_name, takes_a_value},
    patterns::mask_patterns,
    shell_words::{is_one, split},
    values,
};

/// How deep nested texts are parsed. For example, `ssh host "sh -c \"curl -H 'Authorization: …'\""`
/// has three levels.
const DEPTH: u32 = 4;
/// Masking one secret may reveal another. No input is known that still changes after this many
/// rounds.
const ROUNDS: u32 = 4;

/// Returns the program and its arguments with secrets masked.
pub(crate) fn mask_command(command: &[String]) -> Vec<String> {
    until_stable(command.to_vec(), |command| {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        mask_words(&words, DEPTH).into_iter().map(Cow::into_owned).collect()
    })
}

/// Masks a text that may quote a command, such as an error.
pub(crate) fn mask_text(text: &str) -> String {
    until_stable(text.to_owned(), |text| mask_line(text, DEPTH))
}

fn until_stable<T: PartialEq>(mut value: T, mask: impl Fn(&T) -> T) -> T {
    for _ in 0..ROUNDS {
        let masked = mask(&value);
        if masked == value {
            break;
        }
        value = masked;
    }
    value
}

/// How the next word is treated, as determined by the words before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Anything,
    /// The value of an option.
    Value(Value),
    /// After `Authorization:`, a scheme or the secret itself.
    Scheme,
    /// After `Bearer`, a secret if it looks like one.
    Bearer,
    /// A script for a shell.
    Script,
}

fn mask_words<'a>(words: &[&'a str], depth: u32) -> Vec<Cow<'a, str>> {
    let mut reader = Reader { program: Program::default(), next: Next::Anything };
    words.iter().map(|word| reader.read(word, depth)).collect()
}

/// The position in a command line.
struct Reader<'a> {
    program: Program<'a>,
    next: Next,
}

impl<'a> Reader<'a> {
    fn read(&mut self, word: &'a str, depth: u32) -> Cow<'a, str> {
        let expected = std::mem::replace(&mut self.next, Next::Anything);
        let bare = word.trim_matches(['"', '\'', '\\', ',']);
        let value = match expected {
            Next::Value(class) if !is_option(bare) => values::masked(class, word),
            Next::Scheme if is_scheme(bare) => {
                self.next = Next::Value(Value::Secret);
                return Cow::Borrowed(word);
            }
            Next::Scheme => values::masked(Value::Secret, word),
            Next::Bearer if is_bearer_token(bare) => Some(MASK.to_owned()),
            Next::Script => Some(mask_line(word, depth)),
            Next::Value(_) | Next::Bearer | Next::Anything => None,
        };
        if let Some(value) = value {
            return Cow::Owned(value);
        }
        self.next = what_follows(self.program, bare);
        if !bare.starts_with('-') {
            self.program.pass(bare);
        }
        match self.program.attached(word) {
            Some((length, class)) => attached(word, length, class),
            None => mask_word(word, depth),
        }
    }
}

fn attached(word: &str, option: usize, class: Value) -> Cow<'_, str> {
    match values::masked(class, &word[option..]) {
        Some(value) => Cow::Owned(format!("{}{value}", &word[..option])),
        None => Cow::Borrowed(word),
    }
}

/// Determines from a word how the next one is treated.
fn what_follows(program: Program<'_>, word: &str) -> Next {
    if word.starts_with('-') && !word.contains(['=', ':']) {
        if let Some(class) = program.option(word) {
            return Next::Value(class);
        }
        if program.runs_text_after(word) {
            return Next::Script;
        }
        let name = word.trim_start_matches('-');
        let class = if name.len() > 1 { of_name(name) } else { Value::Plain };
        return match class {
            Value::Plain => Next::Anything,
            _ if !takes_a_value(name) => Next::Anything,
            class => Next::Value(class),
        };
    }
    if let Some(name) = word.strip_suffix(':') {
        return match of_name(name) {
            Value::Plain => Next::Anything,
            _ if name.eq_ignore_ascii_case("authorization")
                || name.eq_ignore_ascii_case("proxy-authorization") =>
            {
                Next::Scheme
            }
            class => Next::Value(class),
        };
    }
    if program.announces(word) {
        return Next::Value(Value::Secret);
    }
    match of_name(word) {
        _ if matches!(word, "Bearer" | "bearer" | "Basic" | "basic") => Next::Bearer,
        // A bare word may be part of a sentence, so it counts as a secret only if it looks like
        // one.
        Value::Plain => Next::Anything,
        _ => Next::Value(Value::IfRandom),
    }
}

/// Masks one word or argument. If nothing else applies, it is parsed as a command line of its own.
fn mask_word(word: &str, depth: u32) -> Cow<'_, str> {
    if let Some(masked) = assignment(word, depth).or_else(|| header(word)) {
        return Cow::Owned(masked);
    }
    let masked = mask_line(word, depth);
    if masked == word { Cow::Borrowed(word) } else { Cow::Owned(masked) }
}

/// Masks `NAME=VALUE`, `--name=value`, `-Dname=value`. A value that is not a secret itself may
/// contain one.
fn assignment(word: &str, depth: u32) -> Option<String> {
    let (left, value) = word.split_once('=')?;
    let of_name_or_path = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/@$[]".contains(&byte);
    if left.is_empty()
        || left.len() > NAME_MAX
        || !left.bytes().all(of_name_or_path)
        || left.contains("://")
    {
        return None;
    }
    let name = left.strip_prefix("-D").unwrap_or(left).trim_start_matches('-');
    let mut class = of_name(name);
    if class == Value::KeyOrPath && name == "KEY" && !left.starts_with('-') {
        class = Value::Secret;
    }
    if let Some(masked) = values::masked(class, value) {
        return Some(format!("{left}={masked}"));
    }
    let depth = depth.checked_sub(1)?;
    Some(format!("{left}={}", mask_word(value, depth)))
}

/// Masks `Name: value`. Without a space after the colon only names that are used exclusively for
/// headers count: `token:8080` is a port.
fn header(word: &str) -> Option<String> {
    let (name, rest) = word.split_once(':')?;
    let is_name = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let class = if is_name { of_name(name) } else { Value::Plain };
    let value = rest.trim_start();
    let spaced = value.len() < rest.len();
    if class == Value::Plain || value.is_empty() || !(spaced || is_header(name) || is_random(value))
    {
        return None;
    }
    let start = &word[..word.len() - value.len()];
    if let Some((scheme, secret)) = value.split_once(' ').filter(|(scheme, _)| is_scheme(scheme)) {
        return Some(format!(
            "{start}{scheme} {}",
            values::masked(Value::Secret, secret).unwrap_or_else(|| secret.to_owned())
        ));
    }
    Some(format!("{start}{}", values::masked(class, value)?))
}

/// Masks a text that may be a command line, or contain one.
fn mask_line(text: &str, depth: u32) -> String {
    let text = mask_patterns(text);
    let Some(depth) = depth.checked_sub(1).filter(|_| !is_one(&text)) else { return text };
    splice(&text, false, depth, &splice(&text, true, depth, &text))
}

/// Splits the text, masks each word, and joins them again. `last` is the result of another way of
/// splitting; if that masked something, it is kept.
fn splice(text: &str, quotes: bool, depth: u32, last: &str) -> String {
    if last != text {
        return last.to_owned();
    }
    let words = split(text, quotes);
    if matches!(words.as_slice(), [one] if one.inner.is_none() && one.range.len() == text.len()) {
        // It would be split the same way forever.
        return text.to_owned();
    }
    let inside = |at: usize| words[at].inner.clone().unwrap_or(words[at].range.clone());
    let texts: Vec<&str> = (0..words.len()).map(|at| &text[inside(at)]).collect();
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for (at, masked) in mask_words(&texts, depth).into_iter().enumerate() {
        out.push_str(&text[done..inside(at).start]);
        out.push_str(&masked);
        done = inside(at).end;
    }
    out.push_str(&text[done..]);
    out
}

/// Reports whether the word is an option (`--name`, `-x`) and does not look like a secret.
fn is_option(word: &str) -> bool {
    let long = word.strip_prefix("--").is_some_and(|name| {
        let name = name.split('=').next().unwrap_or_default();
        name.starts_with(|char: char| char.is_ascii_lowercase())
            && name.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte)
            })
            && !is_random(name)
    });
    long || (word.len() == 2 && word.starts_with('-') && word.as_bytes()[1].is_ascii_alphabetic())
}

fn is_scheme(word: &str) -> bool {
    ["basic", "bearer", "digest", "token", "negotiate", "apikey", "hmac", "aws4-hmac-sha256"]
        .iter()
        .any(|scheme| word.eq_ignore_ascii_case(scheme))
}

fn is_header(name: &str) -> bool {
    [
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "x-auth-token",
        "private-token",
        "job-token",
    ]
    .iter()
    .any(|header| name.eq_ignore_ascii_case(header))
}

/// Reports whether the word is a token, and not part of a sentence such as `the bearer token`.
fn is_bearer_token(word: &str) -> bool {
    word.len() >= 8
        && word != MASK
        && (word.len() >= 20 || word.bytes().any(|byte| byte.is_ascii_digit()))
}
