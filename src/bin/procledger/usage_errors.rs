//! Errors of the command line, each in one line that names the subcommand, what is wrong, and where
//! the help is.

use std::ffi::OsString;

use clap::{
    CommandFactory,
    error::{ContextKind, ErrorKind},
};

use crate::{
    args::Cli,
    commands::run_detach::SUPERVISE,
    exit::{Failure, Result},
};

/// What people type for a subcommand that has another name.
const SYNONYMS: [(&str, &str); 11] = [
    ("clean", "reap"),
    ("cleanup", "reap"),
    ("exec", "run"),
    ("list", "ps"),
    ("ls", "ps"),
    ("start", "run"),
    ("status", "ps"),
    ("stop", "kill"),
    ("terminate", "kill"),
    ("top", "ps --watch"),
    ("version", "--version"),
];

/// What people type for an option that has another name, without the dashes.
const OPTION_SYNONYMS: [(&str, &str); 6] = [
    ("--database", "db"),
    ("--id", "task"),
    ("--kill-after", "grace"),
    ("--ledger", "db"),
    ("--name", "task"),
    ("--timeout", "max-runtime"),
];

/// Parses the command line of this process. Prints the help or the version, and exits, if that is
/// requested.
pub(crate) fn parse() -> Result<Cli> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let is_supervisor = words.len() > 2 && words[1] == SUPERVISE;
    let supervise = is_supervisor.then(|| words.drain(1..3).next_back()).flatten();
    let supervise = supervise.map(|task| task.to_string_lossy().into_owned());
    let parsed = Cli::parse_words(&words).map(|cli| cli.supervising(supervise));
    parsed.map_err(|error| {
        if !error.use_stderr()
            || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        {
            error.exit();
        }
        let words = std::env::args_os().skip(1);
        let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        Failure::usage(line(&error, &words))
    })
}

/// Returns the error in one line. `words` is the command line without the program.
fn line(error: &clap::Error, words: &[String]) -> String {
    let root = Cli::command();
    let (mut command, mut path) = (&root, Vec::new());
    for word in words {
        if let Some(inner) = command.find_subcommand(word) {
            path.push(word.as_str());
            command = inner;
        }
    }
    let what = match (error.kind(), invalid(error)) {
        (ErrorKind::InvalidSubcommand, Some(word)) => {
            let names: Vec<&str> = visible(command).map(clap::Command::get_name).collect();
            let synonym = if path.is_empty() { synonym(&word) } else { None };
            let advice = synonym.or_else(|| near(&word, &names)).map_or_else(String::new, |name| {
                format!(
                    ", did you mean `{}`?",
                    [&["procledger"], &path[..], &[name]].concat().join(" ")
                )
            });
            format!("there is no subcommand `{word}`{advice}")
        }
        (ErrorKind::InvalidUtf8, _) => {
            let word = words.iter().find(|word| word.contains(char::REPLACEMENT_CHARACTER));
            format!("'{}' is not valid UTF-8", word.map_or("an argument", String::as_str))
        }
        _ => other_option(error, [&root, command])
            .unwrap_or_else(|| in_one_line(&error.render().to_string())),
    };
    match path.join(" ").as_str() {
        "" => format!("{what}: see `procledger --help`"),
        path => format!("{path}: {what}: see `procledger {path} --help`"),
    }
}

fn visible(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

fn invalid(error: &clap::Error) -> Option<String> {
    error.get(ContextKind::InvalidSubcommand).map(ToString::to_string)
}

/// Returns the error for an option that these commands do not know, if they have it under another
/// name.
fn other_option(error: &clap::Error, commands: [&clap::Command; 2]) -> Option<String> {
    let is_unknown = error.kind() == ErrorKind::UnknownArgument;
    let typed = error.get(ContextKind::InvalidArg).filter(|_| is_unknown)?.to_string();
    let (_, name) = OPTION_SYNONYMS.iter().find(|(other, _)| *other == typed)?;
    let mut known = commands.iter().flat_map(|command| command.get_arguments());
    let known = known.any(|argument| argument.get_long() == Some(name));
    known.then(|| {
        format!("unexpected argument '{typed}' found; tip: the option is called '--{name}'")
    })
}

/// Joins the paragraphs of an error of clap, without the usage and the reference to the help that
/// follow them, and without the advice to pass a mistyped option as a value.
fn in_one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let end = ["\n\nUsage: ", "\n\nFor more information"].iter().filter_map(|end| text.find(end));
    let text = &text[..end.min().unwrap_or(text.len())];
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let lines = paragraph.lines().map(str::trim);
        let lines = lines.filter(|line| !line.starts_with("tip: to pass '"));
        lines.collect::<Vec<_>>().join(" ")
    });
    paragraphs.filter(|paragraph| !paragraph.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Returns the subcommand that this word means in other programs.
fn synonym(word: &str) -> Option<&'static str> {
    SYNONYMS.iter().find(|(other, _)| *other == word).map(|(_, name)| *name)
}

