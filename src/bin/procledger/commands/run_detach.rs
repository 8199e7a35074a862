//! `run --detach`: the program runs in the background, owned by a supervisor.
//!
//! The supervisor is this program again, with the same command line after `--supervise TASK`. It
//! has a session of its own, so that it gets no signal of a terminal, and keeps no descriptor of
//! its caller. Until the program runs, its stderr is that of the caller, where a failure to start
//! is reported as by any `run`; then it reports that over its stdout, which is a pipe to the
//! caller, and releases both. If the caller is gone by then, the program is not started, or is
//! ended: so no program runs without the caller's knowledge.

use std::{
    fs::File,
    io::{BufRead, BufReader, Error},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use clap::Args;
use nix::unistd::setsid;
use procledger::{ExitStatus, Stdio, TaskId, paths::refuse_as_output};
use rustix::{
    event::{PollFd, PollFlags},
    io::fcntl_dupfd_cloexec,
};

use crate::{
    exit::{Exit, Failure, Result},
    inherited_fds::Inherited,
    logging, output,
    poll::poll_within,
};

/// The first word of the command line of a supervisor, followed by its task. It is no option, so
/// that no help, completion or manual page has it.
pub(crate) const SUPERVISE: &str = "--supervise";

/// The line that the supervisor writes once the program is running.
const STARTED: &[u8] = b"started\n";

#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// Print the name of the task and return as soon as the program runs; it continues in the
    /// background, without a terminal
    #[arg(long, conflicts_with = "die_with_parent")]
    pub(super) detach: bool,
    /// With --detach, append the program's output and errors to this file, created with mode
    /// 0600 [default: /dev/null]
    #[arg(long, value_name = "FILE", requires = "detach")]
    output: Option<PathBuf>,
    /// Whether this is the supervisor.
    #[arg(skip)]
    is_supervisor: bool,
}

impl DetachArgs {
    /// Returns whether a supervisor is to be started.
    pub(super) fn is_requested(&self) -> bool {
        self.detach && !self.is_supervisor
    }

    pub(super) fn is_supervisor(&self) -> bool {
        self.is_supervisor
    }

    /// Becomes the supervisor. Must be called before anything is opened.
    pub(super) fn supervise(&mut self) -> Result<()> {
        if !self.detach {
            return Err(Failure::usage("--supervise is for `run --detach` itself"));
        }
        self.is_supervisor = true;
        // It fails only for the leader of a process group, which a child of the caller is not.
        let _ = setsid();
        // A caller may wait until all copies of one of its pipes are closed.
        Inherited::list().map(|inherited| inherited.close()).map_err(|error| {
            Failure::because("failed to close inherited descriptors", &error)
                .with_exit(Exit::RUN_FAILED)
        })
    }

    /// Starts the supervisor, waits until the program runs, and prints the task.
    pub(super) fn start(&self, task: &TaskId, quiet: bool) -> Result<Exit> {
        let failed = |error: Error| {
            Failure::because("failed to start a supervisor", &error).with_exit(Exit::RUN_FAILED)
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the supervisor is not tracked: it is the owner of the task"
        )]
        let mut command = Command::new("/proc/self/exe");
        command.arg0("procledger").args([SUPERVISE, task.as_str()]);
        command.args(std::env::args_os().skip(1));
        command.stdin(process::Stdio::null()).stdout(process::Stdio::piped());
        let mut supervisor = command.spawn().map_err(failed)?;
        let said = supervisor.stdout.take();
        let mut line = Vec::new();
        if let Some(said) = said {
            BufReader::new(said).read_until(b'\n', &mut line).map_err(failed)?;
        }
        if line != STARTED {
            let status = supervisor.wait().map_err(failed)?;
            let status = status.code().map(ExitStatus::Exited);
            // It has reported why, unless a signal ended it.
            return status
                .and_then(Exit::of_program)
                .filter(|exit| *exit != Exit::DONE)
                .ok_or_else(|| {
                    Failure::new("the supervisor ended before the program ran")
                        .with_exit(Exit::RUN_FAILED)
                });
        }
        if self.output.is_none() && !quiet {
            output::to_stderr("the output of the program is discarded: --output FILE keeps it");
        }
        output::print_line(&crate::render::escape(task.as_str()))?;
        Ok(Exit::DONE)
    }

    /// Opens the file for the program's output, with `/dev/null` in its place if none is named.
    pub(super) fn open(&self, ledger: &Path) -> Result<Option<File>> {
        if !self.is_supervisor {
            return Ok(None);
        }
        let path = self.output.as_deref().unwrap_or(Path::new("/dev/null"));
        refuse_as_output(ledger, path, "the output of the program")?;
        let file = logging::open_to_append(path);
        file.map(Some).map_err(|error| {
            Failure::because(format!("failed to open the output file {}", path.display()), &error)
        })
    }

    /// Returns the streams of the program: its own, if it is detached.
    pub(super) fn streams(output: Option<&File>) -> Result<[Stdio; 3]> {
        let Some(output) = output else {
            return Ok([Stdio::inherit(), Stdio::inherit(), Stdio::inherit()]);
        };
        let copy = || {
            output
                .try_clone()
                .map(Stdio::from)
                .map_err(|error| Failure::because("failed to duplicate a descriptor", &error))
        };
        Ok([Stdio::null(), copy()?, copy()?])
    }

    /// Fails if the caller of a supervisor is gone, which does not expect the program to start any
    /// more.
    pub(super) fn check_caller(&self) -> Result<()> {
        let stdout = rustix::stdio::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let is_gone = self.is_supervisor
            && poll_within(&mut fds, Some(Duration::ZERO)).is_ok_and(|ready| ready > 0);
        if is_gone {
            return Err(Failure::new("the caller has ended: the program was not started"));
        }
        Ok(())
    }

    /// Reports to the caller that the program is running, and releases the caller's streams. An
    /// error means that the caller is gone.
    pub(super) fn confirm(&self, output: Option<&File>) -> Result<()> {
        let Some(output) = output.filter(|_| self.is_supervisor) else { return Ok(()) };
        let let_go = || {
            let caller = fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
            rustix::stdio::dup2_stdout(output)?;
            rustix::stdio::dup2_stderr(output)?;
            rustix::io::write(caller, STARTED)
        };
        let_go().map(drop).map_err(|error| {
            Failure::because("the caller has ended: the program was ended, too", &error)
        })
    }
}
