//! What `fuzz/` calls: the parsers of what strangers write, with what must hold of any bytes. No part of the API: it is there
//! only where `cfg(fuzzing)` is set, as cargo-fuzz and `fuzz/run` do.

use crate::{
    export::fuzz_legacy,
    policy::name_match::{Program, base_name, matched},
    sys::procfs::{arguments, parse_stat, split_nul, tokens},
};

/// `/proc/PID/stat`, `cmdline` and `environ`.
pub fn stat(bytes: &[u8]) {
    if let Some(stat) = parse_stat(bytes) {
        let begin =
            [format!("{} (", stat.pid).as_bytes(), &stat.comm, b") ", &[stat.state]].concat();
        // Zeros, and a plus, before the number are the only other way to write it.
        let number = bytes.iter().take_while(|byte| b"+0".contains(byte)).count();
        assert!(bytes[number..].starts_with(&begin), "{stat:?}");
        let rest = &bytes[number + begin.len()..];
        assert!(!rest.contains(&b')'), "the name ends at the last parenthesis: {stat:?}");
    }
    assert!(arguments(bytes).iter().map(Vec::len).sum::<usize>() <= bytes.len());
    assert!(tokens(bytes).len() <= bytes.len() / 32);
}

/// The JSON file that a former processor left.
pub fn legacy(text: &[u8]) {
    fuzz_legacy(text);
}

/// The matcher of names: a name, an executable and the arguments, each ended by a zero.
pub fn command_line(bytes: &[u8]) {
    let mut words = split_nul(bytes).map(<[u8]>::to_vec);
    let name = words.next().and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
    let executable = words.next().filter(|path| !path.is_empty());
    let program = Program { executable, argv: words.collect() };
    let Some(found) = matched(&program, std::slice::from_ref(&name)) else { return };
    let is_it = |word: &[u8]| base_name(word) == name.as_bytes();
    let first = program.argv.first().map_or(&b""[..], Vec::as_slice);
    let rule = found.rule.strip_suffix(&format!(" is named {name}")).expect("the rule names it");
    let holds = match rule {
        "executable" => {
            let path = program.executable.as_deref().expect("it has one");
            is_it(path) || path.strip_suffix(b" (deleted)").is_some_and(is_it)
        }
        "argv[0]" => {
            let mut ends = (0..=first.len())
                .filter(|&end| end == first.len() || first[end..].starts_with(b": "));
            ends.any(|end| is_it(&first[..end]))
        }
        "script" => program.argv.iter().skip(1).any(|word| is_it(word)),
        other => unreachable!("{other}"),
    };
    assert!(holds, "{found:?} of {program:?}");
}
