//! What the name of an option, a variable or a header implies for its value.

use std::{collections::HashSet, sync::OnceLock};

/// How a value is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is not a secret.
    Plain,
    /// It is a secret, whatever it looks like.
    Secret,
    /// `USER:PASSWORD` (or `USER,PASSWORD`, `USER%PASSWORD`): the user stays. Otherwise as
    /// [`Value::IfRandom`].
    Credentials,
    /// A secret, unless it is the path of a file that contains one.
    KeyOrPath,
    /// `NAME=VALUE; …`, unless it is the path of a file that contains cookies.
    Cookie,
    /// Where an openssl(1) password comes from: `pass:SECRET`, `env:NAME`, `file:PATH`.
    PassSource,
    /// The name alone does not decide: a value that looks random is a secret.
    IfRandom,
}

/// A set of words, given as a text that is split at its spaces on first use.
struct WordSet(&'static str, OnceLock<HashSet<&'static str>>);

impl WordSet {
    const fn new(text: &'static str) -> Self {
        Self(text, OnceLock::new())
    }

    fn has(&self, word: &str) -> bool {
        self.1.get_or_init(|| self.all().collect()).contains(word)
    }

    fn all(&self) -> impl Iterator<Item = &'static str> {
        self.0.split_ascii_whitespace()
    }
}

/// Last parts of a name that make its value a secret.
static SECRET: WordSet = WordSet::new(
    "password passwords passwd passphrase passcode pwd pass secret secrets token credential \
    credentials apikey accesskey secretkey authtoken jwt bearer authorization otp totp pat \
    storepass keypass dbpass userpass srcstorepass deststorepass tlspass sshpass \
    connectionstring",
);

/// The same as the end of a compound word: `PGPASSWORD`, `JSESSIONID`.
static SECRET_ENDS: WordSet =
    WordSet::new("password passwd passphrase secret token apikey sessionid _pwd");

/// Last parts of a name that concerns a secret, but whose value is not one: `--password-file`,
/// `--token-count`.
static ABOUT: WordSet = WordSet::new(
    "file files filename path paths dir directory folder count counts length len size limit \
    limits budget ttl expiry expires expiration expire timeout lifetime duration name names type \
    url uri endpoint host port env var store manager provider policy mode format hint field \
    header algorithm alg rounds age command cmd helper method version rotation interval cache \
    bucket stdin fd prompt usage rate window index position table column service server user \
    username id ids jar enabled disabled required source location class ref arn kind label regex \
    pattern separator map strategy engine backend issuer audience scope scopes namespace min max \
    dev prefix suffix",
);

/// Parts that make a token a piece of text, as language models count them.
static OF_TEXT: WordSet = WordSet::new(
    "max min num n per new total eos bos pad unk stop special context mask sep cls completion \
    output input thinking",
);

/// Words before `key` that make it a secret.
static SECRET_KEYS: WordSet = WordSet::new(
    "api access secret auth encryption signing master account shared storage license app \
    application webhook stream consumer subscription hmac cipher crypto aes session write admin \
    integration service",
);

/// Words before `key` for which the value is a path as often as a secret.
static KEYS_OR_PATHS: WordSet =
    WordSet::new("private ssh tls ssl client host identity rsa deploy server cert");

/// Words before `key` for which the key is part of some data.
static KEYS_OF_DATA: WordSet = WordSet::new(
    "primary foreign sort partition cache public index row group routing object config registry \
    idempotency hot map issue project publishable sync natural candidate lookup distribution",
);

/// First parts of an option that is a switch: the next argument is not its value.
static SWITCHES: WordSet = WordSet::new(
    "no ask with without show hide skip disable enable prompt require allow print list generate \
    reset force is has never verify check",
);

/// The length above which a text is not taken for a name.
pub(super) const NAME_MAX: usize = 96;

/// Returns what a name implies for its value.
pub(super) fn of_name(name: &str) -> Value {
    if name.len() > NAME_MAX || matches!(name, "PWD" | "OLDPWD") {
        return Value::Plain;
    }
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((&last, before)) = words.split_last() else { return Value::Plain };
    let previous = before.last().copied().unwrap_or_default();
    match last {
        "id" if matches!(previous, "secret" | "session") => Value::Secret,
        "string" if previous == "connection" => Value::Secret,
        "key" | "keys" => of_key(name, previous),
        "privatekey" => Value::KeyOrPath,
        "cookie" | "cookies" => Value::Cookie,
        "auth" | "creds" | "cred" | "userinfo" => Value::Credentials,
        "sig" | "signature" | "sas" | "hmac" => Value::IfRandom,
        "tokens" => match previous {
            "auth" | "access" | "api" | "bearer" | "refresh" => Value::Secret,
            _ => Value::Plain,
        },
        "token" if before.iter().any(|word| OF_TEXT.has(word)) => Value::Plain,
        _ if ABOUT.has(last) => Value::Plain,
        _ if SECRET.has(last) || ends_as_one(last) => Value::Secret,
        _ => Value::Plain,
    }
}

