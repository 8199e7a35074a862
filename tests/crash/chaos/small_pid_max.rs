//! Few numbers, and all of them in use: hosts spawn, end, crash and restart where a PID namespace has 200 numbers to give, and
//! innocents take each number that a program of theirs leaves.
//!
//! The limit of a namespace is its own since Linux 6.14; before that it is the machine's, and nothing is touched.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::host::{Part, WORKER};
use crate::{
    Wish,
    stepper::reap,
    world::{
        COMMAND, Chance, Eye, PATIENCE, again, folder, is_alive, modes, play as play_role, start,
        within,
    },
};

/// Numbers below 300 are given only once (`RESERVED_PIDS`).
const PID_MAX: &str = "500";
/// Innocents at once: about half of all numbers.
const INNOCENTS: usize = 90;
/// Reused numbers in the sample, and in the whole.
const REUSES: (u64, u64) = (150, 2_000);
const LIMIT: Duration = Duration::from_mins(15);
const KINDS: [&str; 6] = ["leaver", "short", "stray", "stubborn", "short", "family"];

#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    folder: PathBuf,
    seed: u64,
    reuses: u64,
    modes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Told {
    reuses: u64,
    hosts: u64,
    innocents: u64,
    findings: Vec<String>,
}

const TOLD: &str = "told.json";

pub(crate) fn scenario(wish: &Wish, chance: &mut Chance) -> Vec<String> {
    if !rustix::process::geteuid().is_root() || !has_limits_of_its_own() {
        println!(
            "skipped: needs root and Linux 6.14, where a PID namespace has a limit of its own"
        );
        return Vec::new();
    }
    let folder = folder();
    let task = Task {
        folder: folder.path().to_owned(),
        seed: chance.next(),
        reuses: if wish.whole { REUSES.1 } else { REUSES.0 },
        // A keeper and its program are two processes more for each task: too many here.
        modes: modes().into_iter().filter(|mode| *mode != "keeper").map(str::to_owned).collect(),
    };
    let text = serde_json::to_string(&task).expect("JSON");
    if let Err(error) = play_role("small-pid-max", &text, folder.path(), LIMIT) {
        return vec![error];
    }
    let told = fs::read(folder.path().join(TOLD)).expect("told");
    let told: Told = serde_json::from_slice(&told).expect("JSON");
    println!(
        "{} numbers of programs taken by {} innocents during the work and the crashes of {} hosts",
        told.reuses, told.innocents, told.hosts
    );
    told.findings
}

fn has_limits_of_its_own() -> bool {
    let uname = rustix::system::uname();
    let mut parts = uname.release().to_str().unwrap_or_default().split('.');
    let mut next = || parts.next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    (next(), next()) >= (6, 14)
}

struct Play {
    task: Task,
    chance: Chance,
    innocents: VecDeque<Eye>,
    /// Numbers that a program had last.
    left: HashMap<i32, String>,
    members: usize,
    told: Told,
}

pub(crate) fn body(task: Task) {
    assert_eq!(std::process::id(), 1, "the limit is set in a namespace of its own");
    fs::write("/proc/sys/kernel/pid_max", PID_MAX).expect("a limit of its own");
    let worker = task.folder.join("worker");
    fs::write(&worker, WORKER).expect("a script");
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut play = Play {
        chance: Chance::new(task.seed),
        task,
        innocents: VecDeque::new(),
        left: HashMap::new(),
        members: 0,
        told: Told { reuses: 0, hosts: 0, innocents: 0, findings: Vec::new() },
    };
    while play.told.reuses < play.task.reuses && play.told.findings.is_empty() {
        play.round();
    }
    play.end();
    let path = play.task.folder.join(TOLD);
    fs::write(path, serde_json::to_vec(&play.told).expect("JSON")).expect("told");
}

