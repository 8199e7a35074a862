//! `run`: owns a program until it ends, and exits with its status.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{IsTerminal, stderr, stdin, stdout},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{
    Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use nix::unistd::{getpgrp, tcgetpgrp};
use procledger::{
    Builder, Caller, ContainmentMode, EndPlan, Error, ExitStatus, Job, Process, TaskId, Tracker,
};

use super::{
    run_advice,
    run_caller::CallerArgs,
    run_detach::DetachArgs,
    run_end::{Ended, Verbosity},
    run_events::{Running, Waited},
    run_forwarded_signals::SignalArgs,
    run_stop_signals::StopSignals,
};
use crate::{
    context::Context,
    exit::{Exit, Failure, Result, chain, of_run_error},
    history_args::HistoryArgs,
    inherited_fds::{Inherited, raise_descriptor_limit},
    output,
    privilege::Account,
    signals::{self, Signals, die_by, die_with_group_by},
    terminal_modes::TerminalModes,
    units,
};

/// Maximum length of the program's name in a generated task id.
const NAME_LENGTH: usize = 40;

/// Run a program as a task: record it first, and end it together with everything it started
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(
    override_usage = "procledger run [OPTIONS] -- <CMD>...",
    after_help = "\
Example:
  procledger run --task nightly --max-runtime 2h --max-rss 4G -- ./backup.sh --full

All signals that can be caught are forwarded to the program, or to its whole tree with \
--signal-tree. At a terminal the program is a job as if started by the shell: Ctrl-C, Ctrl-Z, fg \
and bg work, and SIGINT and SIGQUIT end this command as well. If root uses another user's ledger, \
the program runs as that user.

As PID 1 of a container, or as a subreaper, this command acts as an init: it reaps every zombie.

With --die-with-parent, --owner or $PROCLEDGER_OWNER the tree is ended as an orphan when that \
process ends, however it ends. The end of a caller that passes its own PID as the owner is always \
noticed.

A second SIGINT or SIGTERM ends the task at once. With --grace, the first one ends it after that \
time. If something else ended the program, one line on stderr says why, and the exit code is never \
0.

Inherited descriptors, ignored signals and the signal mask are passed on to the program, as by \
env(1), except with --clean; with --detach no descriptors are passed on.

The program finds the name of its task in $PROCLEDGER_TASK and the path of the ledger in \
$PROCLEDGER_LEDGER.

With --detach this command prints the name of the task and returns once the program runs, with the \
exit codes below if that fails. A supervisor process in a session of its own owns the task: \
`wait`, `ps` and `kill` work on it, and it ends with its supervisor. The program reads from \
/dev/null and inherits no descriptor.

Exit codes: the code of the program, or 128 + N if signal N ended it, and 0 for one that \
--success-exit names; 124 after --max-runtime; 75 if the task already runs, 125 if procledger \
failed, 126 if the program is not executable, 127 if it is not found."
)]
pub(crate) struct RunArgs {
    /// Name of the task, which runs one program at a time [default: the program's name and random
    /// digits]
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// Time between SIGTERM and SIGKILL [default: 5s, or that of --stop-signal]
    #[arg(long, value_name = "D", value_parser = units::duration)]
    grace: Option<Duration>,
    /// Signal that asks the tree to end instead of TERM, and the time before the next one or
    /// SIGKILL, such as INT:10s; without a time 5s (can be repeated)
    #[arg(long, value_name = "SIGNAL[:D]", value_parser = units::stop_signal)]
    stop_signal: Vec<(i32, Duration)>,
    /// Ask the program to end first, and its descendants once it has ended, or has had all signals
    /// and the time is over
    #[arg(long)]
    root_first: bool,
    /// End the task when it has run for longer than this; suspended time does not count
    #[arg(long, value_name = "D", value_parser = units::limit)]
    max_runtime: Option<Duration>,
    /// End the task when its tree uses more memory and swap than this (512M, 2G)
    #[arg(long, value_name = "SIZE", value_parser = units::memory)]
    max_rss: Option<u64>,
    /// Leave the task running when its owner dies or stops; the next owner adopts it
    #[arg(long)]
    survive: bool,
    /// Leave processes running that the program leaves behind when it exits
    #[arg(long)]
    keep_strays: bool,
    /// How to contain the tree: auto, cgroup, keeper or session [default: auto]
    #[arg(long, value_name = "HOW", value_parser = units::containment)]
    containment: Option<ContainmentMode>,
    /// cgroup v2 directory in which to create the cgroup of the task; fails if that is not possible
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// When the task is ended, leave programs with this name and their descendants running
    #[arg(long, value_name = "NAME", value_parser = units::program_name)]
    protect: Vec<String>,
    /// Record the program without its arguments (secrets in arguments are masked in any case)
    #[arg(long)]
    no_arguments: bool,
    /// Set a variable in the program's environment (can be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(units::variable))]
    env: Vec<(OsString, OsString)>,
    /// Run the program in this directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Pass no inherited descriptors, ignored signals or signal mask on to the program
    #[arg(long)]
    clean: bool,
    /// Print no line about how the program was ended (-v prints one in any case)
    #[arg(short, long)]
    quiet: bool,
    /// Exit with 0 if the program ended by itself with this code, such as 143 for SIGTERM (can be
    /// repeated)
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u8).range(1..))]
    success_exit: Vec<u8>,
    #[command(flatten)]
    forwarding: SignalArgs,
    #[command(flatten)]
    detach: DetachArgs,
    #[command(flatten)]
    caller: CallerArgs,
    #[command(flatten)]
    history: HistoryArgs,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Validated arguments.
