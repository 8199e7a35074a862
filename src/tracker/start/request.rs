//! The contents of the row of a child at the gate.

use std::sync::Arc;

use uuid::Uuid;

use super::job::Job;
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{Cgroup, Containment, Limits, NewProcess, Origin, ProcessSpec, TaskId},
    redact::mask_command,
    sys::{PidFd, Pinned},
    tracker::core::Core,
};

/// The contents of the row of a child at the gate.
#[derive(Debug)]
pub(in crate::tracker) struct Request {
    pub(super) task: TaskId,
    pub(in crate::tracker) token: Uuid,
    command: Vec<String>,
    cwd: Option<String>,
    pub(in crate::tracker) limits: Limits,
    allow_survivor: bool,
    pub(super) cgroup: Option<Cgroup>,
}

impl Request {
    pub(super) fn new(core: &Core, job: &Job, token: Uuid) -> Result<Self> {
        Ok(Self {
            task: TaskId::new(job.task.clone())?,
            token,
            command: recorded_command(job, job.records_arguments(core.options.record_arguments)),
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
    let uid = rustix::process::geteuid().as_raw();
    let (by, limits) = (core.instance.id, request.limits);
    let spec = ProcessSpec {
        task_id: Some(request.task.clone()),
        token: Some(request.token),
        session: Some(pid),
        cgroup: request.cgroup.clone().filter(|_| containment == Containment::Cgroup),
        containment,
        command: request.command.clone(),
        cwd: request.cwd.clone(),
        ..ProcessSpec::new(by, Origin::Spawned, pinned.identity, uid, limits)
    };
    Ok(NewProcess { allow_survivor: request.allow_survivor, ..NewProcess::from(spec) })
}

/// Returns the program and its arguments as the ledger records them.
fn recorded_command(job: &Job, arguments: bool) -> Vec<String> {
    let args = job.args.iter().filter(|_| arguments);
    let command = std::iter::once(&job.program).chain(args);
    let text = command.map(|argument| argument.to_string_lossy().into_owned());
    mask_command(&text.collect::<Vec<_>>())
}
