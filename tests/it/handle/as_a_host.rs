//! Not a scenario: the code of a host process that `support::Host` has started. Run by itself it
//! does nothing.
//!
//! Options, separated by spaces: `no-monitor`, `no-reap`, `export=PATH`, `name=NAME`,
//! `protect=NAME`, `min-age=MS`, `program=NAME`, `interval=MS`, `grace=MS`, `log=PATH`,
//! `containment=MODE`, `keeper`, `keep-history=MS`, `limit-size=BYTES`, `no-arguments`,
//! `sigchld-ignored`, `sigxfsz-ignored`, `wait-any`, `subreaper`, `also=PATH` (a second tracker on
//! that ledger). Commands, one per line: `spawn TASK SCRIPT` (`survive` and `keep` with that option
//! of the job, `hour` with that longest run time), `within TASK MS SCRIPT` and `rss TASK BYTES
//! SCRIPT` with that limit, `exit` without a shutdown, `wait TASK`, `register TASK PID`,
//! `unregister TASK`, `terminate TASK`, `health`, `reap`, `running`, `adopted`, `import PATH`,
//! `fork`, `quit`; `exec` (the host executes itself, and opens its ledgers again), `become PROGRAM`
//! (it executes that instead), `child NAME SCRIPT` and `child-wait NAME` (a program that the host
//! starts and waits for by itself), `reap-pid PID` (waitpid), `fork-and-hold` (a forked child that
//! executes nothing), `keep-spawning` (two threads start programs until an exec), `also TASK
//! SCRIPT` (spawn by the second tracker). End of input is an orderly end.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, Write, stdin, stdout},
    time::Duration,
};

use procledger::{Builder, ContainmentMode, Job, Process, Stdio, Tracker};

use crate::support::GRACE;

#[test]
fn as_a_host() {
    let Some(ledger) = std::env::var_os("PROCLEDGER_IT_HOST") else { return };
    let options = std::env::var("PROCLEDGER_IT_OPTIONS").unwrap_or_default();
    prepare(&options);
    let tracker = match build(Tracker::builder(ledger), &options).open() {
        Ok(tracker) => tracker,
        Err(error) => return say(&format!("error {error}")),
    };
    let also = also(&options);
    say(&format!("open {}", tracker.startup_report().endings.len()));
    let mut processes = HashMap::new();
    let mut own = Own { also, children: HashMap::new() };
    for line in stdin().lock().lines().map_while(Result::ok) {
        if line == "quit" {
            break;
        }
        if line == "keep-spawning" {
            keep_spawning(&tracker);
            say("spawning");
            continue;
        }
        if let Some(answer) = own.obey(&line) {
            say(&answer);
            continue;
        }
        say(&obey(&tracker, &mut processes, &line).unwrap_or_else(|error| format!("error {error}")));
    }
    tracker.shutdown().expect("an orderly end");
}

/// Handles commands until the program is replaced.
fn keep_spawning(tracker: &Tracker) {
    for thread in 0..2 {
        let tracker = tracker.clone();
        std::thread::spawn(move || {
            for number in 0.. {
                let _ = tracker.spawn(job(&format!("task-{thread}-{number}"), "exec sleep 3600"));
            }
        });
    }
}

fn also(options: &str) -> Option<Tracker> {
    let path = options.split_whitespace().find_map(|option| option.strip_prefix("also="))?;
    Some(build(Tracker::builder(path), options).open().expect("the second ledger"))
}

/// The state of a host besides its tracker.
struct Own {
    also: Option<Tracker>,
    children: HashMap<String, std::process::Child>,
}

impl Own {
    /// `None` if the command is for the tracker.
    fn obey(&mut self, line: &str) -> Option<String> {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (verb, name, rest) = (word(), word(), word());
        Some(match verb {
            "exec" => {
                let mut command =
                    std::process::Command::new(std::env::current_exe().expect("this binary"));
                command.args(std::env::args_os().skip(1));
                format!("error {}", std::os::unix::process::CommandExt::exec(&mut command))
            }
            "become" => {
                say("becoming");
                let mut command = std::process::Command::new(name);
                command.args(rest.split_whitespace());
                format!("error {}", std::os::unix::process::CommandExt::exec(&mut command))
            }
            "child" => {
                let mut command = std::process::Command::new("/bin/sh");
                command.args(["-c", rest]).stdin(std::process::Stdio::null());
                let child = command.stdout(std::process::Stdio::null()).spawn().expect("a child");
                let pid = child.id();
                self.children.insert(name.to_owned(), child);
                format!("pid {pid}")
            }
            "child-wait" => {
                let child = self.children.get_mut(name).expect("a child of that name");
                format!("{:?}", child.wait().map(|status| status.code()))
            }
            "reap-pid" => {
                let pid = nix::unistd::Pid::from_raw(name.parse().expect("a pid"));
                format!("{:?}", nix::sys::wait::waitpid(pid, None))
            }
            "fork-and-hold" => fork_and_hold(),
            "also" => {
                let process = self.also.as_ref()?.spawn(job(name, rest)).expect("spawned");
                format!("pid {}", process.pid())
            }
            _ => return None,
        })
    }
}

