//! Not a scenario: what a host process does that `support::Host` has started. Run by itself it does nothing.
//!
//! Options, by spaces: `no-monitor`, `no-reap`, `export=PATH`, `name=NAME`, `protect=NAME`, `min-age=MS`, `program=NAME`,
//! `interval=MS`, `grace=MS`, `log=PATH`, `containment=MODE`, `keeper`, `keep-history=MS`, `limit-size=BYTES`,
//! `no-arguments`, `sigchld-ignored`, `sigxfsz-ignored`, `wait-any`. Commands, a line each: `spawn TASK SCRIPT` (`survive`
//! and `keep` with that option of the job, `hour` with that longest run time), `within TASK MS SCRIPT` and `rss TASK BYTES
//! SCRIPT` with that limit, `exit` without a shutdown, `wait TASK`, `register TASK PID`, `unregister TASK`, `terminate TASK`, `health`, `reap`,
//! `running`, `adopted`, `import PATH`, `fork`, `quit`. End of input is an orderly end.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, Write, stdin, stdout},
    time::Duration,
};

use procledger::{Builder, ContainmentMode, Job, Process, Stdio, Tracker};

#[test]
fn as_a_host() {
    let Some(ledger) = std::env::var_os("PROCLEDGER_IT_HOST") else { return };
    let options = std::env::var("PROCLEDGER_IT_OPTIONS").unwrap_or_default();
    prepare(&options);
    let tracker = match build(Tracker::builder(ledger), &options).open() {
        Ok(tracker) => tracker,
        Err(error) => return say(&format!("error {error}")),
    };
    say(&format!("open {}", tracker.startup_report().endings.len()));
    let mut processes = HashMap::new();
    for line in stdin().lock().lines().map_while(Result::ok) {
        if line == "quit" {
            break;
        }
        say(&obey(&tracker, &mut processes, &line).unwrap_or_else(|error| format!("error {error}")));
    }
    tracker.shutdown().expect("an orderly end");
}

/// Not a scenario either: a program whose first thread ends while another one runs on.
#[test]
#[expect(unsafe_code, reason = "only a signal handler of its own can end just the first thread")]
fn as_a_zombie_leader() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    extern "C" fn end_this_thread(_: i32) {
        // SAFETY: exit(2) ends this thread alone; nobody joins it.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    if std::env::var_os("PROCLEDGER_IT_ZOMBIE_LEADER").is_none() {
        return;
    }
    let first = std::process::id().cast_signed();
    // SAFETY: the handler does one system call; the thread that gets the signal is this process's first.
    unsafe {
        signal(Signal::SIGUSR1, SigHandler::Handler(end_this_thread)).expect("a handler");
        libc::syscall(libc::SYS_tgkill, first, first, libc::SIGUSR1);
    }
    std::thread::sleep(Duration::from_hours(1));
}

fn say(line: &str) {
    let mut out = stdout().lock();
    writeln!(out, "host> {line}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// What a host may have done before it opens its ledger.
fn prepare(options: &str) {
    // `faults::Fault` attaches to it; where Yama has a say, only with this leave.
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
    for option in options.split_whitespace() {
        match option.split_once('=').unwrap_or((option, "")) {
            ("log", path) => {
                let file = File::options().create(true).append(true).open(path).expect("a log");
                // All that there is: what must not be in a log must not be in any.
                let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE);
                all.with_ansi(false).with_writer(file).init();
            }
            ("sigchld-ignored", _) => ignore(nix::sys::signal::Signal::SIGCHLD),
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

fn build(mut builder: Builder, options: &str) -> Builder {
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
            "log" | "sigchld-ignored" | "sigxfsz-ignored" | "wait-any" => builder,
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
        "running" => format!("{}", tracker.running()?.len()),
        "adopted" => format!("{}", tracker.startup_report().adopted),
        "fork" => in_a_forked_child(tracker),
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

/// What a forked child says when it uses its parent's tracker, and that it shuts nothing down.
#[expect(unsafe_code, reason = "the scenario is a fork")]
fn in_a_forked_child(tracker: &Tracker) -> String {
    use std::io::Read;
    let (mut read, mut write) = std::io::pipe().expect("a pipe");
    // SAFETY: the child uses no lock that another thread may have held; glibc keeps malloc usable.
    match unsafe { nix::unistd::fork() }.expect("a child") {
        nix::unistd::ForkResult::Child => {
            let told = match tracker.spawn(job("forked", "true")) {
                Ok(_) => "spawned".to_owned(),
                Err(error) => format!("closed={} {error}", error.is_closed()),
            };
            let ended = tracker.shutdown().map_or(u64::MAX, |report| report.checked);
            write!(write, "{told}; shutdown checked {ended}").expect("a reader");
            std::process::exit(0);
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(write);
            let mut told = String::new();
            read.read_to_string(&mut told).expect("the child tells");
            let _ = nix::sys::wait::waitpid(child, None);
            told
        }
    }
}
