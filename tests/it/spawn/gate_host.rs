//! Not a scenario: the code of a separate process that [`in_another_process`] has started. Run by
//! itself it does nothing.
//!
//! A scenario that counts descriptors or zombies, changes dispositions, sends signals to its
//! process group or installs a seccomp filter must not share a process with the other tests: its
//! body runs in a second run of this binary.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use procledger::{Builder, Tracker};

use crate::support::{GRACE, Guard, Place, random};

pub(crate) const HOST: [&str; 4] =
    ["--exact", "spawn::gate_host::gate_host", "--nocapture", "--test-threads=1"];
pub(crate) const ROLE: &str = "PROCLEDGER_IT_ROLE";
pub(crate) const FOLDER: &str = "PROCLEDGER_IT_FOLDER";
pub(crate) const MARKER: &str = "PROCLEDGER_IT_MARKER";

/// The part of the test's [`Place`] that the body of a scenario receives.
pub(crate) struct Given {
    pub(crate) folder: PathBuf,
    pub(crate) marker: String,
}

impl Given {
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    /// A tracker that only the test drives.
    pub(crate) fn builder(&self) -> Builder {
        // Unused unless the environment requests it.
        let keeper = env!("CARGO_BIN_EXE_procledger-keeper");
        let builder = Tracker::builder(self.ledger()).program("gate-host").grace(GRACE);
        if is_kept() { builder.keeper(keeper) } else { builder }
    }
}

/// Whether programs are put under a keeper, as `PROCLEDGER_CONTAINMENT` requests.
pub(crate) fn is_kept() -> bool {
    std::env::var_os("PROCLEDGER_CONTAINMENT").is_some_and(|word| word == "keeper")
}

/// [`in_another_process`], with every program under a keeper.
#[track_caller]
pub(crate) fn in_another_process_under_keeper(
    place: &Place,
    role: &str,
    limit: Duration,
) -> String {
    let mut command = command(place, role);
    command.env("PROCLEDGER_CONTAINMENT", "keeper");
    run_command(command, place, role, limit)
}

#[test]
fn gate_host() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let given = Given {
        folder: std::env::var_os(FOLDER).expect("a folder").into(),
        marker: std::env::var(MARKER).expect("a marker"),
    };
    match role.as_str() {
        "invariant-01" => crate::spawn::invariant_01_recorded_before_it_runs::host(&given),
        "other-user" => crate::spawn::other_user::body(&given, false),
        "other-user-async" => crate::spawn::other_user::body(&given, true),
        "other-user-dies" => crate::spawn::other_user::leave(&given, false),
        "other-user-dies-async" => crate::spawn::other_user::leave(&given, true),
        "storm" => crate::spawn::storm::body(&given, 4, crate::spawn::storm::spawns()),
        "out-of-descriptors" => crate::end::out_of_descriptors::body(&given),
        "few-descriptors" => crate::end::out_of_descriptors::few(&given),
        "fork-storm" => crate::end::fork_storm::body(&given),
        "forks-on" => crate::end::forking_strays::body(&given),
        "tracer" => crate::end::obstacles::trace(),
        "keeper-killed-at-the-gate" => crate::containment::keeper_killed::at_the_gate(),
        "stop-signals" => crate::end::stop_signals::leave(&given),
        "stopped-group" => crate::handle::stopped_group::body(&given),
        "clean-program" => crate::spawn::clean_program::body(&given),
        "crosswise" => crate::spawn::clean_program::crosswise(&given),
        "closed" => crate::spawn::clean_program::closed(&given),
        "not-started" => crate::spawn::not_started::body(&given),
        "suspended" => crate::end::suspensions::leave(&given),
        "thread-ends" => crate::handle::thread_ends::body(&given),
        "clone2-enosys" => crate::spawn::clone2_fallback::body(&given, libc::ENOSYS),
        "clone2-eperm" => crate::spawn::clone2_fallback::body(&given, libc::EPERM),
        "load" => crate::spawn::group_commit_under_load::load(&given),
        "together" => crate::spawn::group_commit_under_load::together(&given),
        "killed-at-the-gate" => crate::spawn::group_commit_under_load::killed_at_the_gate(&given),
        "fail-closed" => crate::spawn::invariant_10_fail_closed::body(&given),
        "pid-reuse" => crate::orphans::pid_reuse::body(&given),
        "kept-many" => crate::containment::keeper_transparency::many(&given),
        "kept-at-random" => crate::containment::keeper_kill_at_random::host(&given),
        "soak" => crate::store::soak::body(&given),
        "open-close" => crate::store::soak::open_and_close(&given),
        "query" => crate::support::answer_query(),
        "write-lock" => hold_write_lock(&given.ledger()),
        other => panic!("no role {other}"),
    }
}

/// A run of this binary in that role, leader of a process group of its own.
pub(crate) fn command(place: &Place, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(HOST).process_group(0).envs(variables(place.path(), place.marker(), role));
    command
}

