//! The code of the child between clone and exec.
//!
//! It runs on its own stack, in the memory of its parent and with the thread-local memory of the
//! thread that created it, while both continue to run: so it must not allocate, lock, use libc or
//! panic.

#![expect(unsafe_code, reason = "raw system calls between clone and exec")]

use core::{
    ffi::{c_char, c_void},
    ptr,
    sync::atomic::Ordering,
};

use super::gate::{GATE_LIMIT, GATE_TICK, Gate, step, word};
use crate::sys::{
    signal_state::{SIGNAL_SET, SIGNALS, SignalAction, SignalState},
    syscall::syscall,
};

/// Exit code of a child that never became a program; it is never read.
const NEVER_RAN: usize = 125;

/// Room for the digits of a PID; the largest has fewer.
pub(super) const OWN_PID_DIGITS: usize = 10;

/// The descriptor number of an open executable until exec.
pub(super) const EXECUTABLE: u16 = 3;

/// The source of descriptor 0, 1 or 2.
#[derive(Clone, Copy, Debug)]
pub(in crate::sys) enum Descriptor {
    /// The host's own.
    Keep,
    /// A copy of this one, which is 3 or higher.
    Copy(i32),
    /// A copy of descriptor 1, after that was installed.
    Merge,
    /// None.
    Close,
}

/// The session of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// A session of its own.
    New,
    /// The host's session, in a process group of its own.
    Group,
    /// The same, and that group becomes the foreground process group of the terminal on
    /// descriptor 0.
    Foreground,
    /// The host's session, in this process group.
    Join(i32),
}

/// The user and the groups of the child, if they differ from the host's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credentials<'a> {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) groups: Option<&'a [u32]>,
    /// Whether the user changes. Another user must not get a capability of the host.
    pub(super) changes_user: bool,
}

/// The attributes that the child changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes<'a> {
    /// Further descriptors, each with its new number, in the order in which they are installed.
    pub(super) fds: &'a [(i32, i32)],
    /// The new numbers, sorted.
    pub(super) numbers: &'a [i32],
    pub(super) umask: Option<u32>,
    /// Numbers of resources, each with the soft and the hard limit.
    pub(super) limits: &'a [(usize, [u64; 2])],
    pub(super) nice: Option<i32>,
    pub(super) credentials: Option<Credentials<'a>>,
}

/// Everything that the child needs, prepared while allocation was still allowed. The pointers stay
/// valid until the child has left the shared memory.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) gate: &'a Gate,
    /// Whether it waits at the gate until its row is committed.
    pub(super) gated: bool,
    /// Whether the thread that creates it is suspended, and another thread waits for its pid.
    pub(super) suspends: bool,
    pub(super) parent: usize,
    pub(super) session: Session,
    /// The cgroup in which it is created.
    pub(super) cgroup: Option<i32>,
    pub(super) stdio: [Descriptor; 3],
    /// The signals that the program ignores and blocks.
    pub(super) signals: SignalState,
    pub(super) changes: Changes<'a>,
    /// Null for the host's working directory.
    pub(super) directory: *const c_char,
    /// An open executable, with a number above [`EXECUTABLE`], which is executed with every signal
    /// blocked.
    pub(super) executable: Option<i32>,
    /// Paths to try, terminated by null.
    pub(super) programs: *const *const c_char,
    /// The shell and its arguments, for a file in no executable format, whose path becomes the
    /// second element; null for none.
    pub(super) shell: *mut *const c_char,
    pub(super) argv: *const *const c_char,
    pub(super) envp: *const *const c_char,
    /// Room in the environment for the PID of the child, [`OWN_PID_DIGITS`] and a NUL; null for
    /// none.
    pub(super) own_pid: *mut u8,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// The child's entry point.
pub(super) extern "C" fn enter(plan: *const c_void) -> ! {
    // SAFETY: the caller passed a pointer to a `Plan` on its stack, and does not return until the
    // kernel reports that the child has left.
    let plan = unsafe { &*plan.cast::<Plan<'_>>() };
    if plan.suspends {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "pids fit i32"
        )]
        report_created(plan.gate, call(libc::SYS_getpid, [0; 5]) as u32);
    }
    leave_the_host(plan);
    prepare(plan);
    let first = first_program(plan);
    plan.gate.step.store(step::GATE, Ordering::Release);
    if plan.gated {
        wait_at_gate(plan);
    }
    become_program(plan, first)
}

/// The entry point of a child that exits at once.
pub(super) extern "C" fn leave(_: *const c_void) -> ! {
    exit()
}

