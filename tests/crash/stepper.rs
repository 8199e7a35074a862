//! A host that is stopped at each of its system calls by ptrace(2).
//!
//! All threads of the host are traced, its children are not: of what the host creates, only threads
//! are followed (`PTRACE_O_TRACECLONE` alone). A step is the entry into a system call. Between two
//! steps of a thread lies one system call and the thread's changes to memory, so a kill at each
//! step leaves the machine in each state that a crash of that thread can leave it in, except for
//! stores into memory that is shared with other processes.
//!
//! `strace -e inject` counts per thread and per system call; this counts all threads in one
//! sequence, knows which thread was killed, and needs no further process and no text.

#![expect(unsafe_code, reason = "ptrace(2) and waitpid(2) have no safe form that knows threads")]

use std::{
    collections::HashMap,
    ffi::{c_int, c_void},
    fs, ptr,
};

/// The entry of a thread of the host into a system call, where the thread is stopped.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The name of the thread.
    pub(crate) name: String,
    pub(crate) syscall: u64,
    pub(crate) args: [u64; 6],
}

pub(crate) enum Event {
    Step(Step),
    /// Ended, with the wait status of the host.
    Ended(c_int),
}

struct Thread {
    name: String,
    steps: u32,
}

/// Threads set their names in one of their first system calls.
const NAMED_BY: u32 = 12;

pub(crate) struct Stepper {
    host: i32,
    threads: HashMap<i32, Thread>,
    held: Option<i32>,
    /// Children of ours other than the host, with their wait status: reaped along the way.
    pub(crate) reaped: Vec<(u32, c_int)>,
}

impl Stepper {
    /// Seizes a child of this process that sits in a system call and creates no threads meanwhile.
    /// All later calls must come from the thread that calls this.
    pub(crate) fn attach(host: u32) -> Self {
        let host = host.cast_signed();
        let mut stepper = Self { host, threads: HashMap::new(), held: None, reaped: Vec::new() };
        // If this process dies, the host dies with it.
        let options =
            libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        for entry in fs::read_dir(format!("/proc/{host}/task")).expect("the host's threads") {
            let name = entry.expect("an entry").file_name();
            let tid: i32 = name.to_str().and_then(|name| name.parse().ok()).expect("a number");
            let seized = request(libc::PTRACE_SEIZE, tid, options.cast_unsigned() as usize);
            assert!(seized, "thread {tid} is seized: {}", std::io::Error::last_os_error());
            assert!(request(libc::PTRACE_INTERRUPT, tid, 0), "thread {tid} is interrupted");
            stepper.meet(tid);
        }
        stepper
    }

    /// Lets the host continue to the next system call of any of its threads.
    pub(crate) fn next(&mut self) -> Event {
        if let Some(tid) = self.held.take() {
            go_on(tid, 0);
        }
        loop {
            let (tid, status) = wait_for_any();
            if libc::WIFSTOPPED(status) {
                if let Some(step) = self.stopped(tid, status) {
                    self.held = Some(tid);
                    return Event::Step(step);
                }
            } else if tid == self.host {
                return Event::Ended(status);
            } else if self.threads.remove(&tid).is_none() {
                self.reaped.push((tid.cast_unsigned(), status));
            }
        }
    }

    /// Waits until the host is dead and reaped, without further stops.
    pub(crate) fn wait(&mut self) -> c_int {
        loop {
            if let Event::Ended(status) = self.next() {
                return status;
            }
        }
    }

    /// Lets the host run on untraced.
    pub(crate) fn detach(mut self) {
        for tid in std::mem::take(&mut self.threads).into_keys() {
            // A thread can be detached only while it is stopped.
            let signal = if self.held == Some(tid) { Some(0) } else { stop(tid) };
            if let Some(signal) = signal {
                request(libc::PTRACE_DETACH, tid, signal.cast_unsigned() as usize);
            }
        }
    }