fn ends_as_one(word: &str) -> bool {
    SECRET_ENDS.all().any(|end| word.ends_with(end))
}

fn of_key(name: &str, previous: &str) -> Value {
    let is_variable =
        name.bytes().all(|byte| byte.is_ascii_uppercase() || b"_0123456789".contains(&byte));
    match previous {
        _ if SECRET_KEYS.has(previous) => Value::Secret,
        _ if KEYS_OR_PATHS.has(previous) => Value::KeyOrPath,
        _ if KEYS_OF_DATA.has(previous) => Value::Plain,
        // As in `OPENAI_KEY=…`: few environment variables are keys of another kind.
        _ if is_variable => Value::KeyOrPath,
        _ => Value::IfRandom,
    }
}

/// Reports whether an option that may have its value in the next argument really takes one:
/// `--no-password` does not.
pub(super) fn takes_a_value(option: &str) -> bool {
    let words = words(option);
    words.first().is_some_and(|first| !SWITCHES.has(first))
}

/// Splits a name: `--api-key`, `apiKey`, `API_KEY` and `x.api.key` all give `api`, `key`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let chars: Vec<char> = name.chars().collect();
    for (at, &char) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| chars[at]);
        let humps = before.is_some_and(|before| {
            char.is_ascii_uppercase()
                && (before.is_ascii_lowercase()
                    || before.is_ascii_uppercase()
                        && chars.get(at + 1).is_some_and(char::is_ascii_lowercase))
        });
        if humps || !char.is_ascii_alphanumeric() {
            words.push(String::new());
        }
        if char.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(char.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Reports whether a value looks random: 20 characters or more of hex or of base64 with digits in
/// it.
pub(super) fn is_random(value: &str) -> bool {
    let value = value.trim_end_matches('=');
    let count = |wanted: fn(&u8) -> bool| value.bytes().filter(wanted).count();
    let digits = count(u8::is_ascii_digit);
    let (lower, upper) = (count(u8::is_ascii_lowercase), count(u8::is_ascii_uppercase));
    let others = value.len() - digits - lower - upper;
    let of_base64 =
        value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/_-.~".contains(&byte));
    if value.len() < 20 || !of_base64 || digits == 0 || is_path(value) {
        return false;
    }
    let hex = value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    hex || (lower > 0 && upper > 0) || (others == 0 && digits >= 3)
}

/// Reports whether a value is meant as the path of a file.
pub(super) fn is_path(value: &str) -> bool {
    let starts = ["/", "./", "../", "~", "$HOME"];
    let ends =
        [".pem", ".key", ".pub", ".crt", ".cer", ".p12", ".pfx", ".jks", ".json", ".txt", ".env"];
    starts.iter().any(|start| value.starts_with(start))
        || ends.iter().any(|end| value.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_spelling() {
        for name in [
            "token",
            "--password",
            "passwd",
            "API_KEY",
            "apiKey",
            "x-api-key",
            "db.password",
            "PGPASSWORD",
            "MYSQL_PWD",
            "aws_secret_access_key",
            "clientSecret",
            "SECRET_ID",
            "javax.net.ssl.keyStorePassword",
            "JSESSIONID",
            "GITHUB_TOKEN",
            "_authToken",
            "access_tokens",
            "storepass",
            "ConnectionString",
            "APIKey",
            "GITHUB_PAT",
        ] {
            assert_eq!(of_name(name), Value::Secret, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_about_a_secret_is_not_a_secret() {
        for name in [
            "token-count",
            "password-file",
            "max-tokens",
            "max_new_tokens",
            "tokens",
            "tokenizer",
            "secret-name",
            "token_type",
            "PWD",
            "OLDPWD",
            "access-key-id",
            "eos-token",
            "author",
            "passenger",
            "keyboard",
            "monkey",
            "primary_key",
            "public-key",
            "compass",
            "bypass",
            "authority",
            "cookie-jar",
            "password-stdin",
            "",
            "-",
            "credential.helper",
            "secretary",
        ] {
            assert_eq!(of_name(name), Value::Plain, "{name}");
        }
    }

    #[test]
    fn a_switch_takes_no_value() {
        for option in ["--no-password", "--with-token", "--ask-password", "--show-secrets"] {
            assert!(!takes_a_value(option), "{option}");
        }
        assert!(takes_a_value("--password") && takes_a_value("-token"));
    }

    #[test]
    fn long_mixed_values_look_random() {
        for value in [
            "0123456789abcdef0123456789abcdef",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "abc123def456ghi789jkl0",
        ] {
            assert!(
                is_random(value) || !value.bytes().any(|byte| byte.is_ascii_digit()),
                "{value}"
            );
        }
        for value in [
            "short1",
            "a-long-name-with-2-words-in-it",
            "/var/lib/some/Path/2024/with/x",
            "averylongwordwithoutdigits",
            "server-2024-key.pem",
            "hello world 1234567890 abc",
        ] {
            assert!(!is_random(value), "{value}");
        }
    }
}
