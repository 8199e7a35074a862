//! `run`: which signals are forwarded, as which signals, and to which processes.

use clap::Args;
use procledger::Process;

use crate::{
    exit::{Failure, Result, chain},
    output,
    signals::{Received, act_by_default, is_forwarded, stops},
    units,
};

#[derive(Clone, Debug, Args)]
pub(super) struct SignalArgs {
    /// Forward signal TO instead of signal FROM, or nothing if TO is 0, such as TERM:QUIT (can be
    /// repeated)
    #[arg(long, value_name = "FROM:TO", value_parser = units::rewrite)]
    rewrite: Vec<(i32, i32)>,
    /// Forward signals to all processes of the tree instead of the program alone
    #[arg(long)]
    signal_tree: bool,
}

impl SignalArgs {
    pub(super) fn check(&self) -> Result<()> {
        for (index, &(from, _)) in self.rewrite.iter().enumerate() {
            let name = units::signal_name(from);
            if !is_forwarded(from) {
                return Err(Failure::usage(format!("--rewrite: {name} is never forwarded")));
            }
            if self.rewrite[..index].iter().any(|&(earlier, _)| earlier == from) {
                return Err(Failure::usage(format!("--rewrite: {name} is given twice")));
            }
        }
        Ok(())
    }

    /// Forwards a signal; returns whether signals of its kind are forwarded.
    pub(super) fn forward(&self, process: &Process, received: Received) -> bool {
        let rewrite = self.rewrite.iter().find(|&&(from, _)| from == received.signal);
        let signal = rewrite.map_or(received.signal, |&(_, to)| to);
        if signal == 0 {
            return false;
        }
        let sent = if received.by_group && stops(signal) && !process.shares_terminal() {
            stop_along(process, signal)
        } else if self.signal_tree {
            process.signal_tree(signal).map(drop)
        } else if received.by_group || process.shares_terminal() && is_for_a_job(signal) {
            // The plain program would have got it together with its children.
            process.signal_group(signal)
        } else {
            process.signal(signal)
        };
        match sent {
            Err(error) if !error.is_gone() => {
                output::warn(&format!("failed to forward signal {signal}: {}", chain(&error)));
            }
            _ => {}
        }
        true
    }
}

/// Returns whether a signal stops or continues a job, and not one process.
fn is_for_a_job(signal: i32) -> bool {
    stops(signal) || signal == libc::SIGCONT
}

/// Stops the program and this process until this process is continued. In a session of its own no
/// shell could continue the program, so the kernel stops it only by SIGSTOP. A shell shows its
/// prompt once all members of a job have stopped.
fn stop_along(process: &Process, signal: i32) -> procledger::Result<()> {
    process.signal_group(libc::SIGSTOP)?;
    act_by_default(signal);
    process.signal_group(libc::SIGCONT)
}