    fn meet(&mut self, tid: i32) {
        self.threads.entry(tid).or_insert(Thread { name: String::new(), steps: 0 });
    }

    fn stopped(&mut self, tid: i32, status: c_int) -> Option<Step> {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        if signal == libc::SIGTRAP | 0x80 {
            if let Some((syscall, args)) = entered(tid) {
                return Some(Step { name: self.name(tid), syscall, args });
            }
            go_on(tid, 0);
        } else if event == libc::PTRACE_EVENT_STOP {
            self.meet(tid);
            if signal == libc::SIGTRAP {
                go_on(tid, 0);
            } else {
                // The whole group was stopped by a signal; it stays so until the next one.
                request(libc::PTRACE_LISTEN, tid, 0);
            }
        } else if event != 0 {
            go_on(tid, 0);
        } else {
            go_on(tid, signal);
        }
        None
    }

    fn name(&mut self, tid: i32) -> String {
        let first = self.host == tid;
        let thread = self.threads.entry(tid).or_insert(Thread { name: String::new(), steps: 0 });
        thread.steps += 1;
        if thread.steps <= NAMED_BY {
            let comm = fs::read_to_string(format!("/proc/{tid}/comm")).unwrap_or_default();
            thread.name = if first { "main".into() } else { comm.trim().to_owned() };
        }
        thread.name.clone()
    }
}

/// The number and the arguments if the thread is stopped before the call; `None` after it.
fn entered(tid: i32) -> Option<(u64, [u64; 6])> {
    // SAFETY: the structure is plain numbers, and the kernel writes at most its size.
    unsafe {
        let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
        let size = size_of::<libc::ptrace_syscall_info>() as *mut c_void;
        let place = (&raw mut info).cast::<c_void>();
        if libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, tid, size, place) < 0
            || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY
        {
            return None;
        }
        Some((info.u.entry.nr, info.u.entry.args))
    }
}

/// A thread that was killed meanwhile cannot continue, and need not.
fn go_on(tid: i32, signal: c_int) {
    request(libc::PTRACE_SYSCALL, tid, signal.cast_unsigned() as usize);
}

fn request(what: libc::c_uint, tid: i32, data: usize) -> bool {
    // SAFETY: requests that pass only numbers.
    unsafe { libc::ptrace(what, tid, ptr::null_mut::<c_void>(), data as *mut c_void) == 0 }
}

/// Stops a thread wherever it is and returns the signal that it was about to get; `None` if it has
/// ended.
fn stop(tid: i32) -> Option<c_int> {
    if !request(libc::PTRACE_INTERRUPT, tid, 0) {
        return None;
    }
    let (_, status) = wait_for(tid);
    // Any stop can replace the requested one.
    let is_signal = status >> 16 == 0 && libc::WSTOPSIG(status) & 0x80 == 0;
    libc::WIFSTOPPED(status).then(|| if is_signal { libc::WSTOPSIG(status) } else { 0 })
}

fn wait_for_any() -> (i32, c_int) {
    wait_for(-1)
}

fn wait_for(which: i32) -> (i32, c_int) {
    let mut status = 0;
    loop {
        // SAFETY: the status is ours.
        let pid = unsafe { libc::waitpid(which, &raw mut status, libc::__WALL) };
        if pid > 0 {
            return (pid, status);
        }
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "the host is a child of ours: {error}");
    }
}

/// Reaps one dead child without waiting. While a host is traced, [`reap`] would consume its stops.
pub(crate) fn reap_one(child: u32) -> Option<c_int> {
    let child = child.cast_signed();
    let mut status = 0;
    // SAFETY: the status is ours.
    let pid = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
    (pid == child).then_some(status)
}

/// Reaps the dead children of this process without waiting.
pub(crate) fn reap() -> Vec<(u32, c_int)> {
    let mut all = Vec::new();
    let mut status = 0;
    loop {
        // SAFETY: the status is ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
        if pid <= 0 {
            return all;
        }
        all.push((pid.cast_unsigned(), status));
    }
}
