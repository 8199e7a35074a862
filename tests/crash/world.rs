//! What all parts share: a PID namespace for each trial, processes as the kernel reports them, and
//! reproducible random numbers.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub(crate) use procledger_testing::{
    Chance, PATIENCE, PidfdWatch, await_tick, is_alive, namespaces, parent, pids, sampled, skipped,
    start_tick, within,
};

/// The role of this binary when it is started again; the rest of its task is in [`TASK`], as JSON.
pub(crate) const ROLE: &str = "PROCLEDGER_CRASH_ROLE";
pub(crate) const TASK: &str = "PROCLEDGER_CRASH_TASK";
pub(crate) const KEEPER: &str = env!("CARGO_BIN_EXE_procledger-keeper");
pub(crate) const COMMAND: &str = env!("CARGO_BIN_EXE_procledger");
/// The containments available here, by the words that request them.
pub(crate) fn modes() -> Vec<&'static str> {
    ["session", "cgroup", "keeper"].into_iter().filter(|mode| can_be_had(mode)).collect()
}

fn can_be_had(mode: &str) -> bool {
    if mode == "keeper" && !rustix::process::geteuid().is_root() {
        // Such a user can create a PID namespace only as root of a user namespace, where the
        // keeper's file shows as owned by `nobody`.
        let _ = writeln!(std::io::stderr(), "skipped: needs root: under keepers");
        return false;
    }
    let folder = folder();
    let mode = procledger::ContainmentMode::parse(mode).expect("a mode");
    let tried = procledger::Tracker::builder(folder.path().join("ledger.db"))
        .containment(mode)
        .keeper(KEEPER)
        .open();
    if let Err(error) = &tried {
        skipped(&format!("containment cannot be had here: {error}"));
    }
    tried.is_ok()
}

/// What is in the namespace dies with `unshare`, and `unshare` dies with this process, even when it
/// is killed.
fn namespaced(program: impl AsRef<OsStr>) -> Command {
    let unshare = procledger_testing::namespaced(program);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(unshare.get_program()).args(unshare.get_args());
    command
}

/// Plays a role as the first process of its own PID namespace: everything that it starts ends with
/// it. Returns its output if it failed or did not end within `limit`.
pub(crate) fn run_role(
    role: &str,
    task: &str,
    folder: &Path,
    limit: Duration,
) -> Result<(), String> {
    let log = folder.join(format!("{role}.log"));
    let file = fs::File::create(&log).expect("a log");
    let mut child = namespaced(own_binary())
        .env(ROLE, role)
        .env(TASK, task)
        .env_remove("PROCLEDGER_TOKEN")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a descriptor"))
        .stderr(file)
        .spawn()
        .expect("unshare");
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    if status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    // SIGKILL to `unshare` reaches the first process of the namespace, and through it all others.
    let _ = child.kill();
    let _ = child.wait();
    let text = fs::read(&log).unwrap_or_default();
    Err(format!("{status:?} (None: not within {limit:?}):\n{}", String::from_utf8_lossy(&text)))
}

/// Starts a child of the first process of a namespace, which reaps all children itself.
#[expect(clippy::zombie_processes, reason = "an init waits for any child")]
pub(crate) fn start(command: &mut Command) -> (PidfdWatch, Option<ChildStdin>) {
    let mut child = command.spawn().expect("a program");
    // It has not been reaped yet, so the pid is its own.
    let watched = PidfdWatch::find(child.id()).expect("a child");
    (watched, child.stdin.take())
}

/// Starts this binary in a role, as a child of the first process of a namespace.
pub(crate) fn again(role: &str, task: &str) -> Command {
    let mut command = Command::new(own_binary());
    command.env(ROLE, role).env(TASK, task);
    command
}

fn own_binary() -> std::path::PathBuf {
    std::env::current_exe().expect("this binary")
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("procledger-crash-").tempdir().expect("a folder")
}

/// All live processes of this namespace except its first process.
pub(crate) fn live_processes() -> Vec<u32> {
    pids().into_iter().filter(|&pid| pid != 1 && is_alive(pid)).collect()
}

/// Pid, name and arguments, for display.
pub(crate) fn describe(pid: u32) -> String {
    let file = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let text =
        |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned();
    let arguments: String = text(file("cmdline")).chars().take(120).collect();
    format!("{pid} {} [{arguments}]", text(file("comm")))
}
