//! The keeper that `procledger` puts between a host and a program; see [`procledger::keeper`]. Not
//! meant to be started manually: a tracker starts it with a socket as its standard input.

use std::process::ExitCode;

fn main() -> ExitCode {
    procledger::keeper::main()
}
