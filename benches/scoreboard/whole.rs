//! A short program from its start until its end is recorded, next to the same work in a program
//! without this crate.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    bare::Bare,
    fixture::Fixture,
    samples::{in_turns, timed},
    score::{Board, Line},
};

const TRUE: &str = "/bin/true";

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(400, 2000);
    let fixture = Fixture::with(|builder| builder);
    let folder = tempfile::tempdir().expect("a folder");
    let mut bare = Bare::at(&folder.path().join("bare.db"));
    (0..20).for_each(|round| _ = (ours(&fixture, 1_000_000 + round), by_hand(&mut bare, round)));
    let (ours, limit) =
        in_turns(rounds, |round| ours(&fixture, round), |round| by_hand(&mut bare, round));
    board.add(
        Line::new("spawn and wait, a short program", &ours)
            .beside("std's spawn and wait, INSERT, UPDATE", limit.median())
            .at_most(1.5),
    );
}

/// With the monitor, like a host.
fn ours(fixture: &Fixture, round: usize) -> Duration {
    timed(|| fixture.spawn(&format!("whole-{round}"), &[TRUE]).wait().expect("it ends")).0
}

/// Not safe against a crash: the program runs before its row is written.
fn by_hand(bare: &mut Bare, round: usize) -> Duration {
    timed(|| {
        let mut child = Command::new(TRUE).stdout(Stdio::inherit()).spawn().expect("it runs");
        let (_, row) = bare.insert(&format!("whole-{round}"), child.id());
        child.wait().expect("it ends");
        bare.end(row);
    })
    .0
}
