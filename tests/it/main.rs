//! The integration suite: one binary, a file a scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod support;

mod as_a_host;

mod command;
mod pty;

mod command_bad_input;
mod command_demo;
mod command_look;
mod command_reap;
mod command_run;
mod command_terminal;
mod command_watch;
mod readme;
mod tidy;
