//! Spawning through the gate: no program runs before its row is committed.

use std::{
    process::{ChildStderr, ChildStdin, ChildStdout},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    job::Job,
    request::{Request, describe},
    under_keeper::spawn_kept,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Containment, End, EndReason, ExitStatus, Millis, State, task_text},
    sys::{
        keeper::Binary,
        spawn::{self, Child},
    },
    tracker::{
        core::Core,
        end::flush,
        handle::process::Process,
        passes::fork_events,
        runtime::{
            group_commit::Committed,
            tracked::{Root, Strays, Tracking},
        },
    },
};

/// Starts a program; see [`Tracker::spawn`](crate::Tracker::spawn).
pub(in crate::tracker) fn spawn(core: &Arc<Core>, job: Job) -> Result<Process> {
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
    flush::write_late_of(core, &request.task);
    let foreground = job.foreground && crate::sys::terminal::is_foreground();
    let strays = Strays { keep: job.keep_strays, protected: job.protected.as_slice().into() };
    let bare = !job.records_arguments(core.options.record_arguments);
    let terminate_on_drop = job.terminate_on_drop;
    let hold = Tracking { child: true, strays, kept: None, bare, terminate_on_drop };
    let mode = core.options.containment_mode()?;
    let place = core.cgroups.create_task_cgroup(mode, token, job.max_rss)?;
    let keeper = match place {
        Some(_) => None,
        // A program that is to survive its host, or that has the terminal, gets none.
        None if job.survive || foreground => None,
        None => core.keepers.get(mode, core.registry.has_room_for_keeper())?,
    };
    if place.is_none() && keeper.is_none() {
        fork_events::listen_for_forks(core);
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
    hold: Tracking,
    foreground: bool,
) -> Result<Process> {
    let admit = |child: &Child| {
        let containment = if child.in_leaf { Containment::Cgroup } else { Containment::Session };
        let new = describe(core, request, child.pid, &child.pidfd, containment)?;
        core.group_commit.commit(new, Some(Arc::clone(&child.gate)))
    };
    match spawn::spawn(command, admit) {
        Ok(spawned) => {
            if spawned.committed.new.spec.cgroup.is_none() {
                core.cgroups.give_up(request.cgroup.as_ref());
                fork_events::listen_for_forks(core);
            }
            Ok(started(core, spawned, hold, foreground))
        }
        Err(refusal) => {
            core.cgroups.remove_task_cgroup(request.cgroup.as_ref());
            Err(refused(core, refusal, foreground))
        }
    }
}

fn through_keeper(
    core: &Arc<Core>,
    keeper: &Binary,
    command: spawn::Command,
    request: &Request,
    hold: Tracking,
) -> Result<Process> {
    match spawn_kept(core, keeper, command, request, &hold) {
        Ok((spawned, kept)) => {
            let hold = Tracking { kept: Some(kept), ..hold };
            Ok(started(core, spawned, hold, false))
        }
        Err(refusal) => Err(refused(core, refusal, false)),
    }
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
    spawned: spawn::Spawned<Committed>,
    hold: Tracking,
    foreground: bool,
) -> Process {
    let spawn::Spawned { pidfd, committed, pipes: [stdin, stdout, stderr], pid } = spawned;
    let Committed { row, new } = committed;
    let root = Root::recorded(row, &new.spec, !hold.bare);
    let terminate_on_drop = hold.terminate_on_drop;
    let entry = core.registry.track(root, hold, &pidfd);
    core.export.notify();
    tracing::debug!("process {pid} for task {} runs", task_text(new.spec.task_id.as_ref()));
    let mut process = Process::new(Arc::clone(core), entry, pidfd, foreground);
    process.on_drop.armed = terminate_on_drop;
    process.stdin = stdin.map(ChildStdin::from);
    process.stdout = stdout.map(ChildStdout::from);
    process.stderr = stderr.map(ChildStderr::from);
    process
}

/// Ends the row of a program that did not run, where one was committed.
fn refused(core: &Core, refusal: spawn::Refusal<Committed>, foreground: bool) -> Error {
    if foreground {
        // The child may already have had the terminal.
        let _ = crate::sys::terminal::take_back();
    }
    if let Some(Committed { row, .. }) = refusal.committed {
        let cause = std::error::Error::source(&refusal.error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let end = End {
            reason: EndReason::Failed,
            status: ExitStatus::Unobserved,
            at: Millis::now(),
            because: None,
        };
        // On failure the next pass finds the row gone.
        let why = format!("{}{cause}", refusal.error);
        if let Err(error) = core.store.end(row, State::Running, end, Some(&why)) {
            tracing::error!("failed to record that a program did not start: {error}");
        }
        core.export.notify();
    }
    refusal.error
}
