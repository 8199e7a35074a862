//! The entry points of `fuzz/`: the parsers of input that other users control, with the properties
//! that hold for any bytes. Not part of the API: it exists only where `cfg(fuzzing)` is set, as
//! cargo-fuzz and `fuzz/run` do.

use crate::{
    export::fuzz_legacy,
    policy::name_match::{Program, base_name, matched},
    sys::proc::{arguments, environ::tokens, split_nul, stat::parse_stat},
};

/// Parses `/proc/PID/stat`, `cmdline` and `environ`.
pub fn stat(bytes: &[u8]) {
    if let Some(stat) = parse_stat(bytes) {
        let begin =
            [format!("{} (", stat.pid).as_bytes(), &stat.comm, b") ", &[stat.state]].concat();
        // The number may only be written differently with zeros, and a plus, before it.
        let number = bytes.iter().take_while(|byte| b"+0".contains(byte)).count();
        assert!(bytes[number..].starts_with(&begin), "{stat:?}");
        let rest = &bytes[number + begin.len()..];
        assert!(!rest.contains(&b')'), "the name ends at the last parenthesis: {stat:?}");
    }
    assert!(arguments(bytes).iter().map(Vec::len).sum::<usize>() <= bytes.len());
    assert!(tokens(bytes).len() <= bytes.len() / 32);
}

/// Parses the JSON file that a former implementation left.
pub fn legacy(text: &[u8]) {
    fuzz_legacy(text);
}

/// Runs the matcher of names: a name, an executable and the arguments, each terminated by a zero.
pub fn command_line(bytes: &[u8]) {
    let mut words = split_nul(bytes).map(<[u8]>::to_vec);
    let name = words.next().and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
    let executable = words.next().filter(|path| !path.is_empty());
    let program = Program { executable, argv: words.collect() };
    let Some(found) = matched(&program, std::slice::from_ref(&name)) else { return };
    let is_it = |word: &[u8]| base_name(word) == name.as_bytes();
    let first = program.argv.first().map_or(&b""[..], Vec::as_slice);
    assert_eq!(found.named.name, name);
    let holds = match found.named.part {
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
