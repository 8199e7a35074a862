//! The program to run, and how to track it.

use std::{
    collections::BTreeMap, ffi::OsString, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration,
};

use crate::{
    error::Result,
    model::{Attributes, EndPlan, Limits, SignalState},
    sys::spawn::{self, StdioSource},
};

/// One of a program's standard descriptors.
///
/// ```
/// use procledger::{Job, Stdio};
/// let job = Job::new("task-42", "cat").stdin(Stdio::piped()).stdout(Stdio::null());
/// ```
#[derive(Clone, Debug)]
pub struct Stdio(pub(in crate::tracker) StdioSource);

impl Stdio {
    /// Inherits the host's descriptor. A descriptor that is closed, or close-on-exec, is closed in
    /// the program.
    pub fn inherit() -> Self {
        Self(StdioSource::Inherit)
    }

    /// Uses `/dev/null`.
    pub fn null() -> Self {
        Self(StdioSource::Null)
    }

    /// Creates a pipe; the other end is in the [`Process`](crate::Process).
    pub fn piped() -> Self {
        Self(StdioSource::Piped)
    }

    /// For standard error: uses the same descriptor as standard output, like `2>&1` in a shell. If
    /// that is a pipe, everything is read from [`Process::stdout`](crate::Process::stdout), in the
    /// order in which the program wrote it.
    pub fn merge() -> Self {
        Self(StdioSource::Merge)
    }

    /// Uses a descriptor of the caller, such as a log file or a socket. The host's copy is closed
    /// once the job, and each clone of it, has been spawned or dropped.
    pub fn fd(fd: impl Into<OwnedFd>) -> Self {
        Self(StdioSource::Fd(Arc::new(fd.into())))
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::fd(fd)
    }
}

impl From<std::fs::File> for Stdio {
    fn from(file: std::fs::File) -> Self {
        Self::fd(file)
    }
}

impl From<std::io::PipeReader> for Stdio {
    fn from(pipe: std::io::PipeReader) -> Self {
        Self::fd(pipe)
    }
}

impl From<std::io::PipeWriter> for Stdio {
    fn from(pipe: std::io::PipeWriter) -> Self {
        Self::fd(pipe)
    }
}

impl From<std::process::ChildStdin> for Stdio {
    fn from(pipe: std::process::ChildStdin) -> Self {
        Self::fd(pipe)
    }
}

impl From<std::process::ChildStdout> for Stdio {
    fn from(pipe: std::process::ChildStdout) -> Self {
        Self::fd(pipe)
    }
}

impl From<std::process::ChildStderr> for Stdio {
    fn from(pipe: std::process::ChildStderr) -> Self {
        Self::fd(pipe)
    }
}

