//! What each verb costs next to the minimum that the machine allows, measured in the same run.
//!
//! `cargo bench --bench scoreboard [-- --quick] [--strict] [GROUP...]`. Absolute times depend on
//! the machine; a line is met or missed by its ratio to a limit that was measured alternately with
//! it. With `--strict` it exits with 1 if a target is missed; `--quick` takes less than two minutes
//! and leaves out what needs ten million rows. The table is printed, and written with every figure
//! to `target/scoreboard/scoreboard.json`, and the growth of each cost to `growth.svg` beside it.
//! Group names restrict the run to those groups.
//!
//! Each group runs in a process and a PID namespace of its own: no unrelated processes are scanned,
//! and whatever a group has started dies with it.
#![expect(
    clippy::disallowed_methods,
    reason = "the limits are other ways to start and end programs; here only what the bench has started"
)]
#![expect(clippy::print_stderr, reason = "progress, while the table is not yet there")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "nanoseconds and counts far below 2^52"
)]

mod bare;
mod concurrent;
mod deaths;
mod ends;
mod export;
mod former;
mod gated;
mod growth;
mod history;
mod hosts;
mod idle;
mod instead;
mod memory;
mod namespace;
mod opening;
mod passes;
mod plot;
mod prefix;
mod rows;
mod samples;
mod scale;
mod score;
mod sleepers;
mod whole;

mod fixture;
mod spawns;

use std::process::ExitCode;

use scale::Scale;
use score::Board;

/// A group of lines that one process measures.
type Group = (&'static str, fn(&mut Board));

const GROUPS: [Group; 16] = [
    ("spawn", spawns::measure),
    ("concurrent", concurrent::measure),
    ("rows", rows::measure),
    ("whole", whole::measure),
    ("deaths", deaths::measure),
    ("passes", passes::measure),
    ("ends", ends::measure),
    ("export", export::measure),
    ("opening", opening::measure),
    ("prefix", prefix::measure),
    ("instead", instead::measure),
    ("memory", memory::measure),
    ("idle", idle::measure),
    ("growth", growth::measure),
    ("hosts", hosts::measure),
    ("history", history::measure),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["sleepers", count, kind] => sleepers::serve(count, kind),
        ["bare-prefix", ledger] => prefix::serve_bare(ledger),
        ["host", path, number, spawns] => hosts::serve(path, number, spawns),
        ["init", group, scale] => namespace::be_init(group, scale),
        ["group", group, scale] => measure_one(group, Scale::parse(scale)),
        words => conduct(words),
    }
}

fn conduct(words: &[&str]) -> ExitCode {
    let (flags, names): (Vec<&str>, Vec<&str>) =
        words.iter().copied().partition(|word| word.starts_with("--"));
    let scale = if flags.contains(&"--quick") { Scale::Quick } else { Scale::Full };
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut board = Board::new(scale);
    println!("{}\n", namespace::machine());
    for (name, _) in GROUPS.iter().filter(|(name, _)| wanted(name)) {
        let began = std::time::Instant::now();
        board.absorb(name, namespace::run(name, scale));
        eprintln!("{name}: {:.1?}", began.elapsed());
    }
    println!("{}", board.table());
    match board.save() {
        Ok(folder) => println!("\nwritten to {}", folder.display()),
        Err(error) => eprintln!("the figures could not be written: {error}"),
    }
    let strict = flags.contains(&"--strict");
    if strict && board.has_missed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn measure_one(group: &str, scale: Scale) -> ExitCode {
    let Some((_, measure)) = GROUPS.iter().find(|(name, _)| *name == group) else {
        eprintln!("there is no group {group}");
        return ExitCode::from(2);
    };
    let mut board = Board::new(scale);
    measure(&mut board);
    print!("{}", board.to_json());
    ExitCode::SUCCESS
}