/// A child with a copy of every descriptor, which ends when its parent does.
#[expect(unsafe_code, reason = "the scenario is a fork")]
fn fork_and_hold() -> String {
    // SAFETY: the child makes system calls only.
    match unsafe { nix::unistd::fork() }.expect("a child") {
        nix::unistd::ForkResult::Child => {
            let _ = rustix::process::set_parent_process_death_signal(None);
            loop {
                std::thread::sleep(Duration::from_hours(1));
            }
        }
        nix::unistd::ForkResult::Parent { child } => format!("pid {child}"),
    }
}

/// Not a scenario: a program whose first thread ends while another one continues.
#[test]
fn as_a_zombie_leader() {
    if std::env::var_os("PROCLEDGER_IT_ZOMBIE_LEADER").is_none() {
        return;
    }
    end_the_first_thread();
    std::thread::sleep(Duration::from_hours(1));
}

/// The calling thread is another one.
#[expect(unsafe_code, reason = "only a signal handler of its own can end just the first thread")]
pub(crate) fn end_the_first_thread() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    extern "C" fn end_this_thread(_: i32) {
        // SAFETY: exit(2) ends this thread alone; it is never joined.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    let first = std::process::id().cast_signed();
    // SAFETY: the handler does one system call; the thread that gets the signal is this process's
    // first.
    unsafe {
        signal(Signal::SIGUSR1, SigHandler::Handler(end_this_thread)).expect("a handler");
        libc::syscall(libc::SYS_tgkill, first, first, libc::SIGUSR1);
    }
}

fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "host> {line}").expect("a reader");
    out.flush().expect("a reader");
}

