//! The former implementation, rebuilt from its description: a list in memory that is written to a
//! JSON file at every change, `kill -0` for each process at every check, `pgrep -f` for orphans,
//! and SIGTERM, 100 ms and SIGKILL for one process after another.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde::Serialize;

/// Delay between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Serialize)]
struct Entry {
    task_id: String,
    process_id: u32,
    start_time: String,
}

/// The registry of a processor.
pub(crate) struct Former {
    entries: Vec<Entry>,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Former {
    /// Creates a registry that already tracks these processes.
    pub(crate) fn tracking(pids: &[u32]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ecosystem-manager-processes.json");
        let mut former = Self { entries: Vec::new(), file, _folder: folder };
        former.entries = pids.iter().map(|&pid| entry(format!("task-{pid}"), pid)).collect();
        former.persist();
        former
    }

    pub(crate) fn persist(&self) {
        let text = serde_json::to_vec_pretty(&self.entries).expect("plain data");
        fs::write(&self.file, text).expect("a file");
    }

    pub(crate) fn spawn(&mut self, task: String, words: &[&str]) -> Child {
        let child = Command::new(words[0]).args(&words[1..]).spawn().expect("it runs");
        self.register(task, child.id());
        child
    }

    pub(crate) fn register(&mut self, task: String, pid: u32) {
        self.entries.push(entry(task, pid));
        self.persist();
    }

    pub(crate) fn unregister(&mut self, pid: u32) {
        self.entries.retain(|entry| entry.process_id != pid);
        self.persist();
    }

    /// Runs the health check on the first `count` processes.
    pub(crate) fn check(&mut self, count: usize) {
        let dead: Vec<u32> = (self.entries.iter().take(count))
            .map(|entry| entry.process_id)
            .filter(|&pid| !is_alive(pid))
            .collect();
        self.entries.retain(|entry| !dead.contains(&entry.process_id));
        if !dead.is_empty() {
            self.persist();
        }
    }

    /// Performs a start: loads the list, kills the processes that it names, and searches for
    /// orphans.
    pub(crate) fn start(&self) {
        let text = fs::read(&self.file).expect("a file");
        let list: serde_json::Value = serde_json::from_slice(&text).expect("a list");
        assert!(list.is_array());
        find_orphans("resource-claude-code");
    }
}

fn entry(task_id: String, process_id: u32) -> Entry {
    Entry { task_id, process_id, start_time: chrono::Utc::now().to_rfc3339() }
}

fn is_alive(pid: u32) -> bool {
    let status = Command::new("kill").args(["-0", &pid.to_string()]).stderr(Stdio::null()).status();
    status.expect("it runs").success()
}

pub(crate) fn find_orphans(name: &str) {
    let status = Command::new("pgrep").args(["-f", name]).stdout(Stdio::null()).status();
    // 1: nothing matches.
    assert!(status.expect("it runs").code().is_some_and(|code| code < 2));
}

/// Ends one process and verifies that it is dead.
pub(crate) fn end(child: &mut Child) {
    send(child.id(), Signal::TERM);
    std::thread::sleep(GRACE);
    send(child.id(), Signal::KILL);
    child.wait().expect("it ends");
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    // A process that is gone counts as ended.
    let _ = rustix::process::kill_process(pid, signal);
}