/// A program to run for a task, and its limits.
///
/// The program gets its own session, the descriptors 0 to 2, those of [`fd`](Self::fd) and
/// [`inherit_fds`](Self::inherit_fds) and, unless [`signals`](Self::signals) is used, default
/// signal dispositions and an empty signal mask. It is searched for like by execvp(3), in the
/// `PATH` of its own environment.
///
/// Methods have the same names as in [`std::process::Command`], as far as that has them. There is
/// no `pre_exec`: a closure would run before the row is committed, in a child that shares the
/// memory, the locks and the thread-local data of its running host, so that it could neither
/// allocate nor panic without harm to the host. The usual purposes of such closures have methods:
/// [`uid`](Self::uid), [`gid`](Self::gid), [`groups`](Self::groups), [`umask`](Self::umask),
/// [`nice`](Self::nice), [`rlimit`](Self::rlimit), [`process_group`](Self::process_group),
/// [`fd`](Self::fd). A new session (`setsid`) and default signals are the default. For anything
/// else start a program that does it and then executes the next one, such as setpriv(1) or
/// prlimit(1): both are one process with one row.
///
/// A job can be cloned and spawned again; [`task_id`](Self::task_id) sets another task.
///
/// ```
/// use std::time::Duration;
/// use procledger::{Job, Stdio};
///
/// let job = Job::new("task-42", "sh")
///     .args(["-c", "echo hello"])
///     .env("LANG", "C")
///     .stdout(Stdio::piped())
///     .max_runtime(Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each with its own setter")]
pub struct Job {
    pub(in crate::tracker) task: String,
    pub(in crate::tracker) program: OsString,
    pub(in crate::tracker) arg0: Option<OsString>,
    pub(in crate::tracker) args: Vec<OsString>,
    pub(in crate::tracker) clear_env: bool,
    pub(in crate::tracker) env: BTreeMap<OsString, Option<OsString>>,
    pub(in crate::tracker) directory: Option<PathBuf>,
    /// `None` for the default, which depends on the call that starts the program.
    pub(in crate::tracker) stdio: [Option<StdioSource>; 3],
    pub(in crate::tracker) signals: SignalState,
    /// The descriptors of [`Attributes::fds`], in that order.
    pub(in crate::tracker) fds: Vec<Arc<OwnedFd>>,
    pub(in crate::tracker) inherit_fds: bool,
    pub(in crate::tracker) attributes: Attributes,
    pub(in crate::tracker) end_plan: EndPlan,
    /// The limits; the grace is in the end plan instead.
    pub(in crate::tracker) limits: Limits,
    pub(in crate::tracker) allow_survivor: bool,
    pub(in crate::tracker) keep_strays: bool,
    pub(in crate::tracker) protected: Vec<String>,
    pub(in crate::tracker) terminate_on_drop: bool,
    pub(in crate::tracker) foreground: bool,
    pub(in crate::tracker) share_terminal: bool,
    pub(in crate::tracker) record_arguments: Option<bool>,
}

