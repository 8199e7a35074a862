//! Alternatives that a user might pick, measured in turns with this crate on the same work.
//!
//! None of them records a program before it runs. Each is measured from its user's position: a
//! library from inside a process of its language that is already running, a command as a command.
//! Tools that are not installed are skipped, with a message; execa is found by `EXECA`, the path of
//! its `index.js`.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use super::{
    fixture::Fixture,
    prefix::once,
    samples::{in_turns, timed},
    score::{Board, Line},
};

const TRUE: &str = "/bin/true";
/// A program with ten children, all of which obey.
const TREE: &str = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; echo; wait";

/// For each line that it reads: runs a program, and writes how many nanoseconds that took.
const EXECA: &str = r#"
import { createInterface } from "node:readline";
const { execa } = await import(process.env.EXECA);
console.log(0);
for await (const _ of createInterface({ input: process.stdin })) {
  const start = process.hrtime.bigint();
  await execa("/bin/true");
  console.log(String(process.hrtime.bigint() - start));
}
"#;

const PSUTIL: &str = r#"
import sys, time, psutil
print(0, flush=True)
for _ in sys.stdin:
    start = time.perf_counter_ns()
    psutil.Popen(["/bin/true"]).wait()
    print(time.perf_counter_ns() - start, flush=True)
"#;

/// The recipe of psutil's documentation for a tree: list its children, send SIGTERM to each, and
/// wait.
const PSUTIL_TREE: &str = r#"
import subprocess, sys, time, psutil
print(0, flush=True)
for _ in sys.stdin:
    root = psutil.Popen(["/bin/sh", "-c", sys.argv[1]], stdout=subprocess.PIPE)
    root.stdout.readline()
    start = time.perf_counter_ns()
    tree = root.children(recursive=True) + [root]
    for process in tree:
        process.terminate()
    psutil.wait_procs(tree, timeout=5)
    print(time.perf_counter_ns() - start, flush=True)
"#;

pub(crate) fn measure(board: &mut Board) {
    let rounds = board.scale().pick(200, 1000);
    let fixture = Fixture::with(|builder| builder);
    let ours = |round: usize| {
        timed(|| fixture.spawn(&format!("instead-{round}"), &[TRUE]).wait().expect("it ends")).0
    };
    let mut programs = 0;
    let by_library = [
        ("execa's `await execa(\"true\")`", Coprocess::execa(EXECA)),
        ("psutil's `Popen([\"true\"]).wait()`", Coprocess::psutil(PSUTIL)),
    ];
    for (name, theirs) in by_library {
        let Some(mut theirs) = theirs else { continue };
        let (ours, theirs) = in_turns(
            rounds,
            |_| {
                programs += 1;
                ours(programs)
            },
            |_| theirs.once(),
        );
        board
            .add(Line::new("spawn and wait, a short program", &ours).beside(name, theirs.median()));
    }
    if let Some(mut theirs) = Coprocess::psutil(PSUTIL_TREE) {
        let (ours, theirs) =
            in_turns(rounds / 5, |round| ours_tree(&fixture, round), |_| theirs.once());
        let name = "psutil's children, terminate, wait_procs";
        board.add(Line::new("end a tree of eleven", &ours).beside(name, theirs.median()));
    }
    drop(fixture);
    commands(board, rounds / 5);
}

fn ours_tree(fixture: &Fixture, round: usize) -> Duration {
    let job = super::fixture::job(&format!("tree-{round}"), &["/bin/sh", "-c", TREE]);
    let mut tree = fixture.tracker.spawn(job.stdout(procledger::Stdio::piped())).expect("it runs");
    let mut line = String::new();
    let out = tree.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("it has started its children");
    timed(|| tree.terminate().expect("it ends")).0
}

