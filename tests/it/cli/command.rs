//! Not a scenario: how tests run the `procledger` command, with a bound on its duration.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    containment::task_cgroups::can_use_cgroups,
    support::{Guard, PATIENCE, Place, eventually, pidfd},
};

/// The command as built.
pub(crate) const PROCLEDGER: &str = env!("CARGO_BIN_EXE_procledger");

/// How the command ended and what it printed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    /// The exit code, or -1 if a signal ended it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "signal {:?}, {self:#?}", self.status.signal());
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// One line on stderr and nothing on stdout: the form of every failure.
    #[track_caller]
    pub(crate) fn complaint(&self) -> &str {
        assert_eq!(self.out, "", "{self:#?}");
        let lines: Vec<&str> = self.err.lines().collect();
        assert_eq!(lines.len(), 1, "not one line: {self:#?}");
        assert!(lines[0].starts_with("procledger: "), "{self:#?}");
        lines[0]
    }
}

/// The command on the test's ledger; every process it starts carries the marker.
pub(crate) fn procledger(place: &Place) -> Command {
    on_ledger(place, &place.ledger())
}

pub(crate) fn on_ledger(place: &Place, ledger: &Path) -> Command {
    let mut command = bare(place);
    command.env("PROCLEDGER_DB", ledger);
    command
}

/// The command without any option or variable that names the ledger.
pub(crate) fn bare(place: &Place) -> Command {
    let mut command = Command::new(PROCLEDGER);
    clean(&mut command, place);
    command
}

/// Removes from a command's environment what the developer's shell may have set.
pub(crate) fn clean(command: &mut Command, place: &Place) {
    for name in [
        "PROCLEDGER_DB",
        "PROCLEDGER_TOKEN",
        "PROCLEDGER_LOG",
        "PROCLEDGER_OWNER",
        "XDG_STATE_HOME",
        "NO_COLOR",
        "CLICOLOR_FORCE",
    ] {
        command.env_remove(name);
    }
    command
        .env("PROCLEDGER_IT_MARKER", place.marker())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn answer(command: &mut Command) -> Answer {
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    finish(child)
}

/// Runs the command with these arguments on the test's ledger.
#[track_caller]
pub(crate) fn run(place: &Place, args: &[&str]) -> Answer {
    answer(procledger(place).args(args))
}

/// The values of `--containment` that can be used here.
pub(crate) fn containments() -> Vec<&'static str> {
    // Inside a user namespace the keeper's file belongs to an unknown user, and root there does not
    // use it.
    let map = fs::read_to_string("/proc/self/uid_map").expect("a map");
    let has_keepers = map.contains("4294967295");
    let usable = [("session", true), ("cgroup", can_use_cgroups()), ("keeper", has_keepers)];
    usable.into_iter().filter(|(_, usable)| *usable).map(|(name, _)| name).collect()
}

/// Waits for a started command, and collects its output until then.
#[track_caller]
pub(crate) fn finish(mut child: Child) -> Answer {
    let out = child.stdout.take().map(hear);
    let err = child.stderr.take().map(hear);
    let mut child = Guard(child);
    let status = eventually("the command ends", || child.0.try_wait().expect("a child"));
    let collected = |from: Option<Receiver<String>>| {
        from.map(|from| from.recv_timeout(PATIENCE).expect("its pipe is closed"))
            .unwrap_or_default()
    };
    Answer { status, out: collected(out), err: collected(err) }
}

fn hear(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// A `procledger run` whose program has printed its first line: the program runs, and its row is
/// committed.
pub(crate) struct Running {
    pub(crate) child: Child,
    /// The first line.
    pub(crate) said: String,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// `options` come before the `--`. The script has to print a line once it is ready.
    pub(crate) fn start(place: &Place, task: &str, options: &[&str], script: &str) -> Self {
        Self::spawn(procledger(place).args(["run", "--task", task]).args(options).args([
            "--",
            "sh",
            "-c",
            script,
            place.marker(),
        ]))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        // Without a task cgroup, a keeper would end what a crashed owner leaves, and there would be
        // nothing to reap.
        if std::env::var_os("PROCLEDGER_CONTAINMENT").is_none() {
            command.env("PROCLEDGER_CONTAINMENT", "session");
        }
        let mut child = command.spawn().expect("procledger");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut said = String::new();
        out.read_line(&mut said).expect("a first line");
        assert!(!said.is_empty(), "the program said nothing: {:#?}", finish(child));
        Self { child, said: said.trim().to_owned(), out }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let fd = pidfd(self.child.id()).expect("it is ours and not waited for");
        pidfd_send_signal(fd.as_fd(), signal).expect("a signal");
    }

    /// SIGKILL: the owner dies, its processes do not.
    pub(crate) fn crash(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("reaped");
    }

    #[track_caller]
    pub(crate) fn finish(self) -> Answer {
        let out = hear(self.out);
        let mut answer = finish(self.child);
        answer.out = out.recv_timeout(PATIENCE).expect("its pipe is closed");
        answer
    }
}

/// The content of a folder: each file's name, mode, owner and bytes. Two of these are equal if
/// nothing was changed.
pub(crate) fn bytes_of(folder: &Path) -> Vec<(PathBuf, u32, u32, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let seen = fs::symlink_metadata(&path).expect("it is there");
            // A reader recreates the index of the WAL, which holds no data of its own.
            let is_index = path.to_string_lossy().ends_with("-shm");
            let is_compared = seen.is_file() && !is_index;
            let bytes = if is_compared { fs::read(&path).expect("readable") } else { Vec::new() };
            if seen.is_dir() {
                folders.push(path.clone());
            }
            all.push((path, seen.mode(), seen.uid(), bytes));
        }
    }
    all.sort();
    all
}
