//! The host's side of a spawn.

#![expect(unsafe_code, reason = "clone by instruction, and the descriptor that it makes")]

use std::{
    cell::Cell,
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
    gate::{Gate, step},
    program::Program,
    stack::Stack,
    stdio::prepare_stdio,
};
use crate::{
    error::{Error, Kind, Result},
    identity::Pid,
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

/// A child of ours that is no program yet.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: Arc<PidFd>,
    /// It was born in the leaf that was made for it.
    pub(crate) in_leaf: bool,
    pub(crate) gate: Arc<Gate>,
}

/// A program that runs and is recorded.
#[derive(Debug)]
pub(crate) struct Spawned<T> {
    pub(crate) pid: Pid,
    pub(crate) pidfd: Arc<PidFd>,
    /// What the commit answered.
    pub(crate) committed: T,
    /// Our ends of the pipes: stdin, stdout, stderr.
    pub(crate) pipes: [Option<OwnedFd>; 3],
}

/// A program that did not run; its row, where one was committed, must be ended as failed.
#[derive(Debug)]
pub(crate) struct Refusal<T> {
    pub(crate) committed: Option<T>,
    /// Where the child failed, for [`failure`]; 0 where there was none, or it did not fail by itself.
    pub(crate) step: u32,
    pub(crate) error: Error,
}

impl<T> From<Error> for Refusal<T> {
    fn from(error: Error) -> Self {
        Self { committed: None, step: 0, error }
    }
}

/// Set once clone3 was refused, so that it is not tried in vain each time.
static WITHOUT_CLONE3: AtomicBool = AtomicBool::new(false);

thread_local! {
    static STACK: Cell<Option<Stack>> = const { Cell::new(None) };
}

/// Starts `command` through the gate: its child becomes the program if `commit` answers that its row is there, and only then.
///
/// `commit` runs while the child makes itself ready.
pub(crate) fn spawn<T: Send>(
    command: Command,
    commit: impl FnOnce(&Child) -> Result<T> + Send,
) -> Result<Spawned<T>, Refusal<T>> {
    let program = Program::new(&command)?;
    let (stdio, sources, pipes) = prepare_stdio(command.stdio)?;
    let gate = Arc::new(Gate::default());
    let plan = Plan {
        gate: &gate,
        gated: true,
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
    let made = make_child(plan, command.place.as_ref(), &gate, |child| {
        let committed = commit(child);
        if committed.is_ok() {
            gate.open();
        } else {
            gate.refuse();
        }
        committed
    });
    drop(sources);
    let (child, committed) = made.map_err(|error| {
        error.told_again(&format!("failed to start `{}`", command.program.display()))
    })?;
    match outcome(&command.program, &gate, committed) {
        Ok(committed) => Ok(Spawned { pid: child.pid, pidfd: child.pidfd, committed, pipes }),
        Err(refusal) => {
            bury(&child.pidfd);
            Err(refusal)
        }
    }
}

/// Takes away a child that never became a program. It has left our memory a moment before it is a zombie.
pub(super) fn bury(pidfd: &PidFd) {
    let _ = pidfd.wait_dead(EXIT_LIMIT);
    let _ = pidfd.child_status(true);
}

/// What became of the child, now that it has left our memory.
fn outcome<T>(program: &OsStr, gate: &Gate, committed: Result<T>) -> Result<T, Refusal<T>> {
    let (step, errno) = gate.reached();
    match committed {
        Ok(committed) if errno == 0 && step == step::EXEC => Ok(committed),
        // It died of this on its way to the gate, and was found dead there.
        Err(error) if errno == 0 => Err(error.into()),
        committed => {
            let committed = committed.ok();
            Err(Refusal { committed, step, error: failure(program, step, errno) })
        }
    }
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

/// Makes the child, calls `meanwhile`, and returns when the child has left our memory, by exec or by death.
///
/// Where its leaf does not take it, as when a seccomp profile was set meanwhile, it is born outside, unless it must be born
/// there or not at all.
pub(super) fn make_child<R: Send>(
    mut plan: Plan<'_>,
    place: Option<&Place>,
    gate: &Arc<Gate>,
    meanwhile: impl FnOnce(&Child) -> R + Send,
) -> Result<(Child, R)> {
    let stack = STACK.take().map_or_else(Stack::new, Ok)?;
    let mut in_leaf = place.is_some();
    let mut made = clone(&plan, &stack);
    if made < 0 && place.is_some_and(|place| !place.must) {
        (in_leaf, plan.cgroup) = (false, None);
        made = clone(&plan, &stack);
    }
    let pid = to_pid(made)?;
    // SAFETY: the kernel stored a new descriptor there, and nobody else closes it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(gate.pidfd.load(Ordering::Acquire)) };
    let pidfd = Arc::new(PidFd::from_owned(pidfd));
    let child = Child { pid, pidfd, in_leaf, gate: Arc::clone(gate) };
    let stay = Stay { child: &child, stack: Some(stack) };
    let result = meanwhile(&child);
    drop(stay);
    Ok((child, result))
}

/// A child's stay in our memory, on a stack of ours: whatever happens to us meanwhile, it must have left before we go on.
struct Stay<'a> {
    child: &'a Child,
    stack: Option<Stack>,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let Child { gate, pidfd, .. } = self.child;
        let panics = std::thread::panicking();
        if panics {
            gate.refuse();
        }
        gate.wait_until_left(pidfd);
        STACK.set(self.stack.take());
        if panics {
            bury(pidfd);
        }
    }
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
const FLAGS: i32 = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD;

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

/// With all signals blocked, which the child inherits.
fn clone(plan: &Plan<'_>, stack: &Stack) -> isize {
    let mask = mask_signals(u64::MAX);
    let result = clone_as_can(plan, stack);
    mask_signals(mask);
    result
}

fn clone_as_can(plan: &Plan<'_>, stack: &Stack) -> isize {
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
        flags: u64::from((FLAGS | libc::CLONE_CHILD_CLEARTID).cast_unsigned())
            | CLONE_CLEAR_SIGHAND
            | into_cgroup,
        pidfd: plan.gate.pidfd.as_ptr() as u64,
        child_tid: plan.gate.inside.as_ptr() as u64,
        cgroup: plan.cgroup.map_or(0, |fd| u64::from(fd.cast_unsigned())),
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom() as u64,
        stack_size: Stack::SIZE as u64,
        ..CloneArgs::default()
    };
    let registers = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: the arguments are as clone3(2) wants them; `enter` makes raw system calls only; the plan lives on the frame of
    // our caller, and the stack in its hands, until `inside` is cleared.
    unsafe {
        raw::clone_onto(libc::SYS_clone3, registers, enter, ptr::from_ref(plan).cast::<c_void>())
    }
}

