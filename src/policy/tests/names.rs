use std::time::Duration;

use proptest::prelude::*;

use crate::{
    model::Named,
    policy::{
        interpreter::scripts,
        name_match::{
            Circumstances, Judgement, Matched, Parent, Program, base_name, judge, matched,
        },
    },
};

const NAME: &str = "worker";

/// Words that a command line may have, the name among them, and any bytes.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let near = "(/opt/|/usr/bin/|\\./|-|--|-c|-e|-m|--eval=|x)?(worker|work|workers|a worker|worker/|worker: x|b|=)";
    prop_oneof![
        4 => near.prop_map(String::into_bytes),
        1 => "-[a-zA-Z]{1,3}|--[a-z-]{1,12}|\\+x|-|--".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn interpreter() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "sh",
        "bash",
        "-zsh",
        "python3.11",
        "node",
        "perl",
        "ruby",
        "php",
        "lua5.4",
        "deno",
        "bun",
        "tclsh",
    ])
}

fn argv(first: &str, rest: &[Vec<u8>]) -> Vec<Vec<u8>> {
    [vec![first.as_bytes().to_vec()], rest.to_vec()].concat()
}

fn program(executable: Option<&str>, argv: Vec<Vec<u8>>) -> Program {
    Program { executable: executable.map(|path| path.as_bytes().to_vec()), argv }
}

fn find(program: &Program) -> Option<Matched> {
    matched(program, &[NAME.to_owned()])
}

fn parent() -> impl Strategy<Value = Parent> {
    prop_oneof![
        Just(Parent::Init),
        Just(Parent::Outside),
        Just(Parent::Hidden(7)),
        prop::sample::select(vec!["systemd", "tini", "bash", "systemd-logind", "containerd-shim"])
            .prop_map(|name| Parent::Alive(super::pid(5), name.to_owned())),
    ]
}

prop_compose! {
    fn circumstances()(
        exempt in prop::option::weighted(0.3, Just("it is ours".to_owned())),
        doubt in prop::option::weighted(0.3, Just("unclear".to_owned())),
        on_terminal in prop::bool::weighted(0.3),
        age in 0..20_u64,
        parent in parent(),
    ) -> Circumstances {
        Circumstances { exempt, doubt, on_terminal, age: Duration::from_secs(age), parent }
    }
}

proptest! {
    #[test]
    fn a_leak_is_only_a_process_without_any_exemption_or_doubt(
        about in circumstances(),
        doubt in prop::option::weighted(0.3, Just("an accident")),
        min_age in 0..20_u64,
    ) {
        let matched = Matched { named: Named { part: "executable", name: "worker".to_owned() }, doubt };
        let min_age = Duration::from_secs(min_age);
        let spoken_for = about.exempt.is_some() || about.on_terminal || about.age < min_age;
        let doubtful = matched.doubt.is_some() || about.doubt.is_some();
        let orphaned = match &about.parent {
            Parent::Init => true,
            Parent::Alive(_, name) => ["systemd", "tini"].contains(&name.as_str()),
            Parent::Hidden(_) | Parent::Outside => false,
        };
        let judgement = judge(&matched, &about, min_age);
        prop_assert_eq!(matches!(judgement, Judgement::Spared(_) | Judgement::Young(_)), spoken_for, "{:?}", judgement);
        let is_leak = matches!(judgement, Judgement::Leak(_));
        prop_assert_eq!(is_leak, !spoken_for && !doubtful && orphaned, "{:?}", judgement);
    }

    #[test]
    fn w1_a_program_that_no_interpreter_runs_matches_only_by_its_first_word_or_its_file(
        name in "[a-z]{3,8}",
        one in prop::collection::vec(word(), 0..6),
        other in prop::collection::vec(word(), 0..6),
    ) {
        prop_assume!(scripts(name.as_bytes(), &argv("x", &[b"y".to_vec()])).is_empty());
        let path = format!("/usr/bin/{name}");
        let found = |words: &[Vec<u8>]| find(&program(Some(&path), argv(&name, words)));
        prop_assert_eq!(found(&one), found(&other));
        prop_assert_eq!(found(&one).is_some(), name == NAME);
    }

    #[test]
    fn a_match_is_the_whole_base_name_of_a_word_and_never_a_part_of_one(
        interpreter in interpreter(),
        words in prop::collection::vec(word(), 0..6),
    ) {
        let program = program(Some(&format!("/usr/bin/{interpreter}")), argv(interpreter, &words));
        if let Some(found) = find(&program) {
            prop_assert_eq!(found.named.to_string(), "script is named worker");
            prop_assert!(words.iter().any(|word| base_name(word) == NAME.as_bytes()));
        }
    }

    #[test]
    fn a_script_is_a_word_of_the_line_and_is_followed_by_its_own_arguments(
        interpreter in interpreter(),
        words in prop::collection::vec(word(), 0..6),
        more in prop::collection::vec(word(), 0..3),
    ) {
        let line = argv(interpreter, &words);
        let found = scripts(interpreter.as_bytes(), &line);
        prop_assert!(found.len() <= 2);
        for script in &found {
            prop_assert!(line[1..].iter().any(|word| word.as_ptr() == script.path.as_ptr()));
        }
        if let [script] = found[..] && !script.doubtful {
            let longer = [line.clone(), more].concat();
            prop_assert_eq!(scripts(interpreter.as_bytes(), &longer), found.clone());
        }
    }

    #[test]
    fn any_bytes_are_accepted_as_a_command_line(
        executable in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        argv in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..6),
        name in "[^/]{1,6}",
    ) {
        let program = Program { executable, argv };
        let found = matched(&program, std::slice::from_ref(&name));
        let words = program.executable.iter().chain(&program.argv);
        let holds = |word: &Vec<u8>| word.windows(name.len()).any(|part| part == name.as_bytes());
        prop_assert!(found.is_none() || words.into_iter().any(holds));
    }
}
