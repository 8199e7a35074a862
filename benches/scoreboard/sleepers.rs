//! Many processes that do nothing, created quickly: forked, without an exec.

#![expect(unsafe_code, reason = "fork without exec, and clone as vfork does")]

use std::{
    ffi::{CString, c_char, c_int, c_void},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitCode, Stdio},
    ptr,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Sleepers below one server, which reaps them.
pub(crate) struct Sleepers {
    server: Child,
    pub(crate) pids: Vec<u32>,
}

impl Sleepers {
    pub(crate) fn new(count: usize) -> Self {
        let own = std::env::current_exe().expect("an executable");
        let mut server = Command::new(own)
            // The command they are recorded with: the bench's own path would be longer than most
            // commands.
            .arg0("worker")
            .args(["sleepers", &count.to_string(), "sleeping"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let lines = BufReader::new(server.stdout.take().expect("a pipe")).lines();
        let pids = lines.take(count).map(|line| line.expect("a line").parse().expect("a pid"));
        let pids = pids.collect();
        Self { server, pids }
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        // The server ends at the end of its input, and ends them.
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}

/// The server: forks this many, prints their pids, and kills them when its input ends.
pub(crate) fn serve(count: &str, _kind: &str) -> ExitCode {
    let count: usize = count.parse().expect("a number");
    let mut pids = Vec::with_capacity(count);
    // SAFETY: a disposition without a handler; children are reaped by the kernel then.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    for _ in 0..count {
        // SAFETY: this process has one thread, and the child makes no call but pause(2).
        match unsafe { libc::fork() } {
            0 => sleep_for_ever(),
            pid => pids.push(pid),
        }
    }
    let text: String = pids.iter().flat_map(|pid| [pid.to_string(), "\n".into()]).collect();
    std::io::stdout().write_all(text.as_bytes()).expect("a reader");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    for pid in pids {
        // SAFETY: no memory is touched. Some may be gone and their pids unused: no other process is
        // in this namespace.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    ExitCode::SUCCESS
}

fn sleep_for_ever() -> ! {
    // SAFETY: pause(2) takes no arguments; the dispositions are set first, with none of the host's
    // handlers left.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        loop {
            libc::pause();
        }
    }
}

/// Program and arguments in the form that execve(2) expects.
pub(crate) struct Program {
    argv: Vec<*const c_char>,
    environ: Vec<*const c_char>,
    /// The storage that both lists point into.
    #[expect(dead_code, reason = "kept for the pointers into it")]
    strings: Vec<CString>,
    stack: Vec<u8>,
}

impl Program {
    pub(crate) fn new(words: &[&str]) -> Self {
        let arguments: Vec<CString> =
            words.iter().map(|word| CString::new(*word).expect("no NUL")).collect();
        let mut environment: Vec<CString> = Vec::new();
        for (key, value) in std::env::vars() {
            environment.push(CString::new(format!("{key}={value}")).expect("no NUL"));
        }
        let list = |strings: &[CString]| {
            strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>()
        };
        let (argv, environ) = (list(&arguments), list(&environment));
        let strings = arguments.into_iter().chain(environment).collect();
        Self { argv, environ, strings, stack: vec![0; 64 << 10] }
    }

    /// Returns the upper end of a stack for a child.
    pub(crate) fn stack_top(&mut self) -> *mut u8 {
        let top = self.stack.as_mut_ptr_range().end;
        top.wrapping_sub(top as usize % 16)
    }

    /// Becomes this program; returns only if that fails.
    pub(crate) fn execute(&self) -> c_int {
        // SAFETY: both lists are ended by null and outlive the call.
        unsafe { libc::execve(self.argv[0], self.argv.as_ptr(), self.environ.as_ptr()) };
        127
    }

    /// The limit of a spawn: clone(2) as vfork(2) does it, then execve(2), and nothing else.
    pub(crate) fn vfork(&mut self) -> Raw {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = self.stack_top();
        // SAFETY: the stack is large enough, this thread is suspended until the child has left it,
        // and the child does nothing but execve, or exit if that fails.
        let pid = unsafe {
            libc::clone(execute, top.cast(), flags, ptr::from_mut(self).cast::<c_void>())
        };
        assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
        Raw(pid)
    }
}

extern "C" fn execute(program: *mut c_void) -> c_int {
    // SAFETY: `vfork` passed its program, and is suspended.
    let program = unsafe { &*program.cast::<Program>() };
    program.execute()
}

/// Starts a child that is not recorded.
pub(crate) struct Raw(pub(crate) c_int);

impl Raw {
    pub(crate) fn wait(self) {
        let pid = Pid::from_raw(self.0).expect("a pid");
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
            .expect("a child");
    }

    pub(crate) fn pidfd(&self) -> OwnedFd {
        pidfd_open(Pid::from_raw(self.0).expect("a pid"), PidfdFlags::empty()).expect("a child")
    }
}

/// Waits until all of them are dead.
pub(crate) fn wait_all(fds: &[OwnedFd]) {
    let mut left: Vec<&OwnedFd> = fds.iter().collect();
    while !left.is_empty() {
        let mut polled: Vec<PollFd<'_>> =
            left.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
        poll(&mut polled, None).expect("a poll");
        let alive: Vec<bool> = polled.iter().map(|fd| fd.revents().is_empty()).collect();
        let mut alive = alive.into_iter();
        left.retain(|_| alive.next().unwrap_or(false));
    }
}
