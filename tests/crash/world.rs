//! What all parts share: a PID namespace for each trial, processes as the kernel reports them, and reproducible random numbers.

use std::{
    fs,
    io::Write,
    os::fd::OwnedFd,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// The role of this binary when it is started again; the rest of its task is in [`TASK`], as JSON.
pub(crate) const ROLE: &str = "PROCLEDGER_CRASH_ROLE";
pub(crate) const TASK: &str = "PROCLEDGER_CRASH_TASK";
pub(crate) const KEEPER: &str = env!("CARGO_BIN_EXE_procledger-keeper");
pub(crate) const COMMAND: &str = env!("CARGO_BIN_EXE_procledger");
/// Longer than any wait takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The containments available here, by the words that request them.
pub(crate) fn modes() -> Vec<&'static str> {
    ["session", "cgroup", "keeper"].into_iter().filter(|mode| can_be_had(mode)).collect()
}

fn can_be_had(mode: &str) -> bool {
    if mode == "keeper" && !rustix::process::geteuid().is_root() {
        // Such a user can create a PID namespace only as root of a user namespace, where the keeper's file shows as owned by
        // `nobody`.
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

/// Whether PID namespaces can be created here; prints the reason if not, and fails where CI is set.
pub(crate) fn namespaces() -> bool {
    let tried = namespaced().arg("true").stdin(Stdio::null()).stderr(Stdio::null()).status();
    let can = tried.is_ok_and(|status| status.success());
    if !can {
        skipped("no PID namespace can be made here");
    }
    can
}

/// Prints why something is not tested here; under CI that is a failure.
pub(crate) fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must be able to run all of this: {why}");
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// What is in the namespace dies with `unshare`, and `unshare` dies with this process, even when it is killed.
fn namespaced() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command
}

/// Plays a role as the first process of its own PID namespace: everything that it starts ends with it. Returns its output if it
/// failed or did not end within `limit`.
pub(crate) fn play(role: &str, task: &str, folder: &Path, limit: Duration) -> Result<(), String> {
    let log = folder.join(format!("{role}.log"));
    let file = fs::File::create(&log).expect("a log");
    let mut child = namespaced()
        .arg(own_binary())
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
pub(crate) fn start(command: &mut Command) -> (Eye, Option<ChildStdin>) {
    let mut child = command.spawn().expect("a program");
    // It has not been reaped yet, so the pid is its own.
    let eye = Eye::find(child.id().cast_signed()).expect("a child");
    (eye, child.stdin.take())
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

/// One process, held by its pidfd: not affected by PID reuse.
#[derive(Debug)]
pub(crate) struct Eye {
    pub(crate) pid: i32,
    fd: OwnedFd,
}

impl Eye {
    pub(crate) fn find(pid: i32) -> Option<Self> {
        let fd = pidfd_open(rustix::process::Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    /// By the kernel's report: a zombie is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.dies_within(Duration::ZERO)
    }

    /// Sleeps to the microsecond, or as precisely as the machine wakes us.
    pub(crate) fn dies_within(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let limit = Timespec::try_from(limit).expect("not for ever");
        poll(&mut fds, Some(&limit)).expect("poll") > 0
    }

    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }
}

/// All live processes of this namespace except its first process.
pub(crate) fn live_processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| pid != 1 && is_alive(pid)).collect()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Pid, name and arguments, for display.
pub(crate) fn describe(pid: i32) -> String {
    let file = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let text =
        |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned();
    let arguments: String = text(file("cmdline")).chars().take(120).collect();
    format!("{pid} {} [{arguments}]", text(file("comm")))
}

/// Checks every millisecond; returns whether the condition became true in time.
pub(crate) fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Splitmix64: random numbers that a seed reproduces on every machine.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("small")]
    }
}
