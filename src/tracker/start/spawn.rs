//! Spawning through the gate: no program runs before its row is committed.

use std::{
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::Arc,
};

use uuid::Uuid;

use super::{group_commit::Admitted, job::Job, under_keeper::spawn_kept};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{
        Cgroup, Containment, End, EndReason, ExitStatus, Limits, Millis, NewProcess, Origin,
        TaskId, state::State, task_text,
    },
    redact::mask_command,
    sys::{
        PidFd, Pinned,
        keeper::Binary,
        spawn::{self, Child},
    },
    tracker::{
        Tracker,
        core::Core,
        handle::process::Process,
        runtime::tracked::{Hold, Root, Strays},
    },
};

/// The contents of the row of a child at the gate.
#[derive(Debug)]
pub(in crate::tracker) struct Request {
    task: TaskId,
    pub(in crate::tracker) token: Uuid,
    command: Vec<String>,
    cwd: Option<String>,
    pub(in crate::tracker) limits: Limits,
    allow_survivor: bool,
    cgroup: Option<Cgroup>,
}

impl Request {
    fn new(core: &Core, job: &Job, token: Uuid) -> Result<Self> {
        Ok(Self {
            task: TaskId::new(job.task.clone())?,
            token,
            command: recorded_command(job, may_record_arguments(core, job)),
            cwd: job.directory.as_ref().map(|path| path.display().to_string()),
            limits: Limits {
                survive: job.survive,
                grace: job.grace.unwrap_or(core.options.grace),
                max_runtime: job.max_runtime,
                max_rss: job.max_rss,
            },
            allow_survivor: job.allow_survivor,
            cgroup: None,
        })
    }
}

impl Tracker {
    /// Starts a program. When this returns, the program is running or has ended, and its row was committed before its first
    /// instruction.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{Job, Stdio};
    ///
    /// let process = tracker.spawn(Job::new("task-42", "echo").arg("hello").stdout(Stdio::piped()))?;
    /// let output = process.wait_with_output()?;
    /// assert_eq!(output.stdout, b"hello\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - invalid input: an empty or overlong task id, a NUL byte anywhere, an empty program name;
    /// - [`is_already_running`](Error::is_already_running): the task has a live process, or a survivor, in this ledger;
    /// - [`is_not_started`](Error::is_not_started): the program is not found, not executable, or its directory cannot be
    ///   entered; the errno is in [`raw_os_error`](Error::raw_os_error), and the row says `failed`;
    /// - the row cannot be written: the program has not run, and never will;
    /// - [`is_closed`](Error::is_closed): after shutdown, or in a forked child.
    pub fn spawn(&self, job: Job) -> Result<Process> {
        let core = &self.inner.core;
        let _spawning = core.instance.begin_spawn()?;
        core.instance.check_clean()?;
        may_own_programs(core)?;
        let spawned = spawn_job(core, job);
        match &spawned {
            Ok(_) => core.counters().spawned(),
            Err(_) => core.counters().not_spawned(),
        }
        spawned
    }
}

/// Refuses to spawn for another user: root may open a user's ledger to end what is in it, but programs of root do not belong
/// there.
fn may_own_programs(core: &Core) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if core.instance.observer.may_touch(own) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!(
            "the ledger belongs to uid {}: start its programs as that user, not as uid {own}",
            core.instance.observer.uid
        ),
    ))
}

fn spawn_job(core: &Arc<Core>, job: Job) -> Result<Process> {
    crate::tracker::end::spared::check_names("protected", &job.protected)?;
    let token = Uuid::new_v4();
    let mut request = Request::new(core, &job, token)?;
    core.write_late_of(&request.task);
    let foreground = job.foreground && crate::sys::terminal::is_foreground();
    let strays = Strays { keep: job.keep_strays, protected: job.protected.as_slice().into() };
    let bare = !may_record_arguments(core, &job);
    let terminate_on_drop = job.terminate_on_drop;
    let hold = Hold { child: true, strays, kept: None, bare, terminate_on_drop };
    let place = core.leaf_for(token, job.max_rss)?;
    let keeper = match place {
        Some(_) => None,
        None => core.keeper_for(job.survive, foreground)?,
    };
    if place.is_none() && keeper.is_none() {
        core.listen_for_forks();
    }
    request.cgroup = place.as_ref().map(|place| place.leaf.record().clone());
    let command = spawn::Command {
        environment: job.environment(&carried(core, token)),
        program: job.program,
        args: job.args,
        directory: job.directory,
        stdio: job.stdio,
        session: if foreground { spawn::Session::Foreground } else { spawn::Session::New },
        place,
    };
    match keeper {
        Some(keeper) => through_keeper(core, keeper, command, &request, hold),
        None => through_gate(core, command, &request, hold, foreground),
    }
}

