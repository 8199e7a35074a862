//! The keeper that `procledger` puts between a host and a program; see [`procledger::keeper`]. Not for people: it is
//! started by a tracker, with a socket as its standard input.

use std::process::ExitCode;

fn main() -> ExitCode {
    procledger::keeper::main()
}
