//! `watch --on-leak`: runs a program for each new leak of a ledger, with the leak as JSON on its
//! standard input.
//!
//! The program is executed as it is named, without a shell, and nothing from the ledger is in its
//! arguments or its environment. It runs as a task of the watch itself, in the ledger, so it is
//! contained and ended like any other task, with everything it started: after its time limit, and
//! when the watch stops. In a worker of root's `watch` it thus runs as the ledger's owner.
//!
//! The watch never waits for it: a thread puts leaks into a queue of limited length as they are
//! recorded, and a few others empty it.

use std::{
    collections::HashSet,
    env,
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use clap::Args;
use procledger::{
    EndReason, Exit, ExitStatus, Job, LeakKind, LeakRecord, LedgerEvent, ProcessId, Query, Stdio,
    Subscription, Tracker,
};

use super::report_lines::LeakLine;
use crate::{
    exit::{Failure, Result, chain},
    output, threads, units,
};

/// How many run at once.
const AT_ONCE: usize = 4;
/// How many leaks wait; those that do not fit are skipped, and counted.
const QUEUE: usize = 1000;
/// Time to the next attempt to read the ledger after one has failed.
const RETRY: Duration = Duration::from_secs(5);
/// The tasks of the programs themselves: what they leak runs none.
const TASKS: &str = "on-leak/";
/// The `PATH` for programs that a worker starts, which has no such variable.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Args)]
pub(crate) struct HookArgs {
    /// Run this program for each new leak, which it gets as JSON on its standard input (no shell is
    /// involved)
    #[arg(long = "on-leak", value_name = "PROGRAM")]
    program: Option<String>,
    /// Argument of that program (can be repeated)
    #[arg(
        long = "on-leak-arg",
        value_name = "ARG",
        requires = "program",
        allow_hyphen_values = true
    )]
    arguments: Vec<String>,
    /// End that program when it runs for longer than this
    #[arg(long = "on-leak-timeout", value_name = "D", requires = "program", default_value = "30s", value_parser = units::limit)]
    time_limit: Duration,
}

impl HookArgs {
    /// Fails if the program cannot be run; makes its path absolute.
    pub(super) fn check(self) -> Result<Self> {
        let Some(name) = self.program else { return Ok(self) };
        let found = find_executable(&name).ok_or_else(|| {
            Failure::usage(format!("--on-leak: there is no executable program `{name}`"))
        })?;
        let path = found.into_os_string().into_string().map_err(|path| {
            Failure::usage(format!("--on-leak: the path `{}` is not UTF-8", path.display()))
        })?;
        Ok(Self { program: Some(path), ..self })
    }

    /// The same options as command-line arguments.
    pub(super) fn to_arguments(&self) -> Vec<String> {
        let program = self.program.iter().flat_map(|path| ["--on-leak".to_owned(), path.clone()]);
        let arguments = self.arguments.iter().map(|arg| format!("--on-leak-arg={arg}"));
        let limit = format!("{}ms", self.time_limit.as_millis());
        let limit =
            self.program.iter().flat_map(|_| ["--on-leak-timeout".to_owned(), limit.clone()]);
        program.chain(arguments).chain(limit).collect()
    }

    /// Starts the threads, if there is a program. `since`: leaks that were found before are not
    /// new.
    pub(super) fn start(self, tracker: &Tracker, since: SystemTime) -> Result<()> {
        let Some(program) = self.program else { return Ok(()) };
        let (queue, leaks) = sync_channel(QUEUE);
        let runner = Arc::new(Runner {
            tracker: tracker.clone(),
            program,
            arguments: self.arguments,
            time_limit: self.time_limit,
            leaks: Mutex::new(leaks),
        });
        for _ in 0..AT_ONCE {
            let runner = Arc::clone(&runner);
            threads::start("procledger-hook", move || runner.run())?;
        }
        // Before the leaks that the opening has found are read, so that none is missed.
        let events = tracker.subscribe()?;
        let mut pending = LeakQueue { events, queue, queued: HashSet::new(), skipped: 0 };
        let found = tracker.ledger().leaks(Query::new().since(since))?;
        for leak in found.iter().rev() {
            pending.queued.insert((leak.process, leak.kind));
            pending.put(leak);
        }
        threads::start("procledger-leaks", move || pending.run())
    }
}

/// Searches for an executable file as a shell does.
fn find_executable(name: &str) -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(is_executable);
    }
    let path = env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let folders = env::split_paths(&path).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(is_executable)
}