fn clone2(plan: &Plan<'_>, stack: &Stack) -> isize {
    let flags = (FLAGS | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD).cast_unsigned() as usize;
    let (pidfd, inside) = (plan.gate.pidfd.as_ptr() as usize, plan.gate.inside.as_ptr() as usize);
    // The raw call takes flags, stack and the place for the pidfd first; the architectures differ in what follows (clone(2)).
    let registers = if cfg!(target_arch = "x86_64") {
        [flags, stack.top() as usize, pidfd, inside, 0]
    } else {
        [flags, stack.top() as usize, pidfd, 0, inside]
    };
    // SAFETY: as in `clone3`.
    unsafe {
        raw::clone_onto(libc::SYS_clone, registers, enter, ptr::from_ref(plan).cast::<c_void>())
    }
}

/// Whether a child can be born in a cgroup: makes one that ends at once, while we are suspended.
pub(in super::super) fn try_joining(cgroup: BorrowedFd<'_>) -> Result<()> {
    let stack = Stack::new()?;
    let pidfd = AtomicI32::new(-1);
    let flags = (FLAGS | libc::CLONE_VFORK).cast_unsigned();
    let args = CloneArgs {
        flags: u64::from(flags) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP,
        pidfd: pidfd.as_ptr() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.bottom() as u64,
        stack_size: Stack::SIZE as u64,
        cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
        ..CloneArgs::default()
    };
    let registers = [(&raw const args) as usize, size_of::<CloneArgs>(), 0, 0, 0];
    let mask = mask_signals(u64::MAX);
    // SAFETY: as in `clone3`; `leave` makes one raw system call.
    let made =
        unsafe { raw::clone_onto(libc::SYS_clone3, registers, leave, ptr::null::<c_void>()) };
    mask_signals(mask);
    to_pid(made)?;
    // SAFETY: the kernel stored a new descriptor there, and nobody else closes it.
    let child = unsafe { OwnedFd::from_raw_fd(pidfd.load(Ordering::Acquire)) };
    bury(&PidFd::from_owned(child));
    Ok(())
}
