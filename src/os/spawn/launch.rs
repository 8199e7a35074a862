//! The caller's side of a spawn.

#![expect(unsafe_code, reason = "clone by instruction, and the descriptor that it makes")]

use std::{
    cell::RefCell,
    ffi::{OsStr, OsString, c_void},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::PathBuf,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

pub(crate) use super::child::Session;
use super::{
    super::{PidFd, cgroup::Leaf, raw},
    child::{Plan, enter, leave},
    gate::{Applicant, Doorbell, Gate, step},
    program::Program,
    stack::Stack,
    stdio::prepare_stdio,
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
    record::ProcessId,
};

/// A child that is on its way out is dead within microseconds; this bounds a kernel that hangs.
const EXIT_LIMIT: Duration = Duration::from_secs(5);

/// What one of the program's standard descriptors is.
#[derive(Debug)]
pub(crate) enum StdioSource {
    Inherit,
    Null,
    Piped,
    Fd(OwnedFd),
    /// No descriptor at all.
    Closed,
}

/// A program, ready to be started.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    /// Stdin, stdout, stderr.
    pub(crate) stdio: [StdioSource; 3],
    pub(crate) session: Session,
    pub(crate) place: Option<Place>,
}

/// The leaf that a child is born in.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) leaf: Leaf,
    /// Rather no child than one outside of it.
    pub(crate) must: bool,
}

impl Command {
    /// Refuses what no program can be started with, as [`spawn`] does, before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        Program::new(self).map(drop)
    }
}

/// A program that runs and is recorded.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: Arc<PidFd>,
    pub(crate) row: ProcessId,
    /// Our ends of the pipes: stdin, stdout, stderr.
    pub(crate) pipes: [Option<OwnedFd>; 3],
}

/// A program that did not run; its row, where one was committed, must be ended as failed.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) row: Option<ProcessId>,
    pub(crate) error: Error,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { row: None, error }
    }
}

/// Set once clone3 was refused, so that it is not tried in vain each time.
static WITHOUT_CLONE3: AtomicBool = AtomicBool::new(false);

thread_local! {
    static STACK: RefCell<Option<Stack>> = const { RefCell::new(None) };
}

/// Starts `command` through the gate. The registrar must be answering `doorbell` on another thread.
pub(crate) fn spawn<P>(
    command: Command,
    doorbell: &Doorbell<P>,
    applicant: &Arc<Applicant<P>>,
) -> Result<Spawned, Refusal> {
    let program = Program::new(&command)?;
    let (stdio, sources, pipes) = prepare_stdio(command.stdio)?;
    doorbell.expect(Arc::clone(applicant))?;
    let plan = Plan {
        gate: &applicant.gate,
        bell: Some(&doorbell.bell),
        parent: std::process::id() as usize,
        session: command.session,
        cgroup: command.place.as_ref().map(|place| place.leaf.as_fd().as_raw_fd()),
        stdio,
        directory: program.directory.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
        executable: None,
        programs: program.paths.pointers.as_ptr(),
        argv: program.argv.pointers.as_ptr(),
        envp: program.envp.pointers.as_ptr(),
    };
    let cloned = make_child(plan, command.place.as_ref(), &applicant.gate);
    drop(sources);
    let (pid, pidfd) = match cloned {
        Ok(child) => child,
        Err(error) => {
            doorbell.withdraw(applicant);
            let program = command.program.display();
            return Err(error.told_again(&format!("failed to start `{program}`")).into());
        }
    };
    match outcome(&command.program, doorbell, applicant) {
        Ok(row) => Ok(Spawned { pid, pidfd: Arc::new(pidfd), row, pipes }),
        Err(refusal) => {
            bury(&pidfd);
            Err(refusal)
        }
    }
}

/// Takes away a child that never became a program. The parent of a vfork child wakes a moment before its child is a zombie.
pub(super) fn bury(pidfd: &PidFd) {
    let _ = pidfd.wait_dead(EXIT_LIMIT);
    let _ = pidfd.child_status(true);
}