/// Puts new leaks into the queue.
struct LeakQueue {
    events: Subscription,
    queue: SyncSender<String>,
    /// Leaks that were queued before the subscription began, and that it may return again.
    queued: HashSet<(ProcessId, LeakKind)>,
    skipped: u64,
}

impl LeakQueue {
    /// Runs until the watch ends. Waits for nothing but the ledger.
    fn run(mut self) {
        while let Some(event) = self.events.next() {
            self.take(event);
            while let Some(event) = self.events.try_next().transpose() {
                self.take(event);
            }
            self.report_skipped();
        }
    }

    fn take(&mut self, event: procledger::Result<LedgerEvent>) {
        match event {
            Ok(LedgerEvent::Leaked(leak)) if !self.queued.contains(&(leak.process, leak.kind)) => {
                self.put(&leak);
            }
            Ok(_) => {}
            Err(error) => {
                output::warn(&format!("--on-leak: {}", chain(&error)));
                thread::sleep(RETRY);
            }
        }
    }

    fn put(&mut self, leak: &LeakRecord) {
        if leak.task_id.as_ref().is_some_and(|id| id.as_str().starts_with(TASKS)) {
            return;
        }
        match serde_json::to_string(&LeakLine::from(leak)) {
            Ok(json) => self.put_line(json + "\n"),
            Err(error) => output::warn(&format!("--on-leak: {error}")),
        }
    }

    fn put_line(&mut self, line: String) {
        self.skipped += u64::from(self.queue.try_send(line).is_err());
    }

    fn report_skipped(&mut self) {
        if self.skipped > 0 {
            output::warn(&format!(
                "--on-leak: {} leaks were skipped, since {QUEUE} others wait for their turn",
                std::mem::take(&mut self.skipped)
            ));
        }
    }
}

/// Runs the program.
struct Runner {
    tracker: Tracker,
    program: String,
    arguments: Vec<String>,
    time_limit: Duration,
    /// The lock is held while a thread waits for the next leak.
    leaks: Mutex<Receiver<String>>,
}

impl Runner {
    /// Runs until the watch ends.
    fn run(&self) {
        loop {
            let next = self.leaks.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(json) = next else { return };
            match self.run_for(&json) {
                Ok(exit) if exit.status == ExitStatus::Exited(0) => {}
                // The watch is stopping.
                Ok(exit) if exit.reason == EndReason::Shutdown => return,
                Err(error) if error.is_closed() => return,
                Ok(exit) => self.warn(&describe(&exit)),
                Err(error) => self.warn(&chain(&error)),
            }
        }
    }

    fn run_for(&self, json: &str) -> procledger::Result<Exit> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let mut job = Job::new(format!("{TASKS}{}", &random[..12]), &self.program)
            .args(&self.arguments)
            .env("PROCLEDGER_LEDGER", self.tracker.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .max_runtime(self.time_limit);
        if env::var_os("PATH").is_none() {
            job = job.env("PATH", OsStr::new(PATH));
        }
        let mut process = self.tracker.spawn(job)?;
        if let Some(mut stdin) = process.stdin.take() {
            // It may end without reading, or be ended while this waits for it to read.
            let _ = stdin.write_all(json.as_bytes());
        }
        process.wait()
    }

    fn warn(&self, what: &str) {
        let name = Path::new(&self.program).display();
        output::warn(&format!("--on-leak: {name} {what}"));
    }
}

fn describe(exit: &Exit) -> String {
    match (&exit.because, exit.status.code(), exit.status.signal()) {
        (Some(because), ..) => format!("was ended: {}", because.rule),
        (None, Some(code), _) => format!("exited with code {code}"),
        (None, None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None, None) => "has ended, it is unknown how".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_beyond_the_queue_are_counted_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let tracker = Tracker::builder(folder.path().join("ledger.db")).open().expect("opens");
        let (queue, leaks) = sync_channel(2);
        let events = tracker.subscribe().expect("subscribed");
        let mut pending = LeakQueue { events, queue, queued: HashSet::new(), skipped: 0 };
        for line in ["1", "2", "3", "4", "5"] {
            pending.put_line(line.to_owned());
        }
        assert_eq!(pending.skipped, 3);
        assert_eq!([leaks.recv(), leaks.recv()], [Ok("1".to_owned()), Ok("2".to_owned())]);
        pending.report_skipped();
        assert_eq!(pending.skipped, 0);
    }
}
