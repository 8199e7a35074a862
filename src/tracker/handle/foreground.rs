//! Waits for a program that shares the host's terminal, as a shell waits for its job.

use std::{os::fd::BorrowedFd, time::Duration};

use super::{exit::Exit, job_control::JobControl, process::Process};
use crate::{
    error::{Error, Result},
    identity::Pid,
    sys::{
        Proc, Signal,
        snapshot::Stat,
        terminal::{Terminal, stop_own_group, stop_this_process},
    },
};

/// Time within which a stop, or a change of the terminal's foreground group, is detected; an end is
/// detected at once.
const STOP_TICK: Duration = Duration::from_millis(20);

impl Process {
    /// Waits for a program that shares the host's terminal
    /// ([`Job::foreground`](crate::Job::foreground),
    /// [`Job::share_terminal`](crate::Job::share_terminal)).
    ///
    /// When the program stops, for example by Ctrl-Z, the terminal is taken back and this process
    /// stops too, so that the parent shell shows its prompt; when that shell continues this
    /// process, the program is continued, and gets the terminal again once the shell has put this
    /// process into the foreground. The whole process group stops if the program had the terminal,
    /// or stopped because it used the terminal in the background: the signal of the terminal was
    /// sent to the program's group alone. The group gets the same signal if this thread blocks it,
    /// so that several hosts in one pipeline can stop their programs, and SIGSTOP otherwise. Block
    /// it in all threads or in none: a thread that does not block it would stop this process once
    /// more.
    ///
    /// A program that was not given the terminal, and stops because it reads from it, gets it if
    /// this process group has it, or the program of another host in this group. When the program
    /// has ended, the terminal is taken back. For a program that does not share the terminal this
    /// is the same as [`wait`](Process::wait).
    ///
    /// # Errors
    ///
    /// As for [`wait`](Process::wait).
    pub fn wait_in_foreground(&mut self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.wait_in_foreground_or(&[])? {
                return Ok(exit);
            }
        }
    }

    /// Does the same, but returns `None` once one of `others` is readable or closed at its other
    /// end, if the program is still running. With this, a host of one program needs no other thread
    /// to read its signals, for example from a signalfd(2).
    ///
    /// # Errors
    ///
    /// As for [`wait`](Process::wait).
    pub fn wait_in_foreground_or(&mut self, others: &[BorrowedFd<'_>]) -> Result<Option<Exit>> {
        if self.core.instance.is_forked() {
            self.core.instance.check_usable()?;
        }
        let Some(mut control) = self.job_control.take() else {
            self.pidfd.wait_dead_or(others, None)?;
            return if self.pidfd.is_dead()? { self.wait().map(Some) } else { Ok(None) };
        };
        let result = self.wait_as_a_shell(&mut control, others);
        let runs_on = matches!(result, Ok(None));
        let taken =
            if control.has_terminal && !runs_on { control.terminal.take_back() } else { Ok(()) };
        self.job_control = Some(control);
        let exit = result?;
        taken?;
        Ok(exit)
    }

    fn wait_as_a_shell(
        &mut self,
        control: &mut JobControl,
        others: &[BorrowedFd<'_>],
    ) -> Result<Option<Exit>> {
        loop {
            let ready = self.pidfd.wait_dead_or(others, Some(STOP_TICK))?;
            if self.pidfd.is_dead()? {
                return self.wait().map(Some);
            }
            match self.pidfd.stopped_by()? {
                // Handle readable descriptors first: a SIGCONT there means that the shell has
                // continued us since.
                Some(_) if ready => control.was_stopped = true,
                Some(signal) => self.stop_along(control, signal, others)?,
                None => self.go_on(control)?,
            }
            if ready {
                return Ok(None);
            }
        }
    }

    /// Continues the group of a running program, and gives it the terminal, if necessary.
    fn go_on(&self, control: &mut JobControl) -> Result<()> {
        if control.was_stopped {
            // A forwarded signal continued only the program, but its whole group was stopped.
            control.was_stopped = false;
            self.continue_group()?;
        }
        if control.foreground && !control.has_terminal && control.terminal.is_ours() {
            // The shell put us into the foreground by `fg` while the program ran in the background.
            self.give_terminal(control)?;
        }
        Ok(())
    }

    fn stop_along(
        &self,
        control: &mut JobControl,
        signal: i32,
        others: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let needs_terminal = matches!(signal, libc::SIGTTIN | libc::SIGTTOU);
        if needs_terminal && is_of_our_job(&control.terminal, &self.core.proc) {
            self.give_terminal(control)?;
            return self.continue_group();
        }
        let had_terminal = control.has_terminal && !control.terminal.is_ours();
        if is_orphaned_group(&self.core.proc) {
            take_terminal_back(control)?;
            // There is no shell that could continue us. The terminal does not stop an orphaned
            // group by Ctrl-Z (setpgid(2)).
            return match signal {
                libc::SIGTSTP if control.foreground => {
                    self.give_terminal(control)?;
                    self.continue_group()
                }
                libc::SIGTSTP => self.continue_group(),
                _ => self.pidfd.forget_stop(),
            };
        }
        take_terminal_back(control)?;
        // Another host in our group, as in `host a | host b`, may have stopped the group first, and
        // the shell may have continued it. Nothing that takes time may come between this check and
        // the stop, which discards a SIGCONT.
        control.was_stopped = self.pidfd.wait_dead_or(others, Some(Duration::ZERO))?;
        if control.was_stopped {
            return Ok(());
        }
        // The signals of a terminal are for a whole job.
        match signal {
            libc::SIGTTIN | libc::SIGTTOU => stop_own_group(signal)?,
            // A program may handle SIGTSTP, and stop itself by SIGSTOP.
            _ if had_terminal => stop_own_group(libc::SIGTSTP)?,
            // Our group got the signal, and we forwarded it; or the program alone was to stop.
            _ => stop_this_process()?,
        }
        // The parent shell has continued us. If it has put us into the background, the terminal is
        // not ours to give, and the program continues without it.
        if (control.foreground || needs_terminal) && control.terminal.is_ours() {
            self.give_terminal(control)?;
        }
        self.continue_group()
    }

    fn give_terminal(&self, control: &mut JobControl) -> Result<()> {
        control.terminal.give_to(self.pid())?;
        control.has_terminal = true;
        Ok(())
    }

    fn continue_group(&self) -> Result<()> {
        self.pidfd
            .send_to_group(Signal::CONT)
            .map_err(|error| Error::os(format!("failed to continue process {}", self.pid()), error))
    }
}

fn take_terminal_back(control: &mut JobControl) -> Result<()> {
    if control.has_terminal {
        control.terminal.take_back()?;
        control.has_terminal = false;
    }
    Ok(())
}

/// Reports whether no parent of a member of our process group is in another group of our session,
/// such as a shell with job control. Of the members only our ancestors are considered.
fn is_orphaned_group(proc: &Proc) -> bool {
    let Some(own) = stat(proc, std::process::id()) else { return true };
    let mut parent = own.parent;
    loop {
        let Some(stat) = stat(proc, parent) else { return true };
        if stat.session != own.session {
            return true;
        }
        if stat.group != own.group {
            return false;
        }
        parent = stat.parent;
    }
}

/// Reports whether the foreground group of the terminal is ours, or that of a program whose host is
/// in our group.
fn is_of_our_job(terminal: &Terminal, proc: &Proc) -> bool {
    let is_of_another_host = || {
        let leader = stat(proc, terminal.foreground()?.get())?;
        let (host, own) = (stat(proc, leader.parent)?, stat(proc, std::process::id())?);
        Some(leader.session == own.session && host.group == own.group)
    };
    terminal.is_ours() || is_of_another_host().unwrap_or(false)
}

fn stat(proc: &Proc, pid: u32) -> Option<Stat> {
    proc.stat(Pid::new(i64::from(pid))?).ok().flatten()
}