fn call(number: i64, args: [usize; 5]) -> isize {
    // SAFETY: every caller in this file passes numbers, null, or pointers to live values of the
    // right type.
    unsafe { syscall(number, args) }
}

fn exit() -> ! {
    loop {
        call(libc::SYS_exit_group, [NEVER_RAN, 0, 0, 0, 0]);
    }
}

fn fail(plan: &Plan<'_>, step: u32, result: isize) -> ! {
    plan.gate.step.store(step, Ordering::Release);
    // An errno is small.
    #[expect(clippy::cast_possible_truncation, reason = "errnos are below 4096")]
    plan.gate.errno.store(result.wrapping_neg() as i32, Ordering::Release);
    exit()
}

fn check(plan: &Plan<'_>, step: u32, result: isize) {
    if result < 0 {
        fail(plan, step, result);
    }
}

fn has_parent(plan: &Plan<'_>) -> bool {
    call(libc::SYS_getppid, [0; 5]).cast_unsigned() == plan.parent
}

/// Reports whether the parent process has executed another program since: that ends the thread that
/// created this child, but keeps the pid. PDEATHSIG is sent in this case too, except in the same
/// window. Called only by a child that has waited for a while. If kcmp(2) is refused, as in many
/// containers, this is unknown, and [`GATE_LIMIT`] decides.
fn is_left_behind(plan: &Plan<'_>) -> bool {
    /// `KCMP_VM` in `linux/kcmp.h`: compares whether two processes share their memory, as a child
    /// at the gate and its host do.
    const MEMORY: usize = 1;
    let own = call(libc::SYS_getpid, [0; 5]).cast_unsigned();
    call(libc::SYS_kcmp, [own, plan.parent, MEMORY, 0, 0]) > 0
}

/// Makes the child die with its parent, and leaves the parent's session or process group.
fn leave_the_host(plan: &Plan<'_>) {
    check(
        plan,
        step::PARENT,
        call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0]),
    );
    if !has_parent(plan) {
        fail(plan, step::PARENT, -(libc::ESRCH as isize));
    }
    match plan.session {
        Session::New => check(plan, step::SESSION, call(libc::SYS_setsid, [0; 5])),
        Session::Group | Session::Foreground => {
            check(plan, step::SESSION, call(libc::SYS_setpgid, [0; 5]));
        }
        Session::Join(group) => {
            let args = [0, group.cast_unsigned() as usize, 0, 0, 0];
            check(plan, step::GROUP, call(libc::SYS_setpgid, args));
        }
    }
}

fn prepare(plan: &Plan<'_>) {
    leave_table(plan);
    drain_signals();
    set_dispositions(plan.signals);
    for (target, descriptor) in plan.stdio.iter().enumerate() {
        install(plan, target, *descriptor);
    }
    for (source, target) in plan.changes.fds {
        let (source, target) = (source.cast_unsigned() as usize, target.cast_unsigned() as usize);
        let installed = if source == target {
            call(libc::SYS_fcntl, [source, libc::F_SETFD as usize, 0, 0, 0])
        } else {
            call(libc::SYS_dup3, [source, target, 0, 0, 0])
        };
        check(plan, step::FURTHER, installed);
    }
    close_others(plan);
    if let Some(mask) = plan.changes.umask {
        call(libc::SYS_umask, [mask as usize, 0, 0, 0, 0]);
    }
    // Done last, since a limit on descriptors would apply to those that are installed here.
    for (resource, values) in plan.changes.limits {
        let args = [0, *resource, ptr::from_ref(values) as usize, 0, 0];
        check(plan, step::LIMITS, call(libc::SYS_prlimit64, args));
    }
}

/// Replaces the host's table of descriptors, with which this child was created (`CLONE_FILES`), by
/// one that contains only the descriptors that it needs: copying ten thousand descriptors only to
/// close them takes half a millisecond. Before this nothing is opened or closed.
fn leave_table(plan: &Plan<'_>) {
    let mut last = usize::from(EXECUTABLE).wrapping_sub(1);
    for descriptor in &plan.stdio {
        if let Descriptor::Copy(source) = descriptor {
            last = last.max(source.cast_unsigned() as usize);
        }
    }
    for (source, _) in plan.changes.fds {
        last = last.max(source.cast_unsigned() as usize);
    }
    if let Some(executable) = plan.executable {
        last = last.max(executable.cast_unsigned() as usize);
    }
    let unshare = libc::CLOSE_RANGE_UNSHARE as usize;
    let args = [last.wrapping_add(1), u32::MAX as usize, unshare, 0, 0];
    check(plan, step::DESCRIPTORS, call(libc::SYS_close_range, args));
}

