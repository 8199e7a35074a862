//! Few pids, all of them in use: hosts spawn, end, crash and restart in a PID namespace with only
//! 200 pids, and unrelated processes take each pid that a tracked program frees.
//!
//! A namespace has a limit of its own since Linux 6.14; before that the limit is the machine's, and
//! the test does not run.

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
        COMMAND, Chance, PATIENCE, PidfdWatch, again, folder, is_alive, modes, run_role, sampled,
        start, within,
    },
};

/// Pids below 300 are assigned only once (`RESERVED_PIDS`).
const PID_MAX: &str = "500";
/// Unrelated processes at the same time: about half of all pids.
const BYSTANDERS: usize = 90;
/// Reused pids in the whole.
const REUSES: u64 = 2_000;
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
struct Outcome {
    reuses: u64,
    hosts: u64,
    bystanders: u64,
    findings: Vec<String>,
}

const OUTCOME: &str = "outcome.json";

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
        seed: chance.draw(),
        reuses: if wish.whole { REUSES } else { sampled(50, 150) },
        // A keeper and its program need two more processes for each task: too many here.
        modes: modes().into_iter().filter(|mode| *mode != "keeper").map(str::to_owned).collect(),
    };
    let text = serde_json::to_string(&task).expect("JSON");
    if let Err(error) = run_role("small-pid-max", &text, folder.path(), LIMIT) {
        return vec![error];
    }
    let outcome = fs::read(folder.path().join(OUTCOME)).expect("an outcome");
    let outcome: Outcome = serde_json::from_slice(&outcome).expect("JSON");
    println!(
        "{} pids of programs reused by {} unrelated processes during the work and the crashes of {} hosts",
        outcome.reuses, outcome.bystanders, outcome.hosts
    );
    outcome.findings
}

fn has_limits_of_its_own() -> bool {
    let uname = rustix::system::uname();
    let mut parts = uname.release().to_str().unwrap_or_default().split('.');
    let mut next = || parts.next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    (next(), next()) >= (6, 14)
}

struct Run {
    task: Task,
    chance: Chance,
    bystanders: VecDeque<PidfdWatch>,
    /// Pids that tracked programs had last.
    left: HashMap<u32, String>,
    members: usize,
    outcome: Outcome,
}

pub(crate) fn body(task: Task) {
    assert_eq!(std::process::id(), 1, "the limit is set in a namespace of its own");
    fs::write("/proc/sys/kernel/pid_max", PID_MAX).expect("a limit of its own");
    let worker = task.folder.join("worker");
    fs::write(&worker, WORKER).expect("a script");
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut run = Run {
        chance: Chance::new(task.seed),
        task,
        bystanders: VecDeque::new(),
        left: HashMap::new(),
        members: 0,
        outcome: Outcome { reuses: 0, hosts: 0, bystanders: 0, findings: Vec::new() },
    };
    while run.outcome.reuses < run.task.reuses && run.outcome.findings.is_empty() {
        run.round();
    }
    run.end();
    let path = run.task.folder.join(OUTCOME);
    fs::write(path, serde_json::to_vec(&run.outcome).expect("JSON")).expect("an outcome");
}

impl Run {
    /// Ends what the last host left, including its cgroup.
    fn end(&mut self) {
        let mut command = Command::new(COMMAND);
        command.arg("--db").arg(self.task.folder.join("ledger.db")).arg("reap");
        let last = start(command.stdin(Stdio::null()).stdout(Stdio::null())).0;
        if !last.dies_within(PATIENCE) {
            self.outcome.findings.push("the last reap does not finish".into());
        }
        self.check();
    }

    /// A host opens the ledger beside unrelated processes that have the pids of what the last one
    /// left; it works, and is killed.
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
        host.send_kill();
        within(PATIENCE, || host.is_dead());
        // Half of what it left dies before the next host opens.
        for pid in self.meet() {
            if self.chance.below(2) == 0
                && let Some(watched) = PidfdWatch::find(pid)
            {
                watched.send_kill();
            }
        }
        for _ in 0..BYSTANDERS {
            self.replace_one();
        }
        self.check();
    }

    fn start_host(&mut self) -> (PidfdWatch, ChildStdin, Part) {
        self.outcome.hosts += 1;
        let part = Part {
            folder: self.task.folder.clone(),
            mode: self.chance.pick(&self.task.modes).clone(),
            number: self.outcome.hosts,
        };
        let mut command = again("chaos-host", &serde_json::to_string(&part).expect("JSON"));
        let (host, stdin) = start(command.stdin(Stdio::piped()));
        (host, stdin.expect("piped"), part)
    }

    /// Meanwhile unrelated processes start and end.
    fn until_said(&mut self, host: &PidfdWatch, part: &Part, what: &str) {
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
            self.outcome.findings.push(format!("host {} did not say {what}: {said}", part.number));
        }
    }

    /// Returns the pids that programs have now: those reported since the last call.
    fn meet(&mut self) -> Vec<u32> {
        reap();
        let text = fs::read_to_string(self.task.folder.join("members")).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let new = text[self.members..whole].lines().filter_map(|line| {
            let (pid, task) = line.split_once(' ')?;
            Some((pid.parse::<u32>().ok()?, task.to_owned()))
        });
        let new: Vec<(u32, String)> = new.collect();
        self.members = whole;
        let pids = new.iter().map(|(pid, _)| *pid).filter(|pid| is_alive(*pid)).collect();
        self.left.extend(new);
        pids
    }

    /// Ends the oldest unrelated process and starts a new one.
    fn replace_one(&mut self) {
        if self.bystanders.len() >= BYSTANDERS
            && let Some(oldest) = self.bystanders.pop_front()
        {
            self.check_one(&oldest);
            oldest.send_kill();
            within(PATIENCE, || oldest.is_dead());
        }
        reap();
        let mut command = Command::new("/usr/bin/setsid");
        command.args(["/bin/sleep", "600"]).env_clear().stdin(Stdio::null());
        let bystander = start(&mut command).0;
        self.outcome.bystanders += 1;
        self.outcome.reuses += u64::from(self.left.remove(&bystander.pid()).is_some());
        self.bystanders.push_back(bystander);
    }

    fn check(&mut self) {
        for bystander in std::mem::take(&mut self.bystanders) {
            self.check_one(&bystander);
            self.bystanders.push_back(bystander);
        }
    }

    fn check_one(&mut self, bystander: &PidfdWatch) {
        if bystander.is_dead() {
            self.outcome.findings.push(format!("unrelated process killed: {}", bystander.pid()));
        }
    }
}
