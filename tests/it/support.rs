//! What all scenarios share: folders, unique names, bounded waiting, hosts to crash, and an
//! inspection of processes that does not use the ledger.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Command},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use procledger::{Job, Stdio};
pub(crate) use procledger_testing::{
    FairClock, PATIENCE, PidfdWatch, at_once, await_tick, children, eventually, find, is_alive,
    is_only, long, namespaced, namespaces, parent, pidfd, pids, processes_with, random, root,
    sampled, skipped, start_tick, stat_field, state, status, stays, threads, tool, until,
    zombies_of,
};
use rustix::process::{Signal, pidfd_send_signal};
use tempfile::TempDir;

use crate::spawn::gate_host;

/// Programs that ignore SIGTERM would take the default of 5 s each.
pub(crate) const GRACE: Duration = Duration::from_millis(100);

/// A folder of one test, with the ledger that goes into it. All processes that the test has started
/// there and not ended are ended when it is dropped, even when the test fails: every program is
/// given [`Place::marker`] in its environment or arguments.
pub(crate) struct Place {
    folder: TempDir,
    marker: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new().prefix("procledger-it-").tempdir().expect("a folder");
        let marker =
            format!("plit-{}-{count}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
        Self { folder, marker }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.path().join("ledger.db")
    }

    /// Unique to this test: part of every name and argument that a test matches by.
    pub(crate) fn marker(&self) -> &str {
        &self.marker
    }

    /// An executable shell script of this name in the folder.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path().join(name);
        write_program(&path, &format!("#!/bin/sh\n{body}\n"));
        path
    }

    /// A copy of setpriv(1) that runs as root, whichever user starts it.
    pub(crate) fn elevated(&self) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path().join("elevated");
        copy_program(tool("setpriv").expect("it is there"), &path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).expect("its mode");
        path
    }

    /// Live processes (no zombies) whose arguments or environment contain the marker, except this
    /// one.
    pub(crate) fn alive(&self) -> Vec<u32> {
        processes_with(&self.marker)
    }

    /// The process whose pid a script writes to this file of the folder, held by its pidfd.
    pub(crate) fn watch(&self, name: &str) -> PidfdWatch {
        let path = self.path().join(name);
        let pid = eventually(name, || fs::read_to_string(&path).ok()?.trim().parse().ok());
        PidfdWatch::on_one_that_ran(pid)
    }

    /// Waits until a script has created this file.
    pub(crate) fn wait_for(&self, name: &str) {
        until(name, || self.path().join(name).exists());
    }

    /// A shell script as a job, with the marker, and with [`GRACE`].
    pub(crate) fn job(&self, task: &str, script: &str) -> Job {
        Job::new(task, "/bin/sh")
            .grace(GRACE)
            .args(["-c", script, self.marker()])
            .env("PROCLEDGER_IT_MARKER", self.marker())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
    }

    /// A child of the test that runs a shell script, not known to any ledger.
    pub(crate) fn child(&self, script: &str) -> Guard {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, self.marker()]).env("PROCLEDGER_IT_MARKER", self.marker());
        command.current_dir(self.path()).stdin(process::Stdio::null());
        Guard(command.spawn().expect("a shell"))
    }

    /// A line for a host whose input is the FIFO `in` of the folder.
    pub(crate) fn send_to_fifo(&self, line: &str) {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo \"$1\" > \"$2\"", "sh", line]).arg(self.path().join("in"));
        assert!(shell.status().expect("a shell").success());
    }

    /// The command, on the ledger.
    pub(crate) fn procledger(&self, args: &[&str]) -> process::Output {
        procledger(&self.ledger(), args)
    }

    /// Returns the answer of a real `sqlite3` to a query on the ledger, opened read-only.
    pub(crate) fn sqlite3(&self, query: &str) -> String {
        sqlite3(&self.ledger(), query)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.alive() {
            if let Some(fd) = pidfd(pid)
                && processes_with(&self.marker).contains(&pid)
            {
                let _ = pidfd_send_signal(&fd, Signal::KILL);
            }
        }
        remove_cgroups(&self.ledger());
    }
}