/// What became of the child, now that it has left our memory.
fn outcome<P>(
    program: &OsString,
    doorbell: &Doorbell<P>,
    applicant: &Arc<Applicant<P>>,
) -> Result<ProcessId, Refusal> {
    let (at, errno) = applicant.reached();
    if doorbell.withdraw(applicant) {
        // The registrar never saw it: it failed, or was killed, before it reached the gate.
        return Err(Refusal { row: None, error: failure(program, at, errno) });
    }
    let row = match applicant.decision() {
        Ok(row) => row,
        // It died of this on its way to the gate, and the registrar found it dead.
        Err(_) if errno != 0 => return Err(failure(program, at, errno).into()),
        Err(error) => return Err(error.into()),
    };
    if errno != 0 || at != step::EXEC {
        return Err(Refusal { row: Some(row), error: failure(program, at, errno) });
    }
    Ok(row)
}

/// Why a program did not run, by the step that its child came to, and the errno there.
pub(crate) fn failure(program: &OsStr, at: u32, errno: i32) -> Error {
    let name = program.display();
    let what = match at {
        step::PARENT => format!("failed to start `{name}`: the child is not in this PID namespace"),
        step::SESSION => format!("failed to start `{name}`: no session of its own"),
        step::STDIO => {
            format!("failed to start `{name}`: its standard descriptors could not be set")
        }
        step::DESCRIPTORS => {
            format!("failed to start `{name}`: close_range is refused (Linux 5.9 is needed)")
        }
        step::DIRECTORY => {
            format!("failed to start `{name}`: its working directory cannot be entered")
        }
        step::TERMINAL => format!("failed to start `{name}`: it cannot be given the terminal"),
        step::EXEC => format!("failed to start `{name}`"),
        _ => format!("failed to start `{name}`: it was killed before it ran"),
    };
    let error = Error::new(Kind::NotStarted, what);
    if errno == 0 { error } else { error.with_errno(errno) }
}

/// Makes the child and returns when it has left our memory, by exec or by death.
///
/// Where its leaf does not take it, as when a seccomp profile was set meanwhile, it is born outside and its gate says so,
/// unless it must be born there or not at all.
pub(super) fn make_child(
    mut plan: Plan<'_>,
    place: Option<&Place>,
    gate: &Gate,
) -> Result<(Pid, PidFd)> {
    let pid = with_stack(|stack| {
        gate.in_leaf.store(place.is_some(), Ordering::Release);
        let made = to_pid(clone(&plan, stack));
        if made.is_ok() || place.is_none_or(|place| place.must) {
            return made;
        }
        gate.in_leaf.store(false, Ordering::Release);
        plan.cgroup = None;
        to_pid(clone(&plan, stack))
    })?;
    // SAFETY: the kernel stored a new descriptor there, and nobody else closes it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(gate.pidfd.load(Ordering::Acquire)) };
    Ok((pid, PidFd::from_owned(pidfd)))
}

/// Runs `clone` with the thread's stack for children, and with all signals blocked.
fn with_stack<T>(clone: impl FnOnce(&Stack) -> Result<T>) -> Result<T> {
    STACK.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Stack::new()?);
        }
        let Some(stack) = slot.as_ref() else {
            return Err(Error::new(Kind::Other, "no stack for the child"));
        };
        let mask = mask_signals(u64::MAX);
        let result = clone(stack);
        mask_signals(mask);
        result
    })
}

fn to_pid(result: isize) -> Result<Pid> {
    if result < 0 {
        let errno = i32::try_from(-result).unwrap_or(libc::EINVAL);
        let what = match errno {
            libc::EAGAIN => {
                "no process can be made, a limit is reached (`ulimit -u`, or a cgroup's pids.max)"
            }
            _ => "no process can be made",
        };
        return Err(Error::os(what, std::io::Error::from_raw_os_error(errno)));
    }
    Pid::new(result as i64).ok_or_else(|| Error::new(Kind::Other, "clone answered with no pid"))
}

