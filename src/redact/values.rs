//! Masks a value according to its kind.

use super::{
    MASK,
    names::{Value, is_path, is_random},
};

/// Values of a setting; none of them is a secret.
const SETTINGS: &[&str] = &[
    "true", "false", "yes", "no", "on", "off", "none", "null", "auto", "always", "never", "prompt",
    "required",
];

/// Characters that may surround a value in a text that was not split as its author intended.
const AROUND: [char; 8] = ['"', '\'', '\\', ',', ';', ')', ']', '}'];

/// Returns the masked value; `None` if it needs no masking.
pub(super) fn masked(class: Value, value: &str) -> Option<String> {
    let bare = value.trim().trim_matches(AROUND);
    if bare.is_empty() || bare == MASK || is_setting(bare) {
        return None;
    }
    let all = || Some(MASK.to_owned());
    match class {
        Value::Plain => None,
        Value::Secret | Value::KeyOrPath if is_reference(value.trim()) => None,
        Value::KeyOrPath if is_path(bare) => None,
        Value::Secret | Value::KeyOrPath => all(),
        Value::Credentials => credentials(value).or_else(|| is_random(bare).then(all)?),
        Value::Cookie => bare.contains('=').then(all)?,
        Value::PassSource => {
            bare.strip_prefix("pass:").filter(|rest| *rest != MASK).map(|_| format!("pass:{MASK}"))
        }
        Value::IfRandom => is_random(bare).then(all)?,
    }
}

/// Reports whether the value is a reference to a variable, which a shell or a template will
/// replace. A name in lower case does not count: `$ecret` is a password.
fn is_reference(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'']);
    let inner = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let name = inner.or_else(|| value.strip_prefix('$'));
    name.is_some_and(|name| {
        name.starts_with(|char: char| char.is_ascii_uppercase())
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    })
}

fn is_setting(value: &str) -> bool {
    SETTINGS.iter().any(|setting| value.eq_ignore_ascii_case(setting))
}

/// Masks credentials; the user of `USER:PASSWORD` stays. Two numbers are a user and a group.
fn credentials(value: &str) -> Option<String> {
    let at = value.find([':', '%', ','])?;
    let (user, rest) = value.split_at(at);
    let password = &rest[1..];
    let numbers = !user.is_empty()
        && [user, password].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    (!password.is_empty() && password != MASK && !numbers)
        .then(|| format!("{user}{}{MASK}", &rest[..1]))
}