fn commands(board: &mut Board, rounds: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("ledger.db");
    let run = || {
        let mut run = Command::new(env!("CARGO_BIN_EXE_procledger"));
        run.args(["run", "--quiet", "--db"]).arg(&ledger).args(["--", TRUE]);
        once(&mut run)
    };
    run();
    if let Some(pueue) = Pueue::start(folder.path()) {
        let (ours, theirs) = in_turns(rounds, |_| run(), |_| pueue.once());
        let line = Line::new("`run -- true`", &ours);
        board.add(line.beside("`pueue add -- true`, which waits for nothing", theirs.median()));
    }
    if Path::new("/run/systemd/system").exists() {
        let unit = || {
            once(Command::new("systemd-run").args(["--quiet", "--wait", "--collect", "--", TRUE]))
        };
        let (ours, theirs) = in_turns(rounds, |_| run(), |_| unit());
        let line = Line::new("`run -- true`", &ours);
        board.add(line.beside("`systemd-run --wait -- true`", theirs.median()));
    } else {
        missing::<()>("systemd");
    }
}

/// A program in another language that does something for each line that it reads.
struct Coprocess {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Coprocess {
    fn execa(script: &str) -> Option<Self> {
        let Some(path) = env::var_os("EXECA") else {
            return missing("execa (EXECA is not set)");
        };
        let mut node = Command::new("node");
        node.args(["--input-type=module", "-e", script]).env("EXECA", path);
        Self::start(&mut node).or_else(|| missing("node with execa"))
    }

    fn psutil(script: &str) -> Option<Self> {
        // Debian's own, in case another one comes first in PATH.
        let start = |python| Self::start(Command::new(python).args(["-c", script, TREE]));
        ["python3", "/usr/bin/python3"].into_iter().find_map(start).or_else(|| missing("psutil"))
    }

    /// Returns `None` if the program cannot be started.
    fn start(command: &mut Command) -> Option<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = child.spawn().ok()?;
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut coprocess = Self { child, orders, answers };
        coprocess.answer()?;
        // The first rounds are slower, since they load code.
        (0..5).for_each(|_| _ = coprocess.once());
        Some(coprocess)
    }

    fn once(&mut self) -> Duration {
        self.orders.write_all(b"\n").expect("it listens");
        self.answer().expect("it answers")
    }

    fn answer(&mut self) -> Option<Duration> {
        let mut line = String::new();
        self.answers.read_line(&mut line).ok()?;
        line.trim().parse().ok().map(Duration::from_nanos)
    }
}

impl Drop for Coprocess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// pueue's daemon, with a folder of its own.
struct Pueue {
    daemon: Child,
    config: PathBuf,
}

impl Pueue {
    fn start(folder: &Path) -> Option<Self> {
        let config = folder.join("pueue.yml");
        let text = format!(
            "shared:\n  pueue_directory: {0}\n  runtime_directory: {0}\n  unix_socket_path: {0}/pueue.socket\n\
             client: {{}}\ndaemon: {{}}\n",
            folder.display()
        );
        std::fs::write(&config, text).expect("a file");
        let mut daemon = Command::new("pueued");
        let daemon = daemon.arg("--config").arg(&config).stdout(Stdio::null());
        let Ok(daemon) = daemon.stderr(Stdio::null()).spawn() else { return missing("pueue") };
        let pueue = Self { daemon, config };
        let answers = |_| pueue.client(&["status"]).status().is_ok_and(|status| status.success());
        let ready = (0..100).any(|round| {
            std::thread::sleep(Duration::from_millis(if round == 0 { 0 } else { 50 }));
            answers(round)
        });
        if ready { Some(pueue) } else { missing("pueue") }
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut client = Command::new("pueue");
        client.arg("--config").arg(&self.config).args(words);
        client.stdout(Stdio::null()).stderr(Stdio::null());
        client
    }

    fn once(&self) -> Duration {
        // Without `pueue wait`, which polls every two seconds.
        once(&mut self.client(&["add", "--", TRUE]))
    }
}

impl Drop for Pueue {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Always `None`, for tools that are skipped.
fn missing<T>(name: &str) -> Option<T> {
    eprintln!("{name} is not installed: its lines are skipped");
    None
}