/// Closes all descriptors except the standard ones, the further ones, and an open executable, which
/// exec closes.
fn close_others(plan: &Plan<'_>) {
    let mut first = usize::from(EXECUTABLE);
    if let Some(executable) = plan.executable {
        let source = executable.cast_unsigned() as usize;
        let cloexec = libc::O_CLOEXEC.cast_unsigned() as usize;
        let copied = call(libc::SYS_dup3, [source, first, cloexec, 0, 0]);
        check(plan, step::DESCRIPTORS, copied);
        first = first.wrapping_add(1);
    }
    for target in plan.changes.numbers {
        let target = target.cast_unsigned() as usize;
        if target > first {
            close_from_to(plan, first, target.wrapping_sub(1));
        }
        first = target.wrapping_add(1);
    }
    close_from_to(plan, first, u32::MAX as usize);
}

fn close_from_to(plan: &Plan<'_>, first: usize, last: usize) {
    check(plan, step::DESCRIPTORS, call(libc::SYS_close_range, [first, last, 0, 0, 0]));
}

/// Consumes signals that were sent to the host's process group while the child was still in it:
/// they are pending, and would reach the program when they are unmasked. After leaving that group
/// the child gets no more of them.
fn drain_signals() {
    let all = u64::MAX;
    let now = Timespec { seconds: 0, nanoseconds: 0 };
    loop {
        let args = [ptr::from_ref(&all) as usize, 0, ptr::from_ref(&now) as usize, SIGNAL_SET, 0];
        if call(libc::SYS_rt_sigtimedwait, args) < 0 {
            return;
        }
    }
}

fn set_dispositions(signals: SignalState) {
    let (default, ignore) = (SignalAction::DEFAULT, SignalAction::IGNORE);
    let mut signal = 1_u32;
    while signal <= SIGNALS {
        let action = if signals.ignores(signal) { &ignore } else { &default };
        let action = ptr::from_ref(action) as usize;
        // This fails for SIGKILL and SIGSTOP, which always have their default disposition.
        call(libc::SYS_rt_sigaction, [signal as usize, action, 0, SIGNAL_SET, 0]);
        signal = signal.wrapping_add(1);
    }
}

fn install(plan: &Plan<'_>, target: usize, descriptor: Descriptor) {
    match descriptor {
        // A descriptor that the host has closed stays closed. By now its number may belong to
        // another descriptor, of ours or of some library, even the instance's lock. Those are
        // close-on-exec, and no standard streams.
        Descriptor::Keep => {}
        Descriptor::Copy(source) => {
            check(
                plan,
                step::STDIO,
                call(libc::SYS_dup3, [source.cast_unsigned() as usize, target, 0, 0, 0]),
            );
        }
        // If standard output is closed, or will be closed by exec as above, so is standard error.
        Descriptor::Merge => {
            let flags = call(libc::SYS_fcntl, [1, libc::F_GETFD as usize, 0, 0, 0]);
            if flags < 0 || flags & libc::FD_CLOEXEC as isize != 0 {
                call(libc::SYS_close, [target, 0, 0, 0, 0]);
            } else {
                check(plan, step::STDIO, call(libc::SYS_dup3, [1, target, 0, 0, 0]));
            }
        }
        // An already closed descriptor needs no action.
        Descriptor::Close => {
            call(libc::SYS_close, [target, 0, 0, 0, 0]);
        }
    }
}

/// Reports to the waiting thread the pid of the new child, or
/// [`NOT_CREATED`](super::gate::NOT_CREATED), unless one was already reported.
pub(super) fn report_created(gate: &Gate, pid: u32) {
    let word = &gate.child_pid;
    if word.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        call(libc::SYS_futex, [word.as_ptr() as usize, FUTEX_WAKE, 1, 0, 0]);
    }
}

