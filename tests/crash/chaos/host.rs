//! A host that executes commands, line by line, and the programs that it starts.

use std::{
    fs::File,
    io::{BufRead, Write},
    path::PathBuf,
    time::Duration,
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};
use serde::{Deserialize, Serialize};

use crate::world::KEEPER;

#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    pub(super) folder: PathBuf,
    pub(super) mode: String,
    /// The number of the host in the run.
    pub(super) number: u64,
}

impl Part {
    /// Where it reports what it has done.
    pub(super) fn said(&self) -> PathBuf {
        self.folder.join(format!("said-{}", self.number))
    }
}

pub(crate) fn body(part: &Part) {
    let said = File::options().create(true).append(true).open(part.said());
    let mut said = said.expect("a file");
    let mut say = |line: String| said.write_all(format!("{line}\n").as_bytes()).expect("said");
    let tracker = Tracker::builder(part.folder.join("ledger.db"))
        .program("chaos-host")
        .export(part.folder.join("export.json"))
        .grace(Duration::from_millis(20))
        // Short, so that a pass is often under way while other instances end processes.
        .health_interval(Duration::from_millis(50))
        .containment(ContainmentMode::parse(&part.mode).expect("a mode"))
        .keeper(KEEPER)
        .open();
    let tracker = match tracker {
        Ok(tracker) => tracker,
        Err(error) => return say(format!("error at opening: {error}")),
    };
    for error in &tracker.startup_report().errors {
        say(format!("error at opening: {error}"));
    }
    say("open".into());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match obey(&tracker, part, &line) {
            Ok(answer) => say(answer),
            Err(error) => say(format!("error at `{line}`: {error}")),
        }
    }
    match tracker.shutdown() {
        Ok(_) => say("shutdown".into()),
        Err(error) => say(format!("error at shutdown: {error}")),
    }
}

fn obey(tracker: &Tracker, part: &Part, line: &str) -> procledger::Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    Ok(match words[..] {
        ["spawn", task, kind] => {
            let job = Job::new(task, part.folder.join("worker"))
                .args([kind, part.folder.to_str().expect("text"), task])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            format!("spawn {task} {}", tracker.spawn(job)?.pid())
        }
        ["terminate", task] => {
            tracker.terminate(task)?;
            format!("end {task}")
        }
        ["health"] => {
            tracker.health_pass()?;
            "health".into()
        }
        ["reap"] => {
            tracker.reap_orphans()?;
            "reap".into()
        }
        ["mark", number] => format!("mark {number}"),
        _ => panic!("no command {line}"),
    })
}

/// A kind of tree: its name, how many processes it has when it is up, and whether it runs until it
/// is ended.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) size: usize,
    pub(super) stays: bool,
}

const fn kind(name: &'static str, size: usize, stays: bool) -> Kind {
    Kind { name, size, stays }
}

pub(super) const KINDS: [Kind; 8] = [
    kind("leaver", 2, true),
    kind("stubborn", 2, true),
    kind("daemon", 2, true),
    kind("family", 4, true),
    kind("stopped", 1, true),
    kind("churner", 1, true),
    kind("stray", 0, false),
    kind("short", 0, false),
];

/// Each process that stays reports its pid; each root first reports that it runs.
pub(super) const WORKER: &str = r#"#!/bin/sh
kind=$1 D=$2 task=$3
me() { echo "$$ $task" >> "$D/members"; }
case $kind in member|branch|canary) ;; *) echo "$$ $PROCLEDGER_TOKEN" >> "$D/runs"; me;; esac
case $kind in
  leaver) setsid "$D/worker" member "$D" "$task" & exec sleep 3600;;
  stubborn) trap '' TERM INT HUP; "$D/worker" member "$D" "$task" & exec sleep 3600;;
  daemon) (cd / && setsid "$D/worker" member "$D" "$task" &); exec sleep 3600;;
  hidden-daemon) (cd / && setsid env -i "$D/worker" member "$D" "$task" &); exec sleep 3600;;
  family) "$D/worker" branch "$D" "$task" & "$D/worker" member "$D" "$task" & exec sleep 3600;;
  stopped) kill -STOP $$; exec sleep 3600;;
  churner) while :; do sleep 0.02; done;;
  # A root that ends well and leaves something.
  stray) setsid "$D/worker" member "$D" "$task" & exit 0;;
  short) exit 3;;
  member) me; exec sleep 3600;;
  branch) me; setsid "$D/worker" member "$D" "$task" & exec sleep 3600;;
  canary) echo "$$" >> "$D/canaries"; sleep 3600 & exec sleep 3600;;
esac
"#;
