//! The resolved job: everything that is known about a spawn before there is a child.

use std::sync::Arc;

use uuid::Uuid;

use super::job::Job;
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    model::{
        Attributes, Cgroup, Containment, ContainmentMode, EndPlan, Limits, NewProcess, Origin,
        ProcessSpec, TaskId,
    },
    redact::{mask_command, mask_text},
    sys::{
        PidFd, Pinned,
        spawn::Session,
        terminal::{Terminal, is_foreground},
    },
    tracker::{
        core::Core, end::spared::check_names, handle::job_control::JobControl, options::Options,
        runtime::tracked::Strays,
    },
};

/// A job that was resolved with the options of its tracker.
#[derive(Debug)]
pub(super) struct SpawnSpec {
    pub(super) task: TaskId,
    pub(super) token: Uuid,
    /// The program and its arguments as the ledger records them.
    command: Vec<String>,
    /// The attributes as the ledger records them.
    attributes: Attributes,
    cwd: Option<String>,
    pub(super) limits: Limits,
    pub(super) end_plan: EndPlan,
    allow_survivor: bool,
    pub(super) strays: Strays,
    /// Whether its arguments, and those of its descendants, may be recorded.
    pub(super) record_arguments: bool,
    pub(super) terminate_on_drop: bool,
    /// The state of the shared terminal, if it shares ours.
    pub(super) job_control: Option<JobControl>,
    /// The task cgroup that was created for it.
    pub(super) cgroup: Option<Cgroup>,
}

impl SpawnSpec {
    pub(super) fn new(options: &Options, job: &Job) -> Result<Self> {
        check_names("protected", &job.protected)?;
        check_process_group(options, job)?;
        job.end_plan.check()?;
        let (mut end_plan, mut grace) = (EndPlan::default(), options.grace);
        job.end_plan.replace_in(&mut end_plan, &mut grace);
        let record_arguments = job.record_arguments.unwrap_or(options.record_arguments);
        Ok(Self {
            task: TaskId::new(job.task.clone())?,
            token: Uuid::new_v4(),
            command: recorded_command(job, record_arguments),
            attributes: recorded_attributes(job, record_arguments),
            cwd: job.directory.as_ref().map(|path| path.display().to_string()),
            limits: Limits { grace, ..job.limits },
            end_plan,
            allow_survivor: job.allow_survivor,
            strays: Strays { keep: job.keep_strays, protected: job.protected.as_slice().into() },
            record_arguments,
            terminate_on_drop: job.terminate_on_drop,
            job_control: job_control(options, job)?,
            cgroup: None,
        })
    }

    /// Returns the session and the process group that it gets.
    pub(super) fn session(&self) -> Session {
        match &self.job_control {
            Some(control) if control.foreground => Session::Foreground,
            Some(_) => Session::Group,
            None => match self.attributes.process_group {
                None => Session::New,
                Some(0) => Session::Group,
                Some(group) => Session::Join(group),
            },
        }
    }

    /// Returns whether a keeper cannot start it, because the program is to survive its host, or to
    /// be in a process group or session of the host.
    pub(super) fn excludes_keeper(&self) -> bool {
        self.limits.survive
            || self.job_control.is_some()
            || matches!(self.session(), Session::Join(_))
    }

    /// Returns the row of the child that waits at the gate, whose identity is read here.
    pub(super) fn row(
        &self,
        core: &Core,
        pid: Pid,
        pidfd: &Arc<PidFd>,
        containment: Containment,
    ) -> Result<NewProcess> {
        let pinned = Pinned::identify(&core.proc, core.pid_scope(), pid, Arc::clone(pidfd))?
            .ok_or_else(|| Error::new(Kind::NotStarted, "the child was killed before it ran"))?;
        let uid = self.attributes.uid;
        let uid = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let spec = ProcessSpec {
            task_id: Some(self.task.clone()),
            token: Some(self.token),
            session: Some(pid).filter(|_| !matches!(self.session(), Session::Join(_))),
            cgroup: self.cgroup.clone().filter(|_| containment == Containment::Cgroup),
            containment,
            command: self.command.clone(),
            cwd: self.cwd.clone(),
            attributes: self.attributes.clone(),
            end_plan: self.end_plan.clone(),
            ..ProcessSpec::new(core.instance.id, Origin::Spawned, pinned.identity, uid, self.limits)
        };
        Ok(NewProcess { allow_survivor: self.allow_survivor, ..NewProcess::from(spec) })
    }
}

/// Fails if the program is to join a process group of the host's session, but would not be in that
/// session or gets its own group.
fn check_process_group(options: &Options, job: &Job) -> Result<()> {
    let Some(group) = job.attributes.process_group.filter(|group| *group != 0) else {
        return Ok(());
    };
    let why = if job.foreground || job.share_terminal {
        "a program that shares the terminal has its own group"
    } else if options.containment_mode()? == ContainmentMode::Keeper {
        "under a keeper it is in another session"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("the program cannot join process group {group}: {why}")))
}

fn job_control(options: &Options, job: &Job) -> Result<Option<JobControl>> {
    let foreground = job.foreground && is_foreground();
    let shares = job.share_terminal && options.containment_mode()? != ContainmentMode::Keeper;
    if !foreground && !shares {
        return Ok(None);
    }
    let control = |terminal| JobControl {
        terminal,
        foreground,
        has_terminal: foreground,
        was_stopped: false,
    };
    Ok(Terminal::open().map(control))
}

/// Returns the attributes as the ledger records them.
fn recorded_attributes(job: &Job, arguments: bool) -> Attributes {
    let arg0 = job.arg0.as_ref().filter(|_| arguments);
    let arg0 = arg0.map(|text| mask_text(&text.to_string_lossy()));
    Attributes { arg0, ..job.attributes.clone() }
}

/// Returns the program and its arguments as the ledger records them.
fn recorded_command(job: &Job, arguments: bool) -> Vec<String> {
    let args = job.args.iter().filter(|_| arguments);
    let command = std::iter::once(&job.program).chain(args);
    let text = command.map(|argument| argument.to_string_lossy().into_owned());
    mask_command(&text.collect::<Vec<_>>())
}