fn variables(folder: &Path, marker: &str, role: &str) -> [(&'static str, String); 3] {
    [
        (ROLE, role.to_owned()),
        (FOLDER, folder.to_str().expect("text").to_owned()),
        (MARKER, marker.to_owned()),
    ]
}

/// Plays a role to its end; fails with all of its output if it fails, or takes longer than `limit`.
#[track_caller]
pub(crate) fn in_another_process(place: &Place, role: &str, limit: Duration) -> String {
    run_command(command(place, role), place, role, limit)
}

#[track_caller]
pub(crate) fn run_command(
    mut command: Command,
    place: &Place,
    role: &str,
    limit: Duration,
) -> String {
    let path = place.path().join(format!("{role}.log"));
    let log = fs::File::create(&path).expect("a log");
    let child: Child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("a host");
    let mut guard = Guard(child);
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = guard.0.try_wait().expect("a child") {
            break Some(status);
        }
        if Instant::now() > deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = String::from_utf8_lossy(&fs::read(&path).expect("a log")).into_owned();
    assert!(
        status.is_some_and(|status| status.success()),
        "the role {role} failed ({status:?}; None: not done within {limit:?}):\n{text}"
    );
    eprintln!(
        "{}",
        text.lines().filter(|line| line.starts_with("note> ")).collect::<Vec<_>>().join("\n")
    );
    text
}

/// A line that [`in_another_process`] passes on to the reader of the test's output.
pub(crate) fn note(text: &str) {
    println!("\nnote> {text}");
}

/// Descriptors that are open in this process, with their targets.
pub(crate) fn descriptors() -> Vec<String> {
    let listed = fs::read_dir("/proc/self/fd").expect("/proc/self/fd");
    let mut all: Vec<String> = listed
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some(format!("{} -> {}", entry.file_name().display(), target.display()))
        })
        // Excludes the listing's own, and the ledger's, where one more reader is opened when two
        // read at once.
        .filter(|line| !line.ends_with("/fd") && !line.contains("ledger"))
        .collect();
    all.sort();
    all
}

/// Starts a host that prints `>>` and then one letter for each of its steps, and kills it at random
/// within this many microseconds from when `is_time` holds for the letters so far. Returns its
/// letters.
pub(crate) fn kill_at_random(
    host: &mut Command,
    micros: u64,
    is_time: impl Fn(&[u8]) -> bool,
) -> String {
    let mut host = Guard(host.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a host"));
    let mut stdout = host.0.stdout.take().expect("piped");
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    // libtest writes first.
    let begun = |said: &[u8]| said.windows(2).position(|two| two == b">>").map(|at| at + 2);
    while !begun(&said).is_some_and(|at| is_time(&said[at..])) {
        let count = stdout.read(&mut buffer).expect("a pipe");
        assert_ne!(count, 0, "the host ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..count]);
    }
    std::thread::sleep(Duration::from_micros(random(micros)));
    host.0.kill().expect("killed");
    host.0.wait().expect("reaped");
    // Programs have no copy of the pipe: it ends here.
    stdout.read_to_end(&mut said).expect("a pipe");
    let text = String::from_utf8_lossy(&said).into_owned();
    text.rsplit_once(">>").expect("begun").1.to_owned()
}

/// Children of this process that are zombies, or in any other state.
pub(crate) fn children() -> Vec<(u32, char)> {
    let all = crate::support::children(std::process::id()).into_iter();
    all.filter_map(|pid| Some((pid, crate::support::state(pid)?))).collect()
}

/// Another process that holds the ledger's write lock until it is dropped. Not this one: what
/// SQLite keeps open here while it holds a lock would be among the [`descriptors`].
pub(crate) struct WriteLock {
    child: Guard,
    stdin: ChildStdin,
    /// Kept open: libtest writes there at the end.
    stdout: BufReader<ChildStdout>,
}

impl WriteLock {
    pub(crate) fn take(ledger: &Path, marker: &str) -> Self {
        let folder = ledger.parent().expect("a folder");
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(HOST)
            .envs(variables(folder, marker, "write-lock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let child = Guard(child);
        // libtest prints too. Reading to the end would wait for the end of the lock.
        let mut stdout = BufReader::new(stdout);
        let mut lines = stdout.by_ref().lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("held")), "the lock was not had");
        Self { child, stdin, stdout }
    }

    /// Rolls back, and waits until the lock is free.
    pub(crate) fn release(mut self) {
        drop(self.stdin);
        assert!(self.child.0.wait().expect("reaped").success());
        drop(self.stdout);
    }
}

/// The process that [`WriteLock`] starts: it has the lock until its input ends.
fn hold_write_lock(ledger: &Path) {
    let ledger = rusqlite::Connection::open(ledger).expect("a ledger");
    ledger.busy_timeout(Duration::from_secs(10)).expect("patience");
    ledger.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    println!("held");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("an end");
    ledger.execute_batch("ROLLBACK").expect("released");
    // libtest's output is not read.
    std::process::exit(0);
}