/// Returns the nearest name that is at most a third of its letters away.
fn near<'a>(word: &str, names: &[&'a str]) -> Option<&'a str> {
    let distances = names.iter().map(|name| (distance(word, name), *name));
    let near = distances.filter(|(distance, name)| *distance <= (name.len() / 3).max(1));
    near.min().map(|(_, name)| name)
}

/// Counts the letters to insert, delete, replace or exchange with their neighbor (optimal string
/// alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn said(words: &[&str]) -> String {
        let all = ["procledger"].iter().chain(words);
        let error = Cli::try_parse_from(all).expect_err("wrong");
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        line(&error, &words)
    }

    #[test]
    fn an_error_is_one_line_with_the_subcommand_the_value_and_the_help() {
        assert_eq!(
            said(&["prune", "--older-than", "x"]),
            "prune: invalid value 'x' for '--older-than <D>': `x` is not a duration: write one such as \
             500ms, 30s, 5m or 2h, or a date such as 2026-11-01: see `procledger prune --help`"
        );
        assert_eq!(
            said(&["reap", "--min-agee", "5s"]),
            "reap: unexpected argument '--min-agee' found; tip: a similar argument exists: '--min-age': \
             see `procledger reap --help`"
        );
        assert_eq!(
            said(&["fleet", "leaks", "--limit", "0"]),
            "fleet leaks: invalid value '0' for '--limit <N>': 0 is not in 1..=4294967295: \
             see `procledger fleet leaks --help`"
        );
        let value = said(&["report", "--by", "a\n\nb"]);
        assert!(value.contains("[possible values: hour, day,"), "{value}");
    }

    #[test]
    fn an_option_of_a_similar_program_is_answered_with_the_equivalent() {
        for (words, advice) in [
            (&["run", "--timeout", "2s"][..], "; tip: the option is called '--max-runtime'"),
            (&["run", "--name=x"], "; tip: the option is called '--task'"),
            (&["ps", "--ledger", "x"], "; tip: the option is called '--db'"),
            (&["ps", "--timeout", "2s"], ""),
            (&["run", "--tsk", "t"], "; tip: a similar argument exists: '--task'"),
        ] {
            let (command, option) = (words[0], words[1].split('=').next().expect("an option"));
            assert_eq!(
                said(words),
                format!(
                    "{command}: unexpected argument '{option}' found{advice}: see `procledger {command} --help`"
                )
            );
        }
    }

    #[test]
    fn a_mistyped_subcommand_has_a_suggestion_where_one_is_near() {
        for (typed, meant) in [
            ("rnu", "run"),
            ("pss", "ps"),
            ("kil", "kill"),
            ("rpeort", "report"),
            ("docter", "doctor"),
            ("stop", "kill"),
            ("list", "ps"),
            ("top", "ps --watch"),
        ] {
            assert_eq!(
                said(&[typed]),
                format!(
                    "there is no subcommand `{typed}`, did you mean `procledger {meant}`?: see `procledger --help`"
                )
            );
        }
        for (typed, advice) in [("hsots", ", did you mean `procledger fleet hosts`?"), ("stop", "")]
        {
            assert_eq!(
                said(&["fleet", typed]),
                format!(
                    "fleet: there is no subcommand `{typed}`{advice}: see `procledger fleet --help`"
                )
            );
        }
        assert_eq!(
            said(&["frobnicate"]),
            "there is no subcommand `frobnicate`: see `procledger --help`"
        );
    }
}