fn wait_at_gate(plan: &Plan<'_>) {
    let gate = plan.gate;
    let tick = Timespec { seconds: GATE_TICK.as_secs().cast_signed(), nanoseconds: 0 };
    let mut ticks = 0;
    loop {
        match gate.word.load(Ordering::Acquire) {
            word::OPEN => return,
            word::SHUT => {}
            _ => exit(),
        }
        let args = [
            gate.word.as_ptr() as usize,
            FUTEX_WAIT,
            word::SHUT as usize,
            ptr::from_ref(&tick) as usize,
            0,
        ];
        if call(libc::SYS_futex, args) == -(libc::ETIMEDOUT as isize) {
            ticks = u64::wrapping_add(ticks, 1);
            let expired =
                !has_parent(plan) || is_left_behind(plan) || ticks >= GATE_LIMIT.as_secs();
            if expired
                && gate
                    .word
                    .compare_exchange(
                        word::SHUT,
                        word::EXPIRED,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    )
                    .is_ok()
            {
                exit();
            }
        }
    }
}

const FUTEX_WAKE: usize = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
const FUTEX_WAIT: usize = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;

/// `struct __user_cap_header_struct` of capset(2), version 3, for the calling thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Changes the user or the groups of this process.
///
/// The groups are set first, since a user other than root may not set them. Nothing of root's
/// rights remains: no supplementary group, and no capability, not even an ambient one of a host
/// without root's uid (capabilities(7)). The memory is still the host's: it must not be dumpable,
/// or that user could trace this process, whatever `fs.suid_dumpable` says (`proc_sys_fs(5)`).
fn become_user(plan: &Plan<'_>, credentials: &Credentials<'_>) {
    plan.gate.step.store(step::USER, Ordering::Release);
    if let Some(groups) = credentials.groups {
        let args = [groups.len(), groups.as_ptr() as usize, 0, 0, 0];
        check(plan, step::USER, call(libc::SYS_setgroups, args));
    }
    if let Some(gid) = credentials.gid {
        let gid = gid as usize;
        check(plan, step::USER, call(libc::SYS_setresgid, [gid, gid, gid, 0, 0]));
    }
    let Some(uid) = credentials.uid.filter(|_| credentials.changes_user) else { return };
    let id = uid as usize;
    check(plan, step::USER, call(libc::SYS_setresuid, [id, id, id, 0, 0]));
    let none = [libc::PR_SET_DUMPABLE as usize, 0, 0, 0, 0];
    check(plan, step::USER, call(libc::SYS_prctl, none));
    if uid != 0 {
        let header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
        let no_capabilities = [0_u32; 6];
        let args = [ptr::from_ref(&header) as usize, no_capabilities.as_ptr() as usize, 0, 0, 0];
        check(plan, step::USER, call(libc::SYS_capset, args));
    }
}

/// Writes the PID of this process into its environment.
fn write_own_pid(plan: &Plan<'_>) {
    let pid = call(libc::SYS_getpid, [0; 5]).cast_unsigned();
    let (mut unit, mut at) = (1, plan.own_pid);
    while pid / unit >= 10 {
        unit = usize::wrapping_mul(unit, 10);
    }
    while unit > 0 {
        #[expect(clippy::cast_possible_truncation, reason = "a digit")]
        let digit = b'0'.wrapping_add((pid / unit % 10) as u8);
        // SAFETY: there is room for the largest PID, and no other code uses it until this process
        // has left the memory.
        unsafe { *at = digit };
        at = at.wrapping_add(1);
        unit /= 10;
    }
    // SAFETY: as above; the room includes the NUL at the end.
    unsafe { *at = 0 };
}

fn become_program(plan: &Plan<'_>, first: *const *const c_char) -> ! {
    if !plan.own_pid.is_null() {
        write_own_pid(plan);
    }
    if let Some(nice) = plan.changes.nice {
        #[expect(clippy::cast_sign_loss, reason = "the kernel uses the lower half, signed")]
        let args = [libc::PRIO_PROCESS as usize, 0, nice as usize, 0, 0];
        check(plan, step::NICE, call(libc::SYS_setpriority, args));
    }
    if let Some(credentials) = &plan.changes.credentials {
        become_user(plan, credentials);
    }
    if !plan.directory.is_null() {
        check(plan, step::DIRECTORY, call(libc::SYS_chdir, [plan.directory as usize, 0, 0, 0, 0]));
    }
    if plan.session == Session::Foreground {
        #[expect(clippy::cast_possible_truncation, reason = "pids fit i32")]
        let own = call(libc::SYS_getpid, [0; 5]) as i32;
        #[expect(clippy::cast_possible_truncation, reason = "ioctl numbers have 32 bits")]
        let args = [0, libc::TIOCSPGRP as usize, ptr::from_ref(&own) as usize, 0, 0];
        // SIGTTOU is masked, so a background group may do this too (tcsetpgrp(3)).
        check(plan, step::TERMINAL, call(libc::SYS_ioctl, args));
    }
    plan.gate.step.store(step::EXEC, Ordering::Release);
    // The row is committed, so from here on the program may outlive its host. If the host died a
    // moment ago, PDEATHSIG has already been sent; if it dies now, the program is in the ledger.
    call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, 0, 0, 0, 0]);
    if plan.executable.is_some() {
        fail(plan, step::EXEC, execute_open(plan));
    }
    let mask = ptr::from_ref(&plan.signals.blocked) as usize;
    let args = [libc::SIG_SETMASK as usize, mask, 0, SIGNAL_SET, 0];
    call(libc::SYS_rt_sigprocmask, args);
    fail(plan, step::EXEC, try_programs(plan, first))
}