struct Plan {
    task: TaskId,
    program: OsString,
    caller: Option<Caller>,
    raw: RunArgs,
}

impl RunArgs {
    /// Runs the task, or starts a supervisor that does. `supervised` is the task, if this process
    /// is the supervisor.
    pub(crate) fn run(
        mut self,
        supervised: Option<String>,
        context: impl FnOnce() -> Result<Context>,
    ) -> Result<Exit> {
        if supervised.is_some() {
            self.task = supervised;
            self.detach.supervise()?;
        }
        // Before the log is opened.
        let inherited = Inherited::list().map_err(|error| {
            let what = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "failed to list the inherited descriptors in `/proc/self/fd`: mount `/proc`"
                }
                _ => "failed to list the inherited descriptors",
            };
            Failure::because(what, &error).with_exit(Exit::RUN_FAILED)
        })?;
        let quiet = self.quiet;
        output::drop_unread_lines();
        let plan = self.check()?;
        inherited.check_hard_limit().map_err(|failure| failure.with_exit(Exit::RUN_FAILED))?;
        if plan.raw.detach.is_requested() {
            return plan.raw.detach.start(&plan.task, quiet);
        }
        // A failure before the program runs exits with 125, so that it is not mistaken for the
        // program's own 1.
        let own = |failure: Failure| match failure.exit {
            Exit::FAILED => failure.with_exit(Exit::RUN_FAILED),
            _ => failure,
        };
        context().and_then(|context| plan.run(&context, &inherited)).map_err(own)
    }

    fn check(mut self) -> Result<Plan> {
        let program = self.command.remove(0);
        if program.is_empty() {
            return Err(Failure::usage("the program's name is empty: name it after `--`"));
        }
        if let (Some(_), Some(mode @ (ContainmentMode::Keeper | ContainmentMode::Session))) =
            (&self.cgroup, self.containment)
        {
            return Err(Failure::usage(format!(
                "--cgroup is of no use with --containment {}: leave one of them out",
                if mode == ContainmentMode::Keeper { "keeper" } else { "session" }
            )));
        }
        // The error of the spawn would be that of a program that is not found.
        if let Some(folder) = &self.cwd {
            let found = std::fs::metadata(folder).and_then(|found| {
                if found.is_dir() { Ok(()) } else { Err(std::io::ErrorKind::NotADirectory.into()) }
            });
            found.map_err(|error| {
                Failure::because(format!("--cwd {}", folder.display()), &error)
                    .with_exit(Exit::USAGE)
            })?;
        }
        let stops = EndPlan::new().stop_signals(self.stop_signal.iter().copied());
        stops.check().map_err(|error| Failure::usage(format!("--stop-signal: {error}")))?;
        self.forwarding.check()?;
        let task = self.task.take().unwrap_or_else(|| generated_id(&program));
        let task = TaskId::new(task).map_err(|error| Failure::usage(error.to_string()))?;
        let caller = self.caller.pin(self.survive)?;
        Ok(Plan { task, program, caller, raw: self })
    }
}

