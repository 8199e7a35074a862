//! Spawns programs through the gate: none runs before its row is committed.

use std::{
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::Arc,
};

use uuid::Uuid;

use super::{job::Job, spec::SpawnSpec, under_keeper};
use crate::{
    error::{Error, Kind, Result},
    model::{Containment, ContainmentMode, End, EndReason, Millis, State, task_text},
    sys::{
        fd_table::can_install,
        spawn::{self, GatedChild},
    },
    tracker::{
        core::Core,
        end::flush,
        handle::{job_control::JobControl, process::Process},
        passes::fork_events,
        runtime::{
            group_commit::Committed,
            keeper_handle::KeeperHandle,
            tracked::{Root, Tracking},
        },
    },
};

/// Starts a program; see [`Tracker::spawn`](crate::Tracker::spawn).
pub(in crate::tracker) fn spawn(core: &Arc<Core>, job: Job) -> Result<Process> {
    let _spawning = core.instance.begin_spawn()?;
    core.instance.check_clean()?;
    job.attributes.check()?;
    may_own_programs(core, &job)?;
    let spawned = spawn_job(core, job);
    match &spawned {
        Ok(_) => core.counters().spawned(),
        Err(_) => core.counters().not_spawned(),
    }
    spawned
}

/// Fails if the program would belong to a user whose processes this ledger must not signal: root
/// may open a user's ledger to end the processes in it, but programs of root do not belong there.
fn may_own_programs(core: &Core, job: &Job) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let observer = core.instance.observer;
    let denied = |message| Err(Error::new(Kind::Denied, message));
    if !observer.may_touch(own) {
        return denied(format!(
            "the ledger belongs to uid {}: start its programs as that user, not as uid {own}",
            observer.uid
        ));
    }
    match job.attributes.uid {
        Some(uid) if !observer.may_touch(uid) => denied(format!(
            "the ledger belongs to uid {}, and a program of uid {uid} could not be ended from it: only root's ledger may have \
             programs of other users",
            observer.uid
        )),
        _ => Ok(()),
    }
}

fn spawn_job(core: &Arc<Core>, job: Job) -> Result<Process> {
    // 1. Resolve the job.
    let mut spec = SpawnSpec::new(&core.options, &job)?;
    let inherited = job.inherited()?;
    flush::flush_task(core, &spec.task);
    let mode = core.options.containment_mode()?;
    let target = core.cgroups.create_task_cgroup(mode, spec.limits.max_rss)?;
    spec.cgroup = target.as_ref().map(|target| target.task_cgroup.record().clone());
    let keeper = match target {
        Some(_) => None,
        None if spec.excludes_keeper() => None,
        None => core
            .keepers
            .get(mode, core.registry.has_room_for_keeper())?
            .filter(|_| mode != ContainmentMode::Auto || can_pass_on(&job, &inherited)),
    };
    if target.is_none() && keeper.is_none() {
        fork_events::listen_for_forks(core);
    }
    let command = job.into_command(&tokens(core, spec.token), inherited, spec.session(), target);
    // 2. Create its child, which waits at the gate until the row is committed.
    let spawned = match keeper {
        Some(keeper) => under_keeper::spawn(core, keeper, command, &spec)
            .map(|(spawned, keeper)| (spawned, Some(keeper))),
        None => through_gate(core, command, &spec).map(|spawned| (spawned, None)),
    };
    // 3. Track it.
    match spawned {
        Ok((spawned, keeper)) => Ok(started(core, spawned, spec, keeper)),
        Err(refusal) => Err(refused(core, refusal, spec.job_control.as_ref())),
    }
}

/// Reports whether a keeper could give the program all of its descriptors: unlike a child of this
/// host, a keeper opens them anew, and is subject to the limit.
fn can_pass_on(job: &Job, inherited: &[i32]) -> bool {
    let mut numbers = job.attributes.fds.iter().chain(inherited);
    let beyond = numbers.find(|number| !can_install(**number));
    if let Some(number) = beyond {
        tracing::warn!(
            "the inherited descriptor {number} is beyond the hard limit on descriptors (`ulimit -Hn`): the task gets no keeper"
        );
    }
    beyond.is_none()
}

fn through_gate(
    core: &Arc<Core>,
    command: spawn::Command,
    spec: &SpawnSpec,
) -> Result<spawn::Spawned<Committed>, spawn::Refusal<Committed>> {
    let commit = |child: &GatedChild| {
        let containment =
            if child.in_task_cgroup { Containment::Cgroup } else { Containment::Session };
        let new = spec.row(core, child.pid, &child.pidfd, containment)?;
        let committed = core.group_commit.commit(new, Some(Arc::clone(&child.gate)))?;
        // The gate is open, and there is nothing else to do while the child executes its program.
        if child.in_task_cgroup {
            core.cgroups.prepare_task_cgroup();
        }
        Ok(committed)
    };
    let spawned = spawn::spawn(command, commit)
        .inspect_err(|_| core.cgroups.remove_task_cgroup(spec.cgroup.as_ref()))?;
    if spawned.committed.new.spec.cgroup.is_none() {
        core.cgroups.give_up(spec.cgroup.as_ref());
        fork_events::listen_for_forks(core);
    }
    Ok(spawned)
}

/// Returns the tokens that our programs carry: those that we inherited from other ledgers, then
/// their own.
fn tokens(core: &Core, token: Uuid) -> String {
    let mut list = core.instance.outer_tokens.join(":");
    if !list.is_empty() {
        list.push(':');
    }
    list + &token.simple().to_string()
}

fn started(
    core: &Arc<Core>,
    spawned: spawn::Spawned<Committed>,
    spec: SpawnSpec,
    keeper: Option<KeeperHandle>,
) -> Process {
    let spawn::Spawned { pidfd, committed, pipes: [stdin, stdout, stderr], pid } = spawned;
    let Committed { row, new } = committed;
    let root = Root::recorded(row, &new.spec, spec.record_arguments);
    let tracking = Tracking { child: true, strays: spec.strays, keeper };
    let entry = core.registry.track(root, tracking, &pidfd);
    core.export.notify();
    tracing::debug!("process {pid} for task {} is running", task_text(new.spec.task_id.as_ref()));
    let mut process = Process::new(Arc::clone(core), entry, pidfd);
    process.job_control = spec.job_control;
    process.on_drop.armed = spec.terminate_on_drop;
    process.stdin = stdin.map(ChildStdin::from);
    process.stdout = stdout.map(ChildStdout::from);
    process.stderr = stderr.map(ChildStderr::from);
    process
}

/// Ends the row of a program that did not run, if one was committed.
fn refused(
    core: &Core,
    refusal: spawn::Refusal<Committed>,
    job_control: Option<&JobControl>,
) -> Error {
    if let Some(control) = job_control.filter(|control| control.has_terminal) {
        // The child may already have had the terminal.
        let _ = control.terminal.take_back();
    }
    if let Some(Committed { row, .. }) = refusal.committed {
        let cause = std::error::Error::source(&refusal.error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let end = End::unobserved(EndReason::Failed, Millis::now());
        // On failure the next pass finds the row gone.
        let why = format!("{}{cause}", refusal.error);
        if let Err(error) = core.store.end(row, State::Running, end, Some(&why)) {
            tracing::error!("failed to record that a program did not start: {error}");
        }
        core.export.notify();
    }
    refusal.error
}
