//! Secrets that are recognized by their form, anywhere in a text: tokens with a prefix, private
//! keys, URLs with a password, fields of JSON and of query strings.

use super::{
    MASK,
    names::{NAME_MAX, Value, is_random, of_name},
    values::masked,
};

/// Prefixes that issuers give to their tokens, with the minimum number of characters that follow.
/// The prefix stays: it shows a reader which secret to look for, but nothing of the secret.
const PREFIXES: &[(&str, usize)] = &[
    ("sk-", 20),
    ("sk_live_", 16),
    ("sk_test_", 16),
    ("rk_live_", 16),
    ("rk_test_", 16),
    ("whsec_", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("gldt-", 16),
    ("glrt-", 16),
    ("glptt-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xoxr-", 10),
    ("xoxs-", 10),
    ("xapp-", 10),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 30),
    ("ya29.", 16),
    ("npm_", 30),
    ("pypi-", 16),
    ("dop_v1_", 32),
    ("hf_", 20),
    ("SG.", 20),
    ("shpat_", 20),
    ("hvs.", 16),
    ("hvb.", 16),
    ("dckr_pat_", 16),
    ("tskey-", 16),
    ("lin_api_", 20),
    ("gsk_", 20),
    ("xai-", 20),
    ("AGE-SECRET-KEY-1", 20),
    ("sq0atp-", 16),
];

/// How far the search for a password in a URL goes on beyond a slash, which should not occur in
/// one.
const BEYOND: usize = 1024;

/// Masks everything that is recognized by its form.
pub(super) fn mask_patterns(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut before = ' ';
    while let Some(char) = text[at..].chars().next() {
        let rest = &text[at..];
        let found = match char {
            ':' => url(rest).or_else(|| bot_token(before, rest)),
            '?' | '&' => parameter(rest),
            '"' | '\'' => field(rest),
            '-' if rest.starts_with("-----BEGIN ") => private_key(rest),
            _ if char.is_ascii_alphanumeric() && !is_part(before) => {
                token(rest).or_else(|| user_at(before, rest))
            }
            _ => None,
        };
        match found {
            Some((length, replacement)) if length > 0 => {
                out.push_str(&replacement);
                at += length;
                before = '*';
            }
            _ => {
                out.push(char);
                at += char.len_utf8();
                before = char;
            }
        }
    }
    out
}

/// Reports whether a character may be part of a token. A token begins only where no such character
/// precedes it.
fn is_part(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '*')
}

/// Returns how many bytes of `text`, from its start, are such characters.
fn run(text: &str, wanted: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|&byte| wanted(byte)).count()
}

fn of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn token(text: &str) -> Option<(usize, String)> {
    for &(prefix, least) in PREFIXES {
        if let Some(rest) = text.strip_prefix(prefix) {
            let length =
                run(rest, |byte| of_token(byte) || (prefix.ends_with('.') && byte == b'.'));
            let digits = rest[..length].bytes().any(|byte| byte.is_ascii_digit());
            if length >= least && digits {
                return Some((prefix.len() + length, format!("{prefix}{MASK}")));
            }
        }
    }
    json_web_token(text)
}

/// Masks `eyJ….….…`: a header, a payload and a signature (RFC 7519), the last of which may be
/// missing.
fn json_web_token(text: &str) -> Option<(usize, String)> {
    let parts = text.strip_prefix("eyJ")?;
    let length = run(parts, |byte| of_token(byte) || byte == b'.');
    let (header, payload) = parts[..length].split_once('.')?;
    (header.len() >= 8 && payload.len() >= 8).then(|| (3 + length, MASK.to_owned()))
}

/// Masks the secret half of a bot's token, `123456789:AA…`.
fn bot_token(before: char, text: &str) -> Option<(usize, String)> {
    let rest = text.strip_prefix(":AA")?;
    let length = run(rest, of_token);
    (before.is_ascii_digit() && length >= 30).then(|| (3 + length, format!(":{MASK}")))
}

fn private_key(text: &str) -> Option<(usize, String)> {
    let begin = "-----BEGIN ".len();
    let title = text[begin..].find("-----")?;
    if !text[begin..begin + title].ends_with("PRIVATE KEY") {
        return None;
    }
    let head = begin + title + "-----".len();
    let length = text[head..].find("-----END").map_or(text.len(), |end| head + end);
    Some((length, format!("{}{MASK}", &text[..head])))
}

/// Masks `://USER:PASSWORD@HOST`. A user alone stays (`ssh://git@host`), unless it is a token.
fn url(text: &str) -> Option<(usize, String)> {
    let rest = text.strip_prefix("://")?;
    let ends_url = |byte: u8| byte.is_ascii_whitespace() || b"\"'`<>|\\".contains(&byte);
    let authority = &rest[..run(rest, |byte| !ends_url(byte) && !b"/?#".contains(&byte))];
    let info = match authority.rfind('@') {
        Some(at) => &authority[..at],
        None => beyond_a_slash(rest, authority, ends_url)?,
    };
    let length = "://".len() + info.len();
    match info.split_once(':') {
        Some((_, "")) => None,
        Some((user, _)) => Some((length, format!("://{user}:{MASK}"))),
        None if token(info).is_some() || is_random(info) => Some((length, format!("://{MASK}"))),
        None => None,
    }
}

