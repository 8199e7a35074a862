//! Starts a program through the gate.

use std::{
    ffi::OsStr,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use super::{
    attributes::Attributes,
    child::{Changes, Credentials, Plan},
    clone_thread::RUNS_BESIDE,
    command::Command,
    gate::{Gate, step},
    program::{OwnPid, Program},
    reap::reap,
    shared_memory::{GatedChild, make_child},
    stdio::{Further, prepare_fds, prepare_stdio},
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    sys::PidFd,
};

/// A program that is running and recorded.
#[derive(Debug)]
pub(crate) struct Spawned<T> {
    pub(crate) pid: Pid,
    pub(crate) pidfd: Arc<PidFd>,
    /// The result of the commit.
    pub(crate) committed: T,
    /// Our ends of the pipes: stdin, stdout, stderr.
    pub(crate) pipes: [Option<OwnedFd>; 3],
}

/// A program that did not run. If its row was committed, the row must be ended as failed.
#[derive(Debug)]
pub(crate) struct Refusal<T> {
    pub(crate) committed: Option<T>,
    /// The step at which the child failed, for [`failure`]; 0 if there was no child, or if it did
    /// not fail by itself.
    pub(crate) step: u32,
    pub(crate) error: Error,
}

impl<T> From<Error> for Refusal<T> {
    fn from(error: Error) -> Self {
        Self { committed: None, step: 0, error }
    }
}

/// Starts `command` through the gate: the child becomes the program only if `commit` succeeds in
/// committing its row.
///
/// `commit` runs while the child prepares itself.
pub(crate) fn spawn<T>(
    command: Command,
    commit: impl FnOnce(&GatedChild) -> Result<T>,
) -> Result<Spawned<T>, Refusal<T>> {
    let mut program = Program::new(&command)?;
    let (stdio, sources, pipes) = prepare_stdio(command.stdio)?;
    let (further, copies) = prepare_fds(&command.fds, &command.inherited)?;
    let limits = command.attributes.limits_to_set();
    let gate = Arc::new(Gate::default());
    let plan = Plan {
        gate: &gate,
        gated: true,
        suspends: command.target.is_some() || !RUNS_BESIDE,
        parent: std::process::id() as usize,
        session: command.session,
        cgroup: command.target.as_ref().map(|target| target.task_cgroup.as_fd().as_raw_fd()),
        stdio,
        signals: command.signals,
        changes: changes(&command.attributes, &further, &limits),
        directory: program.directory.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
        executable: None,
        programs: program.paths.pointers.as_ptr(),
        shell: program.shell.as_mut_ptr(),
        argv: program.argv.pointers.as_ptr(),
        envp: program.envp.pointers.as_ptr(),
        own_pid: program.own_pid.as_mut().map_or(ptr::null_mut(), OwnPid::digits),
    };
    let made = make_child(plan, command.target.as_ref(), &gate, |child| {
        let committed = commit(child);
        if committed.is_ok() {
            gate.open();
        } else {
            gate.refuse();
        }
        committed
    });
    drop((sources, copies, command.fds));
    let (child, committed) = made.map_err(|error| {
        error.with_context(&format!("failed to start `{}`", command.program.display()))
    })?;
    match outcome(&command.program, &gate, committed) {
        Ok(committed) => Ok(Spawned { pid: child.pid, pidfd: child.pidfd, committed, pipes }),
        Err(refusal) => {
            reap(&child.pidfd);
            Err(refusal)
        }
    }
}

fn changes<'a>(
    attributes: &'a Attributes,
    further: &'a Further,
    limits: &'a [(usize, [u64; 2])],
) -> Changes<'a> {
    let credentials = Credentials {
        uid: attributes.uid,
        gid: attributes.gid,
        groups: attributes.groups_to_set(),
        changes_user: attributes.changes_user(),
    };
    Changes {
        fds: &further.moves,
        numbers: &further.numbers,
        umask: attributes.umask,
        limits,
        nice: attributes.nice,
        credentials: attributes.changes_groups().then_some(credentials),
    }
}

/// Determines the result of the child after it has left our memory.
fn outcome<T>(program: &OsStr, gate: &Gate, committed: Result<T>) -> Result<T, Refusal<T>> {
    let (step, errno) = gate.reached();
    match committed {
        Ok(committed) if errno == 0 && step == step::EXEC => Ok(committed),
        // The child failed on its way to the gate, and the commit found it dead.
        Err(error) if errno == 0 => Err(error.into()),
        committed => {
            let committed = committed.ok();
            Err(Refusal { committed, step, error: failure(program, step, errno) })
        }
    }
}

/// Returns the reason why a program did not run, from the step that its child reached and the errno
/// there.
pub(crate) fn failure(program: &OsStr, at: u32, errno: i32) -> Error {
    let name = program.display();
    let what = match at {
        step::PARENT if errno == libc::ESRCH => {
            format!("failed to start `{name}`: the child is not in this PID namespace")
        }
        step::PARENT => format!("failed to start `{name}`: PR_SET_PDEATHSIG is refused"),
        step::SESSION => format!("failed to start `{name}`: it could not get a session of its own"),
        step::GROUP => format!("failed to start `{name}`: it cannot join its process group"),
        step::LIMITS => format!("failed to start `{name}`: a resource limit cannot be set"),
        step::NICE => format!("failed to start `{name}`: its nice value cannot be set"),
        step::USER if errno == libc::EINVAL => format!(
            "failed to start `{name}`: its user or group does not exist in this user namespace"
        ),
        step::USER => format!("failed to start `{name}`: its user or groups cannot be set"),
        step::STDIO => {
            format!("failed to start `{name}`: its standard descriptors could not be set")
        }
        step::DESCRIPTORS => {
            format!("failed to start `{name}`: close_range is refused (Linux 5.9 is required)")
        }
        step::FURTHER if errno == libc::EBADF => format!(
            "failed to start `{name}`: it cannot get a descriptor whose number is beyond the hard limit on descriptors \
             (`ulimit -Hn`): close that descriptor or raise the limit"
        ),
        step::FURTHER => {
            format!("failed to start `{name}`: its further descriptors could not be set")
        }
        step::DIRECTORY => {
            format!("failed to start `{name}`: its working directory cannot be entered")
        }
        step::TERMINAL => format!("failed to start `{name}`: it cannot be given the terminal"),
        step::EXEC => format!("failed to start `{name}`"),
        _ => format!("failed to start `{name}`: it was killed before it ran"),
    };
    // The cause of these is neither the program nor its directory: the kernel, or a seccomp
    // profile, refuses them to the host.
    let is_hosts = matches!(
        at,
        step::PARENT
            | step::SESSION
            | step::GROUP
            | step::STDIO
            | step::DESCRIPTORS
            | step::FURTHER
            | step::LIMITS
            | step::NICE
            | step::USER
            | step::TERMINAL
    );
    if is_hosts && !matches!(errno, 0 | libc::ESRCH) {
        return Error::os(what, std::io::Error::from_raw_os_error(errno));
    }
    let error = Error::new(Kind::NotStarted, what);
    if errno == 0 { error } else { error.with_errno(errno) }
}