impl Plan {
    fn contained(&self, builder: Builder) -> Builder {
        // A requested cgroup is not replaced by another kind of containment.
        match (&self.raw.cgroup, self.raw.containment) {
            (Some(folder), _) => builder.containment(ContainmentMode::Cgroup).cgroup(folder),
            (None, Some(mode)) => builder.containment(mode),
            (None, None) => builder,
        }
    }

    fn run(self, context: &Context, inherited: &Inherited) -> Result<Exit> {
        // Before any thread is started, so that none of them takes a signal.
        let signals = Signals::block_all()?;
        std::env::current_dir()
            .map_err(|error| Failure::because("the working directory is gone", &error))?;
        // With one task there is no reader for the writer to wait for.
        let builder =
            self.raw.history.apply(context.owner()).readers(0).protected_names(&self.raw.protect);
        let builder = builder.reap_all(true);
        let builder = match &self.caller {
            Some(caller) => self.contained(builder).caller(caller.clone()),
            None => self.contained(builder),
        };
        // Opening may wait for other instances, and for a disk. No program of ours runs yet.
        let tracker = signals.end_us_during(|| builder.open())??;
        let ledger = tracker.ledger();
        let result = (self.raw.detach.open(tracker.path()))
            .and_then(|output| self.own(context, &tracker, &signals, output.as_ref(), inherited));
        // Whatever the result, everything that is still ours ends now.
        let shutdown = tracker.shutdown();
        // By now the ledger knows why the program was ended.
        let ended = result?;
        let success = &self.raw.success_exit;
        let exit = ended.conclude(&ledger, &self.task, success, self.verbosity(context))?;
        match shutdown {
            Err(error) => output::warn(&format!("failed to shut down: {}", chain(&error))),
            Ok(report) if report.survived() > 0 => output::warn(&format!(
                "{} processes could not be ended: `procledger ps` lists them",
                report.survived()
            )),
            Ok(_) => {}
        }
        Ok(match ended.interrupted_by.filter(|_| exit != Exit::DONE) {
            Some((signal, true)) => die_with_group_by(signal),
            Some((signal, false)) => die_by(signal),
            None => exit,
        })
    }

    /// Starts the program, which from then on is the only holder of the `inherited` descriptors,
    /// and waits for it.
    fn own(
        &self,
        context: &Context,
        tracker: &Tracker,
        signals: &Signals,
        output: Option<&File>,
        inherited: &Inherited,
    ) -> Result<Ended> {
        let caller = self.caller.as_ref();
        let modes = TerminalModes::save();
        let mut process = self.start(context, tracker, signals, output)?;
        inherited.close();
        raise_descriptor_limit();
        let (task, began) = (&self.task, Instant::now());
        let by = context.asked_by("run");
        let stop = StopSignals::new(tracker.clone(), task.clone(), self.raw.grace, by);
        self.raw.detach.confirm(output)?;
        let forwarding = &self.raw.forwarding;
        let running = Running { signals, tracker, caller, task, forwarding, stop };
        let Waited { exit, orphaned } = running.wait(&mut process)?;
        let status = exit.status;
        let killed = matches!(status, ExitStatus::Signaled(_));
        if let Some(modes) = modes.filter(|_| killed && process.shares_terminal()) {
            modes.restore();
        }
        if orphaned {
            let why = format!("task {task} was ended, since its owner has ended");
            return Err(Failure::new(why).with_exit(Exit::of_ended_program(status)));
        }
        let interrupted_by = interruption(&process, status);
        Ok(Ended { id: process.id(), exit, after: began.elapsed(), interrupted_by })
    }

    fn verbosity(&self, context: &Context) -> Verbosity {
        Verbosity::of(self.raw.quiet, context.verbose)
    }

    /// Starts the program, after an earlier run of the task has ended if that is requested.
    fn start(
        &self,
        context: &Context,
        tracker: &Tracker,
        signals: &Signals,
        output: Option<&File>,
    ) -> Result<Process> {
        let mut first = true;
        loop {
            signals.act_on_pending();
            self.raw.detach.check_caller()?;
            if let Some(caller) = &self.caller
                && caller.has_ended()?
            {
                return Err(Failure::new(format!(
                    "the owner, {caller}, has ended: the program was not started"
                )));
            }
            let job = self.job(context.account.as_ref(), tracker.path(), output)?;
            match tracker.spawn(job) {
                Err(error) if error.is_already_running() => {
                    let caller = &self.raw.caller;
                    let make_way = || caller.make_way(context, tracker, &self.task, first);
                    if !signals.end_us_during(make_way)?? {
                        return Err(self.not_started(&error));
                    }
                    first = false;
                }
                spawned => return spawned.map_err(|error| self.not_started(&error)),
            }
        }
    }

