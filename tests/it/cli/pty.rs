//! Not a scenario: a real terminal for a program, with the test as the user at its other end.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use nix::pty::{Winsize, openpty};

use crate::{
    cli::command::{PROCLEDGER, clean},
    support::{Guard, Place, eventually},
};

/// A terminal of 24 lines and 80 columns.
pub(crate) struct Pty {
    master: File,
    slave: OwnedFd,
    seen: Arc<Mutex<String>>,
}

impl Pty {
    pub(crate) fn new() -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a terminal");
        let master = File::from(pair.master);
        for fd in [master.as_fd(), pair.slave.as_fd()] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).expect("close on exec");
        }
        let seen = Arc::new(Mutex::new(String::new()));
        let (mut reader, log) = (master.try_clone().expect("a copy"), Arc::clone(&seen));
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            // EIO once the other end is closed.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                log.lock().expect("whole").push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        });
        Self { master, slave: pair.slave, seen }
    }

    /// Starts a program as the leader of a session that this terminal controls, as `login` starts a
    /// shell.
    pub(crate) fn spawn(&self, command: &mut Command) -> Guard {
        let end = || self.slave.try_clone().expect("a copy");
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        #[expect(unsafe_code, reason = "only a child can make itself a session leader")]
        // SAFETY: setsid(2) and ioctl(2) are async-signal-safe, and nothing else happens there.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        Guard(command.spawn().expect("a program on the terminal"))
    }

    /// Starts an interactive shell that knows the command as `$P`, and waits for its first prompt.
    pub(crate) fn bash(&self, place: &Place) -> Guard {
        let mut shell = Command::new("bash");
        clean(&mut shell, place);
        shell
            .args(["--norc", "--noprofile", "-i"])
            .env("PS1", "prompt> ")
            .env("PROCLEDGER_DB", place.ledger())
            .env("P", PROCLEDGER)
            .env("HISTFILE", "")
            .current_dir(place.path());
        let bash = self.spawn(&mut shell);
        self.wait_for("prompt> ", 1);
        bash
    }

    /// Resizes the terminal; the foreground group gets SIGWINCH.
    pub(crate) fn resize(&self, lines: u16, columns: u16) {
        let size =
            rustix::termios::Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.master.as_fd(), size).expect("a size");
    }

    /// The settings of the line discipline: echo, canonical mode and all else.
    pub(crate) fn modes(&self) -> String {
        let modes = rustix::termios::tcgetattr(self.slave.as_fd()).expect("modes");
        format!("{:?} {:?} {:?}", modes.input_modes, modes.output_modes, modes.local_modes)
    }

    /// Types.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("a keyboard");
    }

    /// Everything that has been shown so far.
    pub(crate) fn seen(&self) -> String {
        self.seen.lock().expect("whole").clone()
    }

    /// Waits until `text` was shown `times` times.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str, times: usize) {
        let what = format!("the terminal shows {text:?}");
        let last = || {
            let seen = self.seen();
            (seen.matches(text).count() >= times).then_some(())
        };
        eventually(&what, last);
    }

    /// The terminal's foreground process group.
    pub(crate) fn foreground(&self) -> u32 {
        let group = rustix::termios::tcgetpgrp(self.master.as_fd()).expect("a group");
        group.as_raw_nonzero().get().cast_unsigned()
    }
}
