//! Patterns for task ids: `*` stands for any text, `?` for one character.

use procledger::TaskId;

/// Returns the ids that `name` names: the one that is exactly that, else those that it matches as a
/// pattern.
pub(crate) fn matching<'a>(name: &str, ids: &[&'a TaskId]) -> Vec<&'a str> {
    let ids = || ids.iter().map(|id| id.as_str());
    match ids().find(|id| *id == name) {
        Some(id) => vec![id],
        None if is_pattern(name) => ids().filter(|id| matches(name, id)).collect(),
        None => Vec::new(),
    }
}

/// Returns whether the name contains a wildcard.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Takes time in proportion to the product of both lengths at most: only the last `*` is ever
/// reconsidered.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&char) if char == '?' || char == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&char| char == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_matches_whole_ids() {
        for (pattern, text, expected) in [
            ("agent-7/*", "agent-7/web", true),
            ("agent-7/*", "agent-7/", true),
            ("agent-7/*", "agent-70/web", false),
            ("*", "anything", true),
            ("*web", "agent/web", true),
            ("*web", "agent/web2", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "aßc", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("a**", "a", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn an_id_that_is_exactly_the_name_is_the_only_one() {
        let ids = ["a*", "ab", "ac", "b"].map(|id| TaskId::new(id).expect("an id"));
        let ids: Vec<&TaskId> = ids.iter().collect();
        assert_eq!(matching("a*", &ids), ["a*"]);
        assert_eq!(matching("a?", &ids), ["a*", "ab", "ac"]);
        assert_eq!(matching("b", &ids), ["b"]);
        assert_eq!(matching("c", &ids), [""; 0]);
    }

    /// The definition, without regard to time.
    fn defined(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            (['*', rest @ ..], text) => (0..=text.len()).any(|at| defined(rest, &text[at..])),
            (['?', rest @ ..], [_, others @ ..]) => defined(rest, others),
            ([char, rest @ ..], [other, others @ ..]) => char == other && defined(rest, others),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &text), defined(&chars(&pattern), &chars(&text)));
        }
    }
}
