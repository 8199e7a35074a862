//! The host that `demo` starts, and a guard that ends it with the demo, however the demo ends.

use std::{
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use procledger::Tracker;

use super::demo_host::READY;
use crate::{
    exit::{Failure, Result, chain},
    output,
    pinned::PinnedProcess,
};

/// A host that runs until it is crashed or dropped.
#[derive(Debug)]
pub(super) struct Host {
    child: Child,
    pidfd: PinnedProcess,
    ledger: PathBuf,
    /// The ledger was opened after the crash: nothing is left for the guard to end.
    reaped: bool,
}

impl Host {
    /// Starts the host and waits until its trees are running.
    pub(super) fn start(ledger: &Path, marker: &str) -> Result<Self> {
        let failed = |error: io::Error| Failure::because("failed to start the demo's host", &error);
        #[expect(
            clippy::disallowed_methods,
            reason = "the host is to be crashed, not tracked; it ends when our end of its stdin closes"
        )]
        let mut command = Command::new("/proc/self/exe");
        let mut child = command
            .arg0("procledger")
            .arg("--db")
            .arg(ledger)
            .args(["demo-host", marker])
            .env_remove("PROCLEDGER_TOKEN")
            // Ctrl-C is to reach only the demo, which then cleans up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Failure::because(
                    "failed to start the demo's host from `/proc/self/exe`: mount `/proc`",
                    &error,
                ),
                _ => failed(error),
            })?;
        let stdout = child.stdout.take();
        let pidfd = PinnedProcess::of_child(&child).map_err(failed)?;
        let host = Self { child, pidfd, ledger: ledger.to_owned(), reaped: false };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        }
        if line.trim() == READY {
            Ok(host)
        } else {
            Err(Failure::new(
                "the demo's host could not start its tasks (its own messages are above)",
            ))
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL, like the kernel's out-of-memory killer: no chance to clean up.
    pub(super) fn crash(&mut self) -> io::Result<()> {
        // Kept open until here: end-of-file would be a clean stop.
        self.pidfd.signal(libc::SIGKILL)?;
        self.child.wait().map(drop)
    }

    /// Records that everything that the host left was ended.
    pub(super) fn reaped(&mut self) {
        self.reaped = true;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        // Try a clean stop first: the host ends what it started.
        drop(self.child.stdin.take());
        if !self.pidfd.has_ended(Duration::from_secs(5)).unwrap_or(false) {
            let _ = self.pidfd.signal(libc::SIGKILL);
        }
        let _ = self.child.wait();
        let cleaned = Tracker::builder(&self.ledger).open().and_then(|tracker| tracker.shutdown());
        if let Err(error) = cleaned {
            output::warn(&format!("failed to clean up after the demo: {}", chain(&error)));
        }
    }
}