impl Play {
    /// What the last host left goes, its cgroup too.
    fn end(&mut self) {
        let mut command = Command::new(COMMAND);
        command.arg("--db").arg(self.task.folder.join("ledger.db")).arg("reap");
        let last = start(command.stdin(Stdio::null()).stdout(Stdio::null())).0;
        if !last.dies_within(PATIENCE) {
            self.told.findings.push("the last reap does not end".into());
        }
        self.check();
    }

    /// A host opens, beside innocents that have the numbers of what the last one left; works, and is killed.
    fn round(&mut self) {
        let (host, mut stdin, part) = self.start_host();
        self.until_said(&host, &part, "open");
        for (number, kind) in KINDS.into_iter().enumerate() {
            let _ = writeln!(stdin, "spawn t{}-{number} {kind}", part.number);
        }
        let _ = writeln!(stdin, "terminate t{}-3", part.number);
        let _ = writeln!(stdin, "health");
        let _ = writeln!(stdin, "mark 1");
        self.until_said(&host, &part, "mark 1");
        host.kill();
        within(PATIENCE, || host.is_dead());
        // Half of what it left dies before the next host opens.
        for pid in self.meet() {
            if self.chance.below(2) == 0
                && let Some(eye) = Eye::find(pid)
            {
                eye.kill();
            }
        }
        for _ in 0..INNOCENTS {
            self.replace_one();
        }
        self.check();
    }

    fn start_host(&mut self) -> (Eye, ChildStdin, Part) {
        self.told.hosts += 1;
        let part = Part {
            folder: self.task.folder.clone(),
            mode: self.chance.pick(&self.task.modes).clone(),
            number: self.told.hosts,
        };
        let mut command = again("chaos-host", &serde_json::to_string(&part).expect("JSON"));
        let (host, stdin) = start(command.stdin(Stdio::piped()));
        (host, stdin.expect("piped"), part)
    }

    /// Meanwhile innocents come and go.
    fn until_said(&mut self, host: &Eye, part: &Part, what: &str) {
        let said = |line: &str| {
            fs::read_to_string(part.said()).is_ok_and(|said| said.lines().any(|it| it == line))
        };
        let done = within(PATIENCE, || {
            self.meet();
            self.replace_one();
            said(what) || host.is_dead()
        });
        if !done || host.is_dead() {
            let said = fs::read_to_string(part.said()).unwrap_or_default();
            self.told.findings.push(format!("host {} did not say {what}: {said}", part.number));
        }
    }

    /// Numbers that programs have now; those who said so since the last time.
    fn meet(&mut self) -> Vec<i32> {
        reap();
        let text = fs::read_to_string(self.task.folder.join("members")).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let new = text[self.members..whole].lines().filter_map(|line| {
            let (pid, task) = line.split_once(' ')?;
            Some((pid.parse::<i32>().ok()?, task.to_owned()))
        });
        let new: Vec<(i32, String)> = new.collect();
        self.members = whole;
        let pids = new.iter().map(|(pid, _)| *pid).filter(|pid| is_alive(*pid)).collect();
        self.left.extend(new);
        pids
    }

    /// One goes, by us, and one comes.
    fn replace_one(&mut self) {
        if self.innocents.len() >= INNOCENTS
            && let Some(oldest) = self.innocents.pop_front()
        {
            self.check_one(&oldest);
            oldest.kill();
            within(PATIENCE, || oldest.is_dead());
        }
        reap();
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["/bin/sleep", "600"]).env_clear().stdin(Stdio::null());
        let innocent = start(&mut command).0;
        self.told.innocents += 1;
        self.told.reuses += u64::from(self.left.remove(&innocent.pid).is_some());
        self.innocents.push_back(innocent);
    }

    fn check(&mut self) {
        for innocent in std::mem::take(&mut self.innocents) {
            self.check_one(&innocent);
            self.innocents.push_back(innocent);
        }
    }

    fn check_one(&mut self, innocent: &Eye) {
        if innocent.is_dead() {
            self.told.findings.push(format!("innocent killed: {}", innocent.pid));
        }
    }
}