impl Job {
    /// Creates a job for `task_id` that runs `program` with inherited standard descriptors.
    ///
    /// Both are checked by [`Tracker::spawn`](crate::Tracker::spawn).
    pub fn new(task_id: impl Into<String>, program: impl Into<OsString>) -> Self {
        Self {
            task: task_id.into(),
            program: program.into(),
            arg0: None,
            args: Vec::new(),
            clear_env: false,
            env: BTreeMap::new(),
            directory: None,
            stdio: [None, None, None],
            signals: SignalState::default(),
            fds: Vec::new(),
            inherit_fds: false,
            attributes: Attributes::default(),
            end_plan: EndPlan::new(),
            limits: Limits::with_grace(Duration::ZERO),
            allow_survivor: false,
            keep_strays: false,
            protected: Vec::new(),
            terminate_on_drop: false,
            foreground: false,
            share_terminal: false,
            record_arguments: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable in the program's environment, which by default is the host's.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), Some(value.into()));
        self
    }

    /// Sets variables in the program's environment.
    #[must_use]
    pub fn envs<I, K, V>(mut self, variables: I) -> Self
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let set = |(key, value): (K, V)| (key.into(), Some(value.into()));
        self.env.extend(variables.into_iter().map(set));
        self
    }

    /// Removes a variable from the program's environment.
    #[must_use]
    pub fn env_remove(mut self, key: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), None);
        self
    }

    /// Starts with an empty environment; variables set before are dropped too. The tracker's token
    /// is always added.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.clear_env = true;
        self.env.clear();
        self
    }

    /// Sets the program's working directory; a relative program path is resolved from there.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets standard input.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdio[0] = Some(stdin.into().0);
        self
    }

    /// Sets standard input to these bytes, from a file in memory (`memfd_create(2)`) that no
    /// process can change: nothing need be written while waiting for the program, and it is not an
    /// error if the program does not read them. Each clone of the job reads them from the
    /// beginning. For input that is not known in advance, use [`Stdio::piped`] and
    /// [`Process::communicate`](crate::Process::communicate).
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::Job;
    ///
    /// let output = tracker.output(Job::new("task-42", "sort").stdin_bytes("b\na\n"))?;
    /// assert_eq!(output.stdout, b"a\nb\n");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdio[0] = Some(StdioSource::Bytes(bytes.into().into()));
        self
    }

    /// Sets standard output.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdio[1] = Some(stdout.into().0);
        self
    }

    /// Sets standard error.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stdio[2] = Some(stderr.into().0);
        self
    }

    /// Sets the signals that the program ignores and blocks when it starts; none by default.
    ///
    /// To pass on the signals that the host ignores and blocks, as exec would:
    /// `.signals(SignalState::current())`.
    #[must_use]
    pub fn signals(mut self, signals: SignalState) -> Self {
        self.signals = signals;
        self
    }

    /// Sets the time between the first signal and SIGKILL; by default the tracker's, or the sum of
    /// the waits of [`stop_signals`](Self::stop_signals).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.end_plan = self.end_plan.grace(grace);
        self
    }

    /// Sets the signals by which its tree is asked to end before SIGKILL, instead of SIGTERM: each
    /// by its number in signal(7), with the time before the next one. This is like `KillSignal=` of
    /// systemd.kill(5) and `STOPSIGNAL` of a Dockerfile, but allows more than one signal.
    ///
    /// They are recorded in its row, and are used whatever ends the tree: its tracker, a keeper,
    /// `kill`, or a pass of another instance after a crash. See [`EndPlan::stop_signals`] for their
    /// relation to a [`grace`](Self::grace).
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use std::time::Duration;
    /// use procledger::{ExitStatus, Job};
    ///
    /// let seconds = Duration::from_secs;
    /// let job = Job::new("task-42", "sleep").arg("300").stop_signals([(2, seconds(10)), (15, seconds(5))]);
    /// let mut process = tracker.spawn(job)?;
    /// process.terminate()?;
    /// assert_eq!(process.wait()?, ExitStatus::Signaled(2));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// From the spawn: invalid input, as from [`EndPlan::check`].
    #[must_use]
    pub fn stop_signals(mut self, signals: impl IntoIterator<Item = (i32, Duration)>) -> Self {
        self.end_plan = self.end_plan.stop_signals(signals);
        self
    }

    /// Sets whether the program is asked to end before its descendants, see
    /// [`EndPlan::root_first`]; off by default.
    #[must_use]
    pub fn root_first(mut self, on: bool) -> Self {
        self.end_plan = self.end_plan.root_first(on);
        self
    }

    /// Ends the tree when the program has run this long, not counting the time for which the
    /// machine was suspended since the spawn (`CLOCK_MONOTONIC`, `clock_gettime(2)`). With the
    /// monitor off, the next health pass does so.
    ///
    /// The tree is ended in the background, together with all others that exceed a limit; its row
    /// has the reason [`MaxRuntime`](crate::EndReason::MaxRuntime).
    #[must_use]
    pub fn max_runtime(mut self, limit: Duration) -> Self {
        self.limits.max_runtime = Some(limit);
        self
    }

    /// Ends the tree when it uses more memory and swap than this, in bytes. Pages that its
    /// processes share count once: the limit applies to the sum of `Pss` and `SwapPss` in
    /// `/proc/PID/smaps_rollup` (`proc_pid_smaps(5)`, Linux 4.14), not to resident memory, which is
    /// larger.
    ///
    /// The limit is checked each second while the monitor is on, otherwise by health passes. The
    /// row has the reason [`MaxRss`](crate::EndReason::MaxRss), and a rule with both figures. In a
    /// task cgroup with a memory controller the kernel enforces the limit as well, at once, and the
    /// reason is [`Oom`](crate::EndReason::Oom). `docs/limits.md` lists what does not count, such
    /// as files in a tmpfs.
    #[must_use]
    pub fn max_rss(mut self, bytes: u64) -> Self {
        self.limits.max_rss = Some(bytes);
        self
    }

    /// Lets the program outlive the tracker; the next instance of the same program adopts it.
    #[must_use]
    pub fn survive(mut self, on: bool) -> Self {
        self.limits.survive = on;
        self
    }

    /// Ends the program's whole tree if its handle is dropped before the program has ended; off by
    /// default. This is meant for work whose caller may go away: a request that is cancelled, a
    /// `tokio::time::timeout`, a panic.
    ///
    /// The drop does not wait: the tree is ended in the background, as by
    /// [`Process::terminate`](crate::Process::terminate), and is recorded as `terminated` with the
    /// rule "its handle was dropped"; [`shutdown`](crate::Tracker::shutdown) waits for it. A handle
    /// has this effect from the commit of its row on: a future of `AsyncTracker::spawn` that is
    /// dropped while the program is being started leaves no program running, and neither does a
    /// handle that is converted by `into_async`. A program that has ended by itself is not
    /// affected, nor are the processes that it left. `std::mem::forget` on the handle leaves the
    /// program to the tracker.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::Job;
    ///
    /// let process = tracker.spawn(Job::new("task-42", "sleep").arg("3600").terminate_on_drop(true))?;
    /// drop(process);
    /// tracker.shutdown()?;
    /// # let history = tracker.ledger().history(procledger::Query::new().limit(1))?;
    /// # assert_eq!(history[0].life.end().unwrap().reason, procledger::EndReason::Terminated);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn terminate_on_drop(mut self, on: bool) -> Self {
        self.terminate_on_drop = on;
        self
    }

    /// Allows the spawn although a survivor of the same task, which could not be ended, still
    /// exists.
    #[must_use]
    pub fn allow_survivor(mut self, on: bool) -> Self {
        self.allow_survivor = on;
        self
    }

    /// Leaves the processes that the program leaves behind running, if it ends by itself.
    ///
    /// Each such process is recorded as a leak of the kind `stray` with the outcome `kept`, and as
    /// a row that ended as `released`. No instance is responsible for it any more, so it is never
    /// ended later, as an orphan or otherwise.
    ///
    /// This does not apply to a program that is asked to end
    /// ([`terminate`](crate::Tracker::terminate), a limit, a shutdown), or whose owner died before
    /// it ended: to leave processes running in that case, use [`protect`](Self::protect).
    #[must_use]
    pub fn keep_strays(mut self, on: bool) -> Self {
        self.keep_strays = on;
        self
    }

    /// Leaves programs with this name, and their descendants, running when the tree is ended, for
    /// example a build server or `tmux`.
    ///
    /// This is like [`Builder::protect`](crate::Builder::protect), but only for this job. The names
    /// are known only to this instance and not stored in the ledger: after a crash only the names
    /// of the instance that cleans up count. May be called more than once.
    #[must_use]
    pub fn protect(mut self, name: impl Into<String>) -> Self {
        self.protected.push(name.into());
        self
    }

    /// Keeps the program in the host's session and makes it the foreground process group of the
    /// terminal on its standard input, like a shell's job: Ctrl-C and Ctrl-Z reach it. Wait for it
    /// with [`wait_in_foreground`](crate::Process::wait_in_foreground).
    #[must_use]
    pub fn foreground(mut self, on: bool) -> Self {
        self.foreground = on;
        self
    }

    /// Keeps the program in the host's session, in a new process group, if that session has a
    /// terminal: the program can open `/dev/tty`, and is stopped when it reads from the terminal in
    /// the background. Wait for it with [`wait_in_foreground`](crate::Process::wait_in_foreground).
    ///
    /// It has no keeper then; if [`ContainmentMode::Keeper`](crate::ContainmentMode::Keeper) is
    /// requested, it does not share the terminal.
    #[must_use]
    pub fn share_terminal(mut self, on: bool) -> Self {
        self.share_terminal = on;
        self
    }

    /// Sets whether the arguments are recorded; by default as set for the tracker. If not, the
    /// ledger contains only the program, for its descendants as well.
    ///
    /// The environment is never recorded. Everything in the arguments that looks like a secret is
    /// masked before it is stored, reported or logged, while the program gets the real values: the
    /// value of an option, a variable or a header with a name such as `--token`, `API_KEY=` or
    /// `Authorization:`, the password in a URL, tokens of well-known shapes. A secret that is
    /// recognizable neither by its name nor by its form is not found: do not record the arguments
    /// of such a program.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::Job;
    ///
    /// tracker.spawn(Job::new("a", "echo").args(["--token", "hunter2"]))?.wait()?;
    /// tracker.spawn(Job::new("b", "echo").arg("hunter2").record_arguments(false))?.wait()?;
    /// let history = tracker.ledger().history(procledger::Query::new().limit(2))?;
    /// let command = |task: &str| {
    ///     let of_task = |row: &&procledger::ProcessRecord| row.spec.task_id.as_ref().unwrap().as_str() == task;
    ///     history.iter().find(of_task).unwrap().spec.command.join(" ")
    /// };
    /// assert_eq!(command("a"), "echo --token ***");
    /// assert_eq!(command("b"), "echo");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn record_arguments(mut self, on: bool) -> Self {
        self.record_arguments = Some(on);
        self
    }

    /// Sets the standard descriptors that were not set: no input, and pipes for output and errors.
    pub(in crate::tracker) fn with_output(mut self) -> Self {
        let [stdin, stdout, stderr] = &mut self.stdio;
        stdin.get_or_insert(StdioSource::Null);
        stdout.get_or_insert(StdioSource::Piped);
        stderr.get_or_insert(StdioSource::Piped);
        self
    }

    /// Returns the numbers of the host's own descriptors that the program inherits.
    pub(super) fn inherited(&self) -> Result<Vec<i32>> {
        let mut inherited = if self.inherit_fds { spawn::inheritable()? } else { Vec::new() };
        inherited.retain(|number| !self.attributes.fds.contains(number));
        Ok(inherited)
    }

    /// Returns the command to start, with these tokens in its environment, these descriptors of the
    /// host, and in this cgroup.
    pub(super) fn into_command(
        self,
        tokens: &str,
        inherited: Vec<i32>,
        session: spawn::Session,
        target: Option<spawn::TargetCgroup>,
    ) -> spawn::Command {
        let environment = self.environment(tokens);
        let own_pid = std::process::id().to_string();
        let is_ours =
            |(name, value): &(OsString, OsString)| name == "LISTEN_PID" && *value == *own_pid;
        spawn::Command {
            listens: self.inherit_fds && environment.iter().any(is_ours),
            environment,
            program: self.program,
            arg0: self.arg0,
            args: self.args,
            directory: self.directory,
            stdio: self.stdio.map(|source| source.unwrap_or(StdioSource::Inherit)),
            signals: self.signals,
            fds: self.attributes.fds.iter().copied().zip(self.fds).collect(),
            inherited,
            attributes: self.attributes,
            session,
            target,
        }
    }

    /// Returns the whole environment of the program, including `token`.
    fn environment(&self, token: &str) -> Vec<(OsString, OsString)> {
        let mut all: Vec<(OsString, OsString)> =
            if self.clear_env { Vec::new() } else { std::env::vars_os().collect() };
        all.retain(|(key, _)| !self.env.contains_key(key));
        let set =
            |(key, value): (&OsString, &Option<OsString>)| Some((key.clone(), value.clone()?));
        all.extend(self.env.iter().filter_map(set));
        all.retain(|(key, _)| key != crate::sys::proc::TOKEN_VARIABLE);
        all.push((crate::sys::proc::TOKEN_VARIABLE.into(), token.into()));
        all
    }
}
