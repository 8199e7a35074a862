//! Waits for a program as a shell waits for its foreground job.

use std::time::Duration;

use super::process::Process;
use crate::{
    error::{Error, Result},
    model::ExitStatus,
    sys::{Signal, terminal},
};

/// A stop is noticed within this time; an end is noticed at once.
const STOP_TICK: Duration = Duration::from_millis(20);

impl Process {
    /// Waits for a program that has the terminal ([`Job::foreground`](crate::Job::foreground)).
    ///
    /// When the program stops, for example by Ctrl-Z, the terminal is taken back and this process group stops too, so that the
    /// parent shell shows its prompt; when that shell continues us, the program gets the terminal again and is continued. When
    /// the program has ended the terminal is taken back. A program that was not given the terminal is waited for as by
    /// [`wait`](Process::wait).
    ///
    /// # Errors
    ///
    /// As [`wait`](Process::wait).
    pub fn wait_in_foreground(&mut self) -> Result<ExitStatus> {
        if !self.foreground {
            return self.wait();
        }
        let result = self.wait_and_stop_along();
        // From a background group this needs SIGTTOU to be blocked; see `tty::take_back`.
        let taken = terminal::take_back();
        let status = result?;
        taken?;
        Ok(status)
    }

    fn wait_and_stop_along(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_timeout(STOP_TICK)? {
                return Ok(status);
            }
            if self.pidfd.has_stopped()? {
                self.stop_along()?;
            }
        }
    }

    fn stop_along(&mut self) -> Result<()> {
        terminal::take_back()?;
        terminal::stop_own_group()?;
        // The parent shell has continued us. It may have put us into the background: then the terminal is not ours to give, and
        // the program continues without it.
        if terminal::is_foreground() {
            terminal::give_to(self.pid())?;
        }
        match self.pidfd.send_to_group(Signal::CONT) {
            Ok(()) => Ok(()),
            Err(error) => {
                Err(Error::os(format!("failed to continue process {}", self.pid()), error))
            }
        }
    }
}