fn through_gate(
    core: &Arc<Core>,
    command: spawn::Command,
    request: &Request,
    hold: Hold,
    foreground: bool,
) -> Result<Process> {
    let admit = |child: &Child| {
        let containment = if child.in_leaf { Containment::Cgroup } else { Containment::Session };
        let new = describe(core, request, child.pid, &child.pidfd, containment)?;
        core.registrar.admit(core, new, Some(Arc::clone(&child.gate)))
    };
    match spawn::spawn(command, admit) {
        Ok(spawned) => {
            if spawned.committed.new.cgroup.is_none() {
                core.give_up_leaves(request.cgroup.as_ref());
                core.listen_for_forks();
            }
            Ok(started(core, spawned, hold, foreground))
        }
        Err(refusal) => {
            core.remove_leaf(request.cgroup.as_ref());
            Err(refused(core, refusal, foreground))
        }
    }
}

fn through_keeper(
    core: &Arc<Core>,
    keeper: &Binary,
    command: spawn::Command,
    request: &Request,
    hold: Hold,
) -> Result<Process> {
    match spawn_kept(core, keeper, command, request, &hold) {
        Ok((spawned, kept)) => {
            let hold = Hold { kept: Some(kept), ..hold };
            Ok(started(core, spawned, hold, false))
        }
        Err(refusal) => Err(refused(core, refusal, false)),
    }
}

fn may_record_arguments(core: &Core, job: &Job) -> bool {
    job.record_arguments.unwrap_or(core.options.record_arguments)
}

/// Returns the program and its arguments as the ledger records them.
fn recorded_command(job: &Job, arguments: bool) -> Vec<String> {
    let args = job.args.iter().filter(|_| arguments);
    let command = std::iter::once(&job.program).chain(args);
    let text = command.map(|argument| argument.to_string_lossy().into_owned());
    mask_command(&text.collect::<Vec<_>>())
}

/// Returns the tokens that our programs carry: those of trackers of other ledgers above us, then their own.
fn carried(core: &Core, token: Uuid) -> String {
    let mut list = core.instance.outer_tokens.join(":");
    if !list.is_empty() {
        list.push(':');
    }
    list + &token.simple().to_string()
}

fn started(
    core: &Arc<Core>,
    spawned: spawn::Spawned<Admitted>,
    hold: Hold,
    foreground: bool,
) -> Process {
    let spawn::Spawned { pidfd, committed, pipes: [stdin, stdout, stderr], pid } = spawned;
    let Admitted { row, new } = committed;
    let root = Root::recorded(row, &new, !hold.bare);
    let terminate_on_drop = hold.terminate_on_drop;
    let entry = core.take_on(root, hold, &pidfd);
    core.notify_export();
    tracing::debug!("process {pid} for task {} runs", task_text(new.task.as_ref()));
    let mut process = Process::new(Arc::clone(core), entry, pidfd, foreground);
    process.on_drop.armed = terminate_on_drop;
    process.stdin = stdin.map(ChildStdin::from);
    process.stdout = stdout.map(ChildStdout::from);
    process.stderr = stderr.map(ChildStderr::from);
    process
}

/// Ends the row of a program that did not run, where one was committed.
fn refused(core: &Core, refusal: spawn::Refusal<Admitted>, foreground: bool) -> Error {
    if foreground {
        // The child may already have had the terminal.
        let _ = crate::sys::terminal::take_back();
    }
    if let Some(Admitted { row, .. }) = refusal.committed {
        let cause = std::error::Error::source(&refusal.error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let end = End {
            reason: EndReason::Failed,
            status: ExitStatus::Unobserved,
            at: Millis::now(),
            error: Some(format!("{}{cause}", refusal.error)),
            because: None,
        };
        // On failure the next pass finds the row gone.
        if let Err(error) = core.store.end(&[(row, State::Running, end)]) {
            tracing::error!("failed to record that a program did not start: {error}");
        }
        core.notify_export();
    }
    refusal.error
}

/// Reads the identity of the child at the gate.
pub(in crate::tracker) fn describe(
    core: &Core,
    request: &Request,
    pid: Pid,
    pidfd: &Arc<PidFd>,
    containment: Containment,
) -> Result<NewProcess> {
    let pinned = Pinned::identify(&core.proc, core.place(), pid, Arc::clone(pidfd))?
        .ok_or_else(|| Error::new(Kind::NotStarted, "the child was killed before it ran"))?;
    Ok(NewProcess {
        task: Some(request.task.clone()),
        owner: core.instance.id,
        root: None,
        origin: Origin::Spawned,
        token: Some(request.token),
        identity: pinned.identity,
        session: Some(pid),
        cgroup: request.cgroup.clone().filter(|_| containment == Containment::Cgroup),
        containment,
        keeper: None,
        command: request.command.clone(),
        cwd: request.cwd.clone(),
        uid: rustix::process::geteuid().as_raw(),
        limits: request.limits,
        started_at: Millis::now(),
        peak_rss: None,
        cpu: None,
        evidence: None,
        state: State::Running,
        allow_survivor: request.allow_survivor,
    })
}