/// Applies the options that concern a host before it opens its ledger.
fn prepare(options: &str) {
    // `faults::Fault` attaches to it; under Yama only with this permission.
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
    for option in options.split_whitespace() {
        match option.split_once('=').unwrap_or((option, "")) {
            ("log", path) => {
                let file = File::options().create(true).append(true).open(path).expect("a log");
                // At the most verbose level: a secret that must not be in a log must not be in any.
                let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
                all.with_ansi(false).with_writer(file).init();
            }
            ("sigchld-ignored", _) => ignore(nix::sys::signal::Signal::SIGCHLD),
            ("subreaper", _) => {
                let own = rustix::process::getpid();
                rustix::process::set_child_subreaper(Some(own)).expect("a subreaper");
            }
            ("sigxfsz-ignored", _) => ignore(nix::sys::signal::Signal::SIGXFSZ),
            ("wait-any", _) => {
                std::thread::spawn(|| {
                    loop {
                        if nix::sys::wait::waitpid(None, None).is_err() {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
            _ => {}
        }
    }
}

#[expect(unsafe_code, reason = "a disposition can be set in no other way")]
fn ignore(which: nix::sys::signal::Signal) {
    use nix::sys::signal::{SigHandler, signal};
    // SAFETY: no handler is installed.
    unsafe { signal(which, SigHandler::SigIgn) }.expect("ignored");
}

fn build(builder: Builder, options: &str) -> Builder {
    let mut builder = builder.grace(GRACE);
    for option in options.split_whitespace() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let millis = || Duration::from_millis(value.parse().expect("milliseconds"));
        builder = match name {
            "no-monitor" => builder.monitor(false),
            "no-reap" => builder.reap_on_open(false),
            "export" => builder.export(value),
            "name" => builder.orphan_name(value),
            "protect" => builder.protect(value),
            "min-age" => builder.min_age(millis()),
            "program" => builder.program(value),
            "interval" => builder.health_interval(millis()),
            "grace" => builder.grace(millis()),
            "containment" => {
                builder.containment(ContainmentMode::parse(value).expect("a containment"))
            }
            "keeper" => builder.keeper(env!("CARGO_BIN_EXE_procledger-keeper")),
            "keep-history" => builder.keep_history(millis()),
            "limit-size" => builder.limit_size(value.parse().expect("bytes")),
            "no-arguments" => builder.record_arguments(false),
            "log" | "sigchld-ignored" | "sigxfsz-ignored" | "wait-any" | "subreaper" | "also" => {
                builder
            }
            other => panic!("no option {other}"),
        };
    }
    builder
}

fn obey(
    tracker: &Tracker,
    processes: &mut HashMap<String, Process>,
    line: &str,
) -> procledger::Result<String> {
    let mut words = line.splitn(3, ' ');
    let (verb, task, rest) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    Ok(match verb {
        "spawn" | "survive" | "keep" | "hour" => {
            let mut job = job(task, rest).survive(verb == "survive").keep_strays(verb == "keep");
            if verb == "hour" {
                job = job.max_runtime(Duration::from_hours(1));
            }
            let process = tracker.spawn(job)?;
            let pid = process.pid();
            processes.insert(task.to_owned(), process);
            format!("pid {pid}")
        }
        "within" | "rss" => {
            let (limit, script) = rest.split_once(' ').expect("a limit and a script");
            let limit: u64 = limit.parse().expect("a limit");
            let job = job(task, script);
            let job = match verb {
                "within" => job.max_runtime(Duration::from_millis(limit)),
                _ => job.max_rss(limit),
            };
            let process = tracker.spawn(job)?;
            let pid = process.pid();
            processes.insert(task.to_owned(), process);
            format!("pid {pid}")
        }
        "exit" => std::process::exit(0),
        "wait" => match processes.get_mut(task) {
            Some(process) => process.wait()?.to_string(),
            None => "error no such process".into(),
        },
        "register" => {
            tracker.register(task, rest.parse::<i64>().expect("a pid"))?;
            "done".into()
        }
        "unregister" => format!("{}", tracker.unregister(task)?),
        "terminate" => format!("{}", tracker.terminate(task)?.ended()),
        "health" => format!("{}", tracker.health_pass()?.endings.len()),
        "reap" => format!("{}", tracker.reap_orphans()?.endings.len()),
        "import" => {
            let report = tracker.import(task)?;
            format!("endings {} suspects {}", report.endings.len(), report.suspects.len())
        }
        "running" => format!("{}", tracker.ledger().roots()?.len()),
        "adopted" => format!("{}", tracker.startup_report().adopted),
        "fork" => in_a_forked_child(tracker),
        "fork-twice" => in_a_grandchild_of_another_namespace(tracker),
        other => format!("error no command {other}"),
    })
}

fn job(task: &str, script: &str) -> Job {
    let marker = std::env::var("PROCLEDGER_IT_MARKER").unwrap_or_default();
    Job::new(task, "/bin/sh")
        .args(["-c", script, &marker])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
}

/// Does the same in a child of a child, which is the first process of a PID namespace: its PID is 1.
#[expect(unsafe_code, reason = "the scenario is a fork in another PID namespace")]
fn in_a_grandchild_of_another_namespace(tracker: &Tracker) -> String {
    use std::io::Read;
    let (mut read, mut write) = std::io::pipe().expect("a pipe");
    // SAFETY: the child uses no lock that another thread may have held; glibc keeps malloc usable.
    match unsafe { nix::unistd::fork() }.expect("a child") {
        nix::unistd::ForkResult::Child => {
            // SAFETY: it concerns only the children that this process creates from now on.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0, "a namespace");
            let answer = in_a_forked_child(tracker);
            write!(write, "{answer}").expect("a reader");
            std::process::exit(0);
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(write);
            let mut answer = String::new();
            read.read_to_string(&mut answer).expect("the child's answer");
            let _ = nix::sys::wait::waitpid(child, None);
            answer
        }
    }
}

/// Returns what a forked child reports when it uses its parent's tracker, and that it shuts nothing
/// down.
#[expect(unsafe_code, reason = "the scenario is a fork")]
fn in_a_forked_child(tracker: &Tracker) -> String {
    use std::io::Read;
    let (mut read, mut write) = std::io::pipe().expect("a pipe");
    // SAFETY: the child uses no lock that another thread may have held; glibc keeps malloc usable.
    match unsafe { nix::unistd::fork() }.expect("a child") {
        nix::unistd::ForkResult::Child => {
            let result = match tracker.spawn(job("forked", "true")) {
                Ok(_) => "spawned".to_owned(),
                Err(error) => format!("closed={} {error}", error.is_closed()),
            };
            let ended = tracker.shutdown().map_or(u64::MAX, |report| report.checked);
            let pid = std::process::id();
            write!(write, "{result}; pid {pid}; shutdown checked {ended}").expect("a reader");
            std::process::exit(0);
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(write);
            let mut answer = String::new();
            read.read_to_string(&mut answer).expect("the child's answer");
            let _ = nix::sys::wait::waitpid(child, None);
            answer
        }
    }
}