/// Finds a password that contains an unescaped slash: `//user:a/b@host`. Digits after the colon are
/// taken for a port.
fn beyond_a_slash<'a>(
    rest: &'a str,
    authority: &str,
    ends: impl Fn(u8) -> bool,
) -> Option<&'a str> {
    let (user, start) = authority.split_once(':')?;
    if user.contains('.') || start.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length = rest.bytes().take(BEYOND).take_while(|&byte| !ends(byte)).count();
    let at = rest[..length].rfind('@')?;
    Some(&rest[..at])
}

/// Masks `USER:PASSWORD@HOST` without a scheme, as in data source names. A digest after the `@`
/// belongs to an image.
fn user_at(before: char, text: &str) -> Option<(usize, String)> {
    if matches!(before, '/' | '.' | '@' | ':' | '%') {
        return None;
    }
    let user = run(text, |byte| of_token(byte) || byte == b'.');
    let rest = text[user..].strip_prefix(':')?;
    let password =
        run(rest, |byte| byte.is_ascii_graphic() && !b"@/:\"'`<>|\\,;&=(){}".contains(&byte));
    let host = rest[password..].strip_prefix('@')?;
    let digest = ["sha256:", "sha512:", "sha384:"].iter().any(|name| host.starts_with(name));
    let is_host = host.starts_with(|char: char| char.is_ascii_alphanumeric() || char == '[');
    (user > 0 && password > 0 && is_host && !digest && &rest[..password] != MASK)
        .then(|| (user + 1 + password, format!("{}:{MASK}", &text[..user])))
}

/// Masks `?NAME=VALUE` or `&NAME=VALUE`.
fn parameter(text: &str) -> Option<(usize, String)> {
    let rest = &text[1..];
    let name = run(rest, |byte| of_token(byte) || byte == b'.').min(NAME_MAX);
    let value = rest[name..].strip_prefix('=')?;
    let length = run(value, |byte| !byte.is_ascii_whitespace() && !b"?&#\"'`<>|;)".contains(&byte));
    let masked = masked(of_name(&rest[..name]), &value[..length])?;
    Some((1 + name + 1 + length, format!("{}{}={masked}", &text[..1], &rest[..name])))
}

/// Masks `"NAME": "VALUE"` of JSON, also with single quotes or escaped ones, and with a number or a
/// bare word as the value; and `"--NAME", "VALUE"`, as in lists of arguments.
fn field(text: &str) -> Option<(usize, String)> {
    let (quote, rest) = text.split_at(1);
    let name = &rest[..run(rest, |byte| of_token(byte) || byte == b'.').min(NAME_MAX)];
    let class = of_name(name);
    if class == Value::Plain {
        return None;
    }
    let mut at = 1 + name.len();
    let closing = format!("{}{quote}", "\\".repeat(run(&text[at..], |byte| byte == b'\\')));
    at += text[at..].strip_prefix(&closing).map(|_| closing.len())?;
    at += run(&text[at..], |byte| byte.is_ascii_whitespace());
    at += separator(&text[at..], name)?;
    at += run(&text[at..], |byte| byte.is_ascii_whitespace());
    let value = &text[at..];
    let (open, length) = match value.strip_prefix(&closing) {
        Some(inner) => (closing.len(), quoted(inner, &closing)),
        None => (0, run(value, |byte| !byte.is_ascii_whitespace() && !b",}])".contains(&byte))),
    };
    let whole = &value[open..open + length];
    if open == 0 && (whole.starts_with(['"', '\'', '{', '[', '\\']) || is_word(whole)) {
        return None;
    }
    let masked = masked(class, whole)?;
    Some((at + open + length, format!("{}{masked}", &text[..at + open])))
}

/// Returns the length of the text between a name and its value.
fn separator(text: &str, name: &str) -> Option<usize> {
    match text.as_bytes() {
        [b'=', b'>', ..] => Some(2),
        [b':' | b'=', ..] => Some(1),
        [b',', ..] if name.starts_with('-') => Some(1),
        _ => None,
    }
}

/// Reports whether an unquoted value is certainly no secret: `null`, or an empty one.
fn is_word(value: &str) -> bool {
    matches!(value, "" | "null" | "true" | "false" | "None" | "True" | "False")
}

/// Returns the length of the text before the closing quote, or of the whole text if there is none.
fn quoted(text: &str, closing: &str) -> usize {
    let mut from = 0;
    while let Some(found) = text[from..].find(closing) {
        let end = from + found;
        // An escaped quote is part of the value.
        if closing.len() > 1
            || text[..end].bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 0
        {
            return end;
        }
        from = end + closing.len();
    }
    text.len()
}