    fn job(&self, account: Option<&Account>, ledger: &Path, output: Option<&File>) -> Result<Job> {
        let [stdin, stdout, stderr] = DetachArgs::streams(output)?;
        let has_terminal = !self.raw.detach.is_supervisor();
        let mut job = Job::new(self.task.as_str(), &self.program)
            .args(&self.raw.command)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .survive(self.raw.survive)
            .keep_strays(self.raw.keep_strays)
            .record_arguments(!self.raw.no_arguments)
            .foreground(has_terminal && has_the_terminal())
            .share_terminal(has_terminal && !self.raw.survive && is_at_a_terminal())
            .env("PROCLEDGER_TASK", self.task.as_str())
            .env("PROCLEDGER_LEDGER", ledger);
        // Root's own HOME would be of no use to the program.
        if let Some(user) = account.and_then(|account| account.entry.as_ref()) {
            job = job
                .env("HOME", user.dir.as_os_str())
                .env("USER", user.name.as_str())
                .env("LOGNAME", user.name.as_str());
        }
        for (name, value) in &self.raw.env {
            job = job.env(name, value);
        }
        if let Some(folder) = &self.raw.cwd {
            job = job.current_dir(folder);
        }
        if !self.raw.clean {
            // Root's descriptors are not for another user.
            job = job.signals(signals::inherited()).inherit_fds(account.is_none());
        }
        if let Some(grace) = self.raw.grace {
            job = job.grace(grace);
        }
        if !self.raw.stop_signal.is_empty() {
            job = job.stop_signals(self.raw.stop_signal.iter().copied());
        }
        if self.raw.root_first {
            job = job.root_first(true);
        }
        if let Some(limit) = self.raw.max_runtime {
            job = job.max_runtime(limit);
        }
        if let Some(limit) = self.raw.max_rss {
            job = job.max_rss(limit);
        }
        Ok(job)
    }

    fn not_started(&self, error: &Error) -> Failure {
        let failure = Failure::new(chain(error)).with_exit(of_run_error(error));
        let advice = match failure.exit {
            Exit::ALREADY_RUNNING => Some(
                "`procledger kill` ends it, `run --if-running wait` waits for its end".to_owned(),
            ),
            Exit::NOT_FOUND => run_advice::not_found(&self.program, self.raw.cwd.as_deref()),
            Exit::NOT_EXECUTABLE => {
                run_advice::not_executable(&self.program, self.raw.cwd.as_deref())
            }
            _ => None,
        };
        match advice {
            Some(advice) => {
                Failure { message: format!("{}: {advice}", failure.message), ..failure }
            }
            None => failure,
        }
    }
}

/// Returns a name for a task without one: the program's name and six random digits, as
/// `sleep-3f9a07`.
fn generated_id(program: &OsStr) -> String {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    let name: String = name.chars().filter(|char| !char.is_control()).take(NAME_LENGTH).collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}", &random[..6])
}

/// Returns the signal of the terminal that ended the program, and whether the program alone got it.
fn interruption(process: &Process, status: ExitStatus) -> Option<(i32, bool)> {
    match status {
        ExitStatus::Signaled(signal @ (libc::SIGINT | libc::SIGQUIT))
            if process.shares_terminal() =>
        {
            Some((signal, process.is_foreground()))
        }
        _ => None,
    }
}

/// Returns whether a person is at a standard descriptor. A service may have a terminal that it does
/// not use.
fn is_at_a_terminal() -> bool {
    stdin().is_terminal() || stdout().is_terminal() || stderr().is_terminal()
}

/// Returns whether stdin is a terminal, this is its foreground job, and stdout is not a pipe. In a
/// pipeline the terminal stays with the pipeline: a pager at its end needs it.
fn has_the_terminal() -> bool {
    let piped = std::fs::metadata("/proc/self/fd/1").is_ok_and(|file| file.file_type().is_fifo());
    stdin().is_terminal() && !piped && tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}
