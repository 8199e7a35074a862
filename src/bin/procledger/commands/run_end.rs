//! `run`: how the program ended, as an exit code and in one line.

use std::time::Duration;

use procledger::{
    EndReason, ExitStatus, Justification, Ledger, Life, ProcessId, ProcessRecord, TaskId,
};

use crate::{
    exit::{Exit, Failure, Result, chain},
    output,
    render::span,
};

/// How much `run` reports about the end of its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verbosity {
    /// Nothing.
    Quiet,
    /// Why it was ended, if it did not end by itself.
    Usual,
    /// How it ended, in any case.
    Verbose,
}

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: ProcessId,
    pub(super) exit: procledger::Exit,
    pub(super) after: Duration,
    /// The signal of the terminal that ended it, and whether the program alone got it.
    pub(super) interrupted_by: Option<(i32, bool)>,
}

impl Verbosity {
    pub(super) fn of(quiet: bool, verbose: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, false) => Self::Usual,
            (false, true) => Self::Verbose,
        }
    }
}

impl Ended {
    /// Returns the exit code, and reports why the program was ended. A program that was ended may
    /// nevertheless exit with 0; `run` does not. A code that counts as a `success` is replaced by
    /// 0, if the program has ended by itself.
    ///
    /// Where the end is not in the ledger, since it could not be written, what the owner remembers
    /// counts. If the ledger cannot be read, a code other than 0 is the program's in any case.
    pub(super) fn conclude(
        &self,
        ledger: &Ledger,
        task: &TaskId,
        success: &[u8],
        verbosity: Verbosity,
    ) -> Result<Exit> {
        let status = self.exit.status;
        let remembered = || why_ended(self.exit.reason, self.exit.because.as_ref());
        let why = match ledger.process(self.id) {
            Ok(Some(record)) if record.life.end().is_some() => why(&record),
            Ok(record) => record.as_ref().and_then(why).or_else(remembered),
            Err(error) => match (remembered(), Exit::of_program(status)) {
                (Some(why), _) => Some(why),
                (None, Some(exit)) if exit != Exit::DONE => {
                    let error = chain(&error);
                    output::warn(&format!("why task {task} has ended is unknown: {error}"));
                    return Ok(exit);
                }
                _ => return Err(error.into()),
            },
        };
        let by_itself = why.is_none();
        let exit = conclude(why, status, self.after, task, verbosity)?;
        let is_success = by_itself && success.iter().any(|&code| exit.code() == i32::from(code));
        Ok(if is_success { Exit::DONE } else { exit })
    }
}

/// Returns the exit code for a program that has ended, and says why something else ended it, if
/// that is so.
pub(super) fn conclude(
    why: Option<(EndReason, String)>,
    status: ExitStatus,
    after: Duration,
    task: &TaskId,
    verbosity: Verbosity,
) -> Result<Exit> {
    let (exit, what) = match why {
        Some((EndReason::MaxRuntime, why)) => (Exit::TIMED_OUT, Some(format!("was ended: {why}"))),
        Some((_, why)) => (Exit::of_ended_program(status), Some(format!("was ended: {why}"))),
        None => (
            Exit::of_program(status).ok_or_else(|| {
                Failure::new(format!("task {task} has ended with an unknown exit code"))
            })?,
            (verbosity == Verbosity::Verbose).then(|| by_itself(status, after)),
        ),
    };
    if let Some(what) = what.filter(|_| verbosity != Verbosity::Quiet) {
        output::warn(&format!("task {task} {what}"));
    }
    Ok(exit)
}

fn by_itself(status: ExitStatus, after: Duration) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "has ended".to_owned(),
    };
    format!("{how} after {}", span(after))
}

/// Returns why something else ended the program, as the ledger says; `None` if it ended by itself.
pub(super) fn why(record: &ProcessRecord) -> Option<(EndReason, String)> {
    match &record.life {
        Life::Ended(end) => why_ended(end.reason, end.because.as_ref()),
        // Another instance that ends the tree for a person records the reason when the last member
        // is dead.
        Life::Ending { .. } => {
            let by = record.requested_by.as_ref()?;
            Some((EndReason::Killed, format!("asked by {by}")))
        }
        Life::Running | Life::Survived => None,
    }
}

fn why_ended(reason: EndReason, because: Option<&Justification>) -> Option<(EndReason, String)> {
    let why = match reason {
        EndReason::Exited
        | EndReason::Failed
        | EndReason::Gone
        | EndReason::Rebooted
        | EndReason::Released
        | EndReason::Forgotten => return None,
        EndReason::Oom => "the kernel's out-of-memory killer ended it".to_owned(),
        reason => because.map_or_else(|| reason.to_string(), |because| because.rule.clone()),
    };
    Some((reason, why))
}