fn execute_open(plan: &Plan<'_>) -> isize {
    let (empty, flags) = (c"".as_ptr() as usize, libc::AT_EMPTY_PATH.cast_unsigned() as usize);
    let args = [usize::from(EXECUTABLE), empty, plan.argv as usize, plan.envp as usize, flags];
    call(libc::SYS_execveat, args)
}

/// Returns the first of several paths that exists, which avoids failing calls of execve(2) after
/// the gate has opened. A relative path counts as existing: it is resolved in the program's working
/// directory.
fn first_program(plan: &Plan<'_>) -> *const *const c_char {
    let mut next = plan.programs;
    loop {
        // SAFETY: the list is ended by null, and `next` has not passed it.
        let path = unsafe { *next };
        if path.is_null() || is_alone(plan.programs) {
            return plan.programs;
        }
        let args = [libc::AT_FDCWD.cast_unsigned() as usize, path as usize, 0, 0, 0];
        // SAFETY: the path is not null, and has its NUL at least.
        if unsafe { *path }.cast_unsigned() != b'/' || call(libc::SYS_faccessat, args) == 0 {
            return next;
        }
        next = next.wrapping_add(1);
    }
}

/// Tries each path from `first` on. On failure, the reason is derived from all of them.
fn try_programs(plan: &Plan<'_>, first: *const *const c_char) -> isize {
    match try_from(plan, first) {
        Tried::All(_) if first != plan.programs => match try_from(plan, plan.programs) {
            Tried::All(reason) | Tried::Decided(reason) => reason,
        },
        Tried::All(reason) | Tried::Decided(reason) => reason,
    }
}

/// Why no program was executed.
enum Tried {
    /// None of the paths could be executed.
    All(isize),
    /// The error of one path, which ends the search.
    Decided(isize),
}

/// Tries each path like execvp(3): a path that does not exist or may not be executed is skipped,
/// and the most specific error is kept; a file of no known format is passed to the shell.
fn try_from(plan: &Plan<'_>, mut next: *const *const c_char) -> Tried {
    let mut reason = -(libc::ENOENT as isize);
    loop {
        // SAFETY: the list is ended by null, and `next` has not passed it.
        let path = unsafe { *next };
        if path.is_null() {
            return Tried::All(reason);
        }
        let result =
            call(libc::SYS_execve, [path as usize, plan.argv as usize, plan.envp as usize, 0, 0]);
        match i32::try_from(result.wrapping_neg()) {
            Ok(libc::EACCES) => reason = result,
            Ok(libc::ENOENT) => {}
            Ok(libc::ENOEXEC) => return Tried::Decided(execute_by_shell(plan, path, result)),
            // In a list of paths such an error is skipped; for a program named by its path it is
            // the reason.
            Ok(
                libc::ENOTDIR | libc::ENAMETOOLONG | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT,
            ) if !is_alone(plan.programs) => {}
            _ => return Tried::Decided(result),
        }
        next = next.wrapping_add(1);
    }
}

/// Executes a script with the shell. If the shell cannot be executed either, returns `refused`, the
/// error of the file itself.
fn execute_by_shell(plan: &Plan<'_>, path: *const c_char, refused: isize) -> isize {
    if plan.shell.is_null() {
        return refused;
    }
    // SAFETY: the list has at least two elements before the null at its end, and no other code uses
    // it.
    unsafe { *plan.shell.wrapping_add(1) = path };
    // SAFETY: as above.
    let shell = unsafe { *plan.shell } as usize;
    call(libc::SYS_execve, [shell, plan.shell as usize, plan.envp as usize, 0, 0]);
    refused
}

fn is_alone(programs: *const *const c_char) -> bool {
    // SAFETY: the list is ended by null, and its first element has just been tried.
    unsafe { (*programs.wrapping_add(1)).is_null() }
}
