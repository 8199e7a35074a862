//! The process that owns the tree, and the one that acts on it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use procledger::{Builder, ContainmentMode, Job, Stdio, Tracker};
use serde::{Deserialize, Serialize};

use super::Way;

#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    /// The parameters of one trial.
    pub(super) folder: PathBuf,
    pub(super) mode: String,
    pub(super) way: Way,
    /// Daemons below the root.
    pub(super) daemons: usize,
}

impl Part {
    pub(super) fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    fn builder(&self) -> Builder {
        let mode = ContainmentMode::parse(&self.mode).expect("a mode");
        let builder = Tracker::builder(self.ledger()).program("reuse").containment(mode);
        builder.monitor(false).grace(Duration::from_millis(20))
    }
}

/// Spawns the tree, and then dies, ends it, or waits.
pub(crate) fn own(part: &Part) {
    let tracker = part.builder().open().expect("opened");
    let job = Job::new("task", part.folder.parent().expect("above").join("swarm"))
        .args([part.folder.to_str().expect("text"), &part.daemons.to_string(), &part.mode])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut process = tracker.spawn(job).expect("spawned");
    let mut out = BufReader::new(process.stdout.take().expect("piped"));
    for _ in 0..=part.daemons {
        let mut line = String::new();
        out.read_line(&mut line).expect("a pipe");
        assert_eq!(line, "up\n");
    }
    say(&part.folder, "owned");
    if part.way == Way::Open {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("killed");
    }
    wait_for_input();
    if part.way == Way::Terminate {
        tracker.terminate("task").expect("terminated");
        say(&part.folder, "done");
        wait_for_input();
    }
    // A tree that another instance has ended is settled by the pass.
    let _ = tracker.health_pass();
    tracker.shutdown().expect("an orderly end");
}

/// Acts on the tree of another instance once its input says so.
pub(crate) fn act(part: &Part) {
    if part.way == Way::Open {
        say(&part.folder, "ready");
        wait_for_input();
        let tracker = part.builder().open().expect("opened");
        eprintln!("{:?}", tracker.startup_report());
        say(&part.folder, "done");
        wait_for_input();
        tracker.shutdown().expect("an orderly end");
    } else {
        let tracker = part.builder().open().expect("opened");
        say(&part.folder, "ready");
        wait_for_input();
        tracker.kill(&["task"], "somebody").expect("killed");
        say(&part.folder, "done");
        wait_for_input();
        tracker.shutdown().expect("an orderly end");
    }
}

fn say(folder: &Path, what: &str) {
    let mut file =
        File::options().create(true).append(true).open(folder.join("said")).expect("a file");
    file.write_all(format!("{what}\n").as_bytes()).expect("said");
}

pub(super) fn has_said(folder: &Path, what: &str) -> bool {
    let said = fs::read_to_string(folder.join("said")).unwrap_or_default();
    said.lines().any(|line| line == what)
}

fn wait_for_input() {
    let mut byte = [0];
    let _ = std::io::stdin().read(&mut byte).expect("an input");
}

/// A root with daemons below it: each forked twice, in a session of its own.
pub(super) const SWARM: &str = r#"#!/bin/sh
D=$1 count=$2 mode=$3
if [ "$count" = daemon ]; then echo "$$" >> "$D/daemons"; echo up; exec sleep 3600 > /dev/null; fi
echo "$$ $PROCLEDGER_TOKEN" > "$D/root"
while [ "$count" -gt 0 ]; do
  count=$((count - 1))
  # In a cgroup they keep no mark; in session mode a process without any mark is lost by design (README, what escapes).
  if [ "$mode" = cgroup ]; then (cd / && setsid env -i "$0" "$D" daemon &); else (cd / && setsid "$0" "$D" daemon &); fi
done
echo up; exec sleep 3600 > /dev/null
"#;