/// The cgroups that hosts of this ledger have left: those that crashed and were never reaped.
fn remove_cgroups(ledger: &Path) {
    let open =
        rusqlite::Connection::open_with_flags(ledger, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    let folders: Vec<PathBuf> = open
        .and_then(|ledger| {
            ledger
                .prepare("SELECT cgroup FROM instance WHERE cgroup IS NOT NULL")?
                .query_map([], |row| row.get::<_, String>(0).map(PathBuf::from))?
                .collect()
        })
        .unwrap_or_default();
    for folder in folders {
        // A process leaves its cgroup a moment after its death; processes that a test let live on
        // stay there.
        for _ in 0..100 {
            for leaf in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(leaf.path());
            }
            if fs::remove_dir(&folder).is_ok() || !folder.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The built command on a ledger.
pub(crate) fn procledger(ledger: &Path, args: &[&str]) -> process::Output {
    Command::new(env!("CARGO_BIN_EXE_procledger"))
        .arg("--db")
        .arg(ledger)
        .args(args)
        .stdin(process::Stdio::null())
        .output()
        .expect("the command runs")
}

/// Copies a program, by cp(1). With a descriptor of this process that may write to the copy, a
/// child that another test forks at that moment would hold it too, and until that child executes
/// its program the copy is busy (ETXTBSY of execve(2)).
pub(crate) fn copy_program(program: impl AsRef<OsStr>, copy: impl AsRef<OsStr>) {
    let copied = Command::new("cp").arg("--").args([program.as_ref(), copy.as_ref()]).status();
    assert!(copied.expect("cp").success());
}

/// Writes a program that is text; as [`copy_program`], without a descriptor of this process.
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", text]);
    assert!(shell.arg(path).status().expect("a shell").success());
}

/// Runs a test again, alone in a new PID namespace with its own `/proc`; `true` inside of it, where
/// the test continues.
///
/// For scenarios that match by name or reuse pids: no process outside can be affected, and all of
/// it dies with its first process.
pub(crate) fn in_namespace(test: &str) -> bool {
    is_inside() || run_inside(namespaced(this_binary()), test)
}

/// The same where the first process is a shell, which reaps orphans as an init does: the test is a
/// child of it.
pub(crate) fn in_namespace_with_init(test: &str) -> bool {
    let mut init = namespaced("/bin/sh");
    init.args(["-c", "\"$@\"; exit $?", "sh"]).arg(this_binary());
    is_inside() || run_inside(init, test)
}

/// The same with no network but for those that the test makes.
pub(crate) fn in_namespace_without_network(test: &str) -> bool {
    let mut init = namespaced("/bin/sh");
    init.args(["-c", "unshare --net \"$@\"; exit $?", "sh"]).arg(this_binary());
    is_inside() || run_inside(init, test)
}

/// The same, but root creates the namespace and the test in it is an ordinary user, which is not
/// even root of a user namespace.
pub(crate) fn in_namespace_as_a_user(test: &str) -> bool {
    // A limit on the processes of a user (`ulimit -u`) counts those of all tests that share it.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = 1_000_000 + std::process::id() * 64 + COUNT.fetch_add(1, Ordering::Relaxed) % 64;
    let mut user = namespaced("setpriv");
    user.args([format!("--reuid={id}"), format!("--regid={id}")]);
    user.args(["--clear-groups", "--inh-caps=-all"]);
    user.arg(this_binary());
    is_inside() || root() && tool("setpriv").is_some() && run_inside(user, test)
}

/// Live processes of such a namespace, except its init and this one.
pub(crate) fn others() -> Vec<u32> {
    let own = std::process::id();
    pids().into_iter().filter(|&pid| pid != 1 && pid != own && is_alive(pid)).collect()
}

fn this_binary() -> PathBuf {
    std::env::current_exe().expect("this binary")
}

fn is_inside() -> bool {
    std::env::var_os("PROCLEDGER_IT_INSIDE").is_some()
}

/// Always `false`: the test continues in the run inside.
fn run_inside(mut inside: Command, test: &str) -> bool {
    if !namespaces() {
        return false;
    }
    let output = inside
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("PROCLEDGER_IT_INSIDE", "1")
        .stdin(process::Stdio::null())
        .output()
        .expect("unshare is installed");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in the namespace:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "no test is named {test}:\n{out}");
    // Its measurements, and what was skipped in it.
    print!("{out}");
    for line in err.lines().filter(|line| line.starts_with("skipped: ")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    false
}

/// Answers of a real `sqlite3`, opened read-only. Where there is none, the answers of the library
/// in its format; features that only the tool has, such as `.dump`, [`need!`] it.
pub(crate) fn sqlite3(ledger: &Path, query: &str) -> String {
    if find("sqlite3").is_none() {
        return ask_another_process(ledger, query);
    }
    let output = Command::new("sqlite3")
        .args(["-readonly", "-cmd", ".timeout 5000"])
        .arg(ledger)
        .arg(query)
        .output()
        .expect("sqlite3 is installed");
    assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A test that counts descriptors would also count those that SQLite keeps open in a process with a
/// tracker on the same ledger.
fn ask_another_process(ledger: &Path, query: &str) -> String {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(gate_host::HOST)
        .env(gate_host::ROLE, "query")
        .env(gate_host::FOLDER, ledger.parent().expect("a folder"))
        .env(gate_host::MARKER, "")
        .env("PROCLEDGER_IT_LEDGER", ledger)
        .env("PROCLEDGER_IT_QUERY", query)
        .stdin(process::Stdio::null())
        .output()
        .expect("a program");
    let out = String::from_utf8(output.stdout).expect("text");
    let answer = out.split_once("answer>\n").map(|(_, answer)| answer.to_owned());
    answer.unwrap_or_else(|| panic!("{query}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// The process that [`ask_another_process`] starts.
pub(crate) fn answer_query() -> ! {
    let ledger = std::env::var_os("PROCLEDGER_IT_LEDGER").expect("a ledger");
    let query = std::env::var("PROCLEDGER_IT_QUERY").expect("a query");
    let answer = like_sqlite3(Path::new(&ledger), &query).expect("an answer");
    print!("\nanswer>\n{answer}");
    std::io::stdout().flush().expect("a reader");
    process::exit(0)
}

fn like_sqlite3(ledger: &Path, query: &str) -> rusqlite::Result<String> {
    use rusqlite::{Connection, OpenFlags, types::Value};
    let ledger = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut query = ledger.prepare(query)?;
    let width = query.column_count();
    let lines = query.query_map([], |row| {
        let fields = (0..width).map(|column| {
            Ok(match row.get(column)? {
                Value::Null => String::new(),
                Value::Integer(number) => number.to_string(),
                Value::Real(number) => format!("{number:?}"),
                Value::Text(text) => text,
                Value::Blob(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            })
        });
        Ok(fields.collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
    })?;
    Ok(lines.collect::<rusqlite::Result<Vec<_>>>()?.join("\n").trim_end().to_owned())
}

/// `need!("sqlite3", "unshare")`: returns from the test where one of the tools is missing.
macro_rules! need {
    ($($name:literal),+ $(,)?) => {
        $(if $crate::support::tool($name).is_none() { return; })+
    };
}
pub(crate) use need;

/// Serializes scenarios that measure time, or that load the machine.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that a test started and ends: killed and reaped when it is dropped.
pub(crate) struct Guard(pub(crate) Child);

impl Guard {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program of ours that is in no ledger: it must survive everything that a test does.
pub(crate) fn canary() -> Guard {
    Guard(Command::new("sleep").arg("3600").stdin(process::Stdio::null()).spawn().expect("sleep"))
}

/// A real program that embeds the tracker: this test binary, started again. See `as_a_host` for its
/// commands.
pub(crate) struct Host {
    child: Guard,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Host {
    /// Starts a host on the ledger; the tracker is open when this returns.
    pub(crate) fn start(place: &Place, options: &str) -> Self {
        Self::start_on(place, &place.ledger(), options)
    }

    pub(crate) fn start_on(place: &Place, ledger: &Path, options: &str) -> Self {
        let host = Self::launch(place, ledger, options);
        let first = host.answer();
        assert!(first.starts_with("open "), "the host did not open its ledger: {first}");
        host
    }

    /// Starts a host without waiting for its tracker.
    pub(crate) fn launch(place: &Place, ledger: &Path, options: &str) -> Self {
        let command = Command::new(std::env::current_exe().expect("this binary"));
        Self::launch_by(command, place, ledger, options)
    }

    /// The same through another command, such as `setpriv`, whose last argument is the path of this
    /// binary.
    pub(crate) fn launch_by(
        mut command: Command,
        place: &Place,
        ledger: &Path,
        options: &str,
    ) -> Self {
        let mut child = command
            .args(["--exact", "handle::as_a_host::as_a_host", "--nocapture", "--test-threads=1"])
            .env("PROCLEDGER_IT_HOST", ledger)
            .env("PROCLEDGER_IT_OPTIONS", options)
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()
            .expect("a host");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // libtest prints too, and may do so at the start of our first line.
                if let Some((_, answer)) = line.split_once("host> ")
                    && sender.send(answer.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        Self { child: Guard(child), stdin, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends one command and returns its one line of answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    pub(crate) fn send(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("the host listens");
        writeln!(stdin, "{command}").expect("the host listens");
    }

    /// The next answer, if it has arrived already.
    pub(crate) fn answer_so_far(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    pub(crate) fn answer(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the host answers")
    }

    /// Spawns a shell script for a task; returns the shell.
    pub(crate) fn spawn(&mut self, task: &str, script: &str) -> PidfdWatch {
        self.spawn_as("spawn", task, script)
    }

    /// The same by another verb: `survive` or `keep`.
    pub(crate) fn spawn_as(&mut self, verb: &str, task: &str, script: &str) -> PidfdWatch {
        let answer = self.ask(&format!("{verb} {task} {script}"));
        let pid = answer.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
        PidfdWatch::on_one_that_ran(pid.unwrap_or_else(|| panic!("no pid: {answer}")))
    }

    /// Makes the host execute itself; returns the answer of its new image when its tracker is open.
    pub(crate) fn execute_itself(&mut self) -> String {
        let answer = self.ask("exec");
        assert!(answer.starts_with("open "), "the new image did not open its ledger: {answer}");
        answer
    }

    /// Sends SIGKILL, and waits until it is gone.
    pub(crate) fn crash(mut self) {
        let fd = pidfd(self.pid()).expect("the host lives");
        pidfd_send_signal(fd.as_fd(), Signal::KILL).expect("killed");
        self.child.0.wait().expect("reaped");
    }

    /// Ends as orderly as the host can: its stop may not be recorded.
    pub(crate) fn end(mut self) {
        self.stdin = None;
        self.child.0.wait().expect("reaped");
    }

    /// An orderly end.
    pub(crate) fn stop(mut self) {
        self.stdin = None;
        let status = self.child.0.wait().expect("reaped");
        assert!(status.success(), "the host failed: {status}");
    }
}