/// Sets the thread's signal mask raw, with the real-time signals that libc keeps to itself, and returns the former one.
///
/// No handler of the host may run in the child, which shares its memory.
fn mask_signals(mask: u64) -> u64 {
    let mut before = 0_u64;
    let args =
        [libc::SIG_SETMASK as usize, (&raw const mask) as usize, (&raw mut before) as usize, 8, 0];
    // SAFETY: both point to signal sets of the kernel's size, 8 bytes.
    unsafe { raw::syscall(libc::SYS_rt_sigprocmask, args) };
    before
}

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The table of descriptors is shared until the child leaves it: a copy would cost as much as the host has open.
const FLAGS: i32 = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD;

/// `struct clone_args` of Linux 5.7 (clone3(2)). An older kernel takes it while what it does not know is zero.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone(plan: &Plan<'_>, stack: &Stack) -> isize {
    if plan.cgroup.is_some() {
        // clone(2) knows no cgroups, and a program that its row places in a leaf is never started elsewhere.
        return clone3(plan, stack);
    }
    if !WITHOUT_CLONE3.load(Ordering::Relaxed) {
        let result = clone3(plan, stack);
        // ENOSYS: an old kernel, or a seccomp profile that does not know it. EPERM: a profile that says no. EINVAL: a
        // kernel before CLONE_CLEAR_SIGHAND.
        if ![libc::ENOSYS, libc::EPERM, libc::EINVAL]
            .iter()
            .any(|&errno| result == -(errno as isize))
        {
            return result;
        }
        let fallback = clone2(plan, stack);
        WITHOUT_CLONE3.store(fallback > 0, Ordering::Relaxed);
        return fallback;
    }
    clone2(plan, stack)
}

fn clone3(plan: &Plan<'_>, stack: &Stack) -> isize {
    let into_cgroup = if plan.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let args = CloneArgs {
        flags: u64::from(FLAGS.cast_unsigned()) | CLONE_CLEAR_SIGHAND | into_cgroup,
        pidfd: plan.gate.pidfd.as_ptr() as u64,
        cgroup: plan.cgroup.map_or(0, |fd| u64::from(fd.cast_unsigned())),
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom() as u64,
        stack_size: Stack::SIZE as u64,
        ..CloneArgs::default()
    };
    let registers = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: the arguments are as clone3(2) wants them, with CLONE_VFORK; `enter` makes raw system calls only, and the
    // plan lives on the frame of our suspended caller.
    unsafe {
        raw::clone_onto(libc::SYS_clone3, registers, enter, ptr::from_ref(plan).cast::<c_void>())
    }
}

fn clone2(plan: &Plan<'_>, stack: &Stack) -> isize {
    let flags = (FLAGS | libc::SIGCHLD).cast_unsigned() as usize;
    // The raw call takes flags, stack and the place for the pidfd first on both architectures (clone(2)).
    let registers = [flags, stack.top() as usize, plan.gate.pidfd.as_ptr() as usize, 0, 0];
    // SAFETY: as in `clone3`.
    unsafe {
        raw::clone_onto(libc::SYS_clone, registers, enter, ptr::from_ref(plan).cast::<c_void>())
    }
}

/// Whether a child can be born in a cgroup: makes one that ends at once.
pub(in super::super) fn try_joining(cgroup: BorrowedFd<'_>) -> Result<()> {
    with_stack(|stack| {
        let pidfd = AtomicI32::new(-1);
        let args = CloneArgs {
            flags: u64::from(FLAGS.cast_unsigned()) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
            pidfd: pidfd.as_ptr() as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.bottom() as u64,
            stack_size: Stack::SIZE as u64,
            cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
            ..CloneArgs::default()
        };
        let registers = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
        // SAFETY: as in `clone3`; `leave` makes one raw system call.
        let result =
            unsafe { raw::clone_onto(libc::SYS_clone3, registers, leave, ptr::null::<c_void>()) };
        to_pid(result)?;
        // SAFETY: the kernel stored a new descriptor there, and nobody else closes it.
        let child =
            PidFd::from_owned(unsafe { OwnedFd::from_raw_fd(pidfd.load(Ordering::Acquire)) });
        let _ = child.wait_dead(EXIT_LIMIT);
        let _ = child.child_status(true);
        Ok(())
    })
}
