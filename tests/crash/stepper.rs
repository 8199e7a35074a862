//! A host, held at each of its system calls by ptrace(2).
//!
//! All threads of the host are traced, its children are not: of what the host makes, only threads are followed
//! (`PTRACE_O_TRACECLONE` alone). A step is the entry into a system call. Between two steps of a thread lies one system
//! call and what the thread does to memory, so a kill at each step leaves the machine in each state that a crash of that
//! thread can leave it in, but for stores into memory that is shared with other processes.
//!
//! `strace -e inject` counts per thread and per system call; this counts all threads in one sequence, knows which thread
//! struck, and costs no process and no text.

#![expect(unsafe_code, reason = "ptrace(2) and waitpid(2) have no safe form that knows threads")]

use std::{
    collections::HashMap,
    ffi::{c_int, c_void},
    fs, ptr,
};

/// The entry of a thread of the host into a system call, where it stands still.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Of the thread.
    pub(crate) name: String,
    pub(crate) syscall: u64,
    pub(crate) args: [u64; 6],
}

pub(crate) enum Event {
    Step(Step),
    /// With the wait status of the host.
    Ended(c_int),
}

struct Thread {
    name: String,
    steps: u32,
}

/// Threads are named by themselves, in one of their first system calls.
const NAMED_BY: u32 = 12;

pub(crate) struct Stepper {
    host: i32,
    threads: HashMap<i32, Thread>,
    held: Option<i32>,
    /// Children of ours that are not the host, with their wait status: they were reaped on the way.
    pub(crate) reaped: Vec<(i32, c_int)>,
}

impl Stepper {
    /// Seizes a child of this process that sits in a system call and makes no threads meanwhile. All that is asked of it
    /// later must come from the thread that calls this.
    pub(crate) fn attach(host: i32) -> Self {
        let mut stepper = Self { host, threads: HashMap::new(), held: None, reaped: Vec::new() };
        // Should we die, the host dies with us.
        let options =
            libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        for entry in fs::read_dir(format!("/proc/{host}/task")).expect("the host's threads") {
            let name = entry.expect("an entry").file_name();
            let tid: i32 = name.to_str().and_then(|name| name.parse().ok()).expect("a number");
            let seized = request(libc::PTRACE_SEIZE, tid, options as usize);
            assert!(seized, "thread {tid} is seized: {}", std::io::Error::last_os_error());
            assert!(request(libc::PTRACE_INTERRUPT, tid, 0), "thread {tid} is interrupted");
            stepper.meet(tid);
        }
        stepper
    }

    /// Lets the host go on to the next system call of any of its threads.
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
                self.reaped.push((tid, status));
            }
        }
    }

    /// Waits until the host is dead and reaped; nothing stops it any more.
    pub(crate) fn wait(&mut self) -> c_int {
        loop {
            if let Event::Ended(status) = self.next() {
                return status;
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

/// The number and the arguments, where the thread stands before the call; `None` after it.
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

/// A thread that was killed meanwhile cannot go on, and need not.
fn go_on(tid: i32, signal: c_int) {
    request(libc::PTRACE_SYSCALL, tid, signal.cast_unsigned() as usize);
}

fn request(what: libc::c_uint, tid: i32, data: usize) -> bool {
    // SAFETY: requests that pass numbers only.
    unsafe { libc::ptrace(what, tid, ptr::null_mut::<c_void>(), data as *mut c_void) == 0 }
}

fn wait_for_any() -> (i32, c_int) {
    let mut status = 0;
    loop {
        // SAFETY: the status is ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if pid > 0 {
            return (pid, status);
        }
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "the host is a child of ours: {error}");
    }
}

/// Takes what has died among the children of this process, without waiting.
pub(crate) fn reap() -> Vec<(i32, c_int)> {
    let mut all = Vec::new();
    let mut status = 0;
    loop {
        // SAFETY: the status is ours.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) };
        if pid <= 0 {
            return all;
        }
        all.push((pid, status));
    }
}
