//! `watch`: reaps the moment an owner dies.

use std::{os::fd::OwnedFd, thread};

use clap::Args;
use procledger::{Millis, Report};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::{
    context::Context,
    exit::{Exit, Failure, Result, complain},
    output::{self, Reader},
    render::{clock, ending_line},
    signals::{STOP, Signals},
    units,
};

/// Stay and end what an owner leaves the moment it dies
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger watch --db /var/lib/api/ledger.db

Prints a line for each process that it ended. Ends on SIGINT, SIGTERM or SIGHUP.")]
pub(crate) struct WatchArgs {
    /// Leave running programs of this name, with what is below them
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    protect: Vec<String>,
}

impl WatchArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let signals = Signals::block(&STOP)?;
        let tracker = context.owner().protected_names(self.protect).open()?;
        let (stop, stopper) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|error| Failure::because("failed to create a pipe", &error))?;
        let unread = stopper
            .try_clone()
            .map_err(|error| Failure::because("failed to copy a descriptor", &error))?;
        thread::spawn(move || {
            // On an error as well: better to stop than never to.
            let _ = signals.next();
            ask_to_stop(&stopper);
        });
        let tell = |report: &Report| match print(report) {
            Ok(Reader::There) => {}
            Ok(Reader::Gone) => ask_to_stop(&unread),
            Err(failure) => complain(&failure.message),
        };
        tell(tracker.startup_report());
        tracker.watch(stop, tell)?;
        tracker.shutdown()?;
        Ok(Exit::DONE)
    }
}

/// Makes the other end readable.
fn ask_to_stop(stopper: &OwnedFd) {
    // It fails only once nobody watches any more.
    let _ = rustix::io::write(stopper, b"x");
}

fn print(report: &Report) -> Result<Reader> {
    for error in &report.errors {
        complain(error);
    }
    let now = clock(Millis::now());
    let line = |ending| now.clone() + " " + &ending_line(ending) + "\n";
    output::print(report.endings.iter().map(line).collect::<String>())
}
