//! One tree, and unrelated processes that take the pids of its processes.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use super::host::{Part, has_said};
use crate::{
    stepper::{Stepper, reap, reap_one},
    world::{PATIENCE, PidfdWatch, again, start, within},
};

/// How often a pid is steered to before giving up because another process took it.
const ATTEMPTS: u32 = 20;

pub(super) struct Fixture {
    pub(super) part: Part,
    pub(super) root: PidfdWatch,
    pub(super) token: String,
    /// The descendants of the root; the next victim is the last one.
    pub(super) victims: Vec<PidfdWatch>,
    pub(super) bystanders: Vec<PidfdWatch>,
    owner: Option<(PidfdWatch, ChildStdin)>,
    pub(super) statuses: HashMap<u32, i32>,
}

impl Fixture {
    /// Starts the tree; its owner has crashed, or waits.
    pub(super) fn set(part: Part) -> Self {
        let folder = part.folder.clone();
        let mut statuses = HashMap::new();
        let owner = start_role("reuse-own", &part);
        let is_up = within(PATIENCE, || has_said(&folder, "owned"));
        assert!(is_up, "the tree is up");
        let owner = if part.way == super::Way::Open {
            assert!(within(PATIENCE, || {
                statuses.extend(reap());
                statuses.contains_key(&owner.0.pid())
            }));
            None
        } else {
            Some(owner)
        };
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("said");
        let root = read("root");
        let (pid, token) = root.trim().split_once(' ').expect("pid and token");
        let find = |pid: &str| PidfdWatch::find(pid.parse().expect("a number")).expect("alive");
        let victims: Vec<PidfdWatch> = read("daemons").lines().map(find).collect();
        assert_eq!(victims.len(), part.daemons);
        let (root, token) = (find(pid), token.to_owned());
        Self { part, root, token, victims, bystanders: Vec::new(), owner, statuses }
    }

    /// Starts the actor, stopped before its first system call of the pass, and returns the pipe
    /// that lets it begin.
    pub(super) fn actor(&mut self) -> (PidfdWatch, ChildStdin) {
        if self.part.way == super::Way::Terminate {
            return self.owner.take().expect("the owner itself");
        }
        let actor = start_role("reuse-act", &self.part);
        assert!(within(PATIENCE, || has_said(&self.part.folder, "ready")), "the actor is there");
        actor
    }

    /// Kills a process of the tree and starts an unrelated process with its pid. `None` if another
    /// process was faster.
    pub(super) fn swap(&mut self, victim: &PidfdWatch, stepper: &mut Stepper) -> Option<u32> {
        victim.send_kill();
        // We reap it, since its parent is dead: its pid is free afterwards.
        let gone = within(PATIENCE, || {
            self.statuses.extend(stepper.reaped.drain(..));
            self.statuses.extend(reap_one(victim.pid()).map(|status| (victim.pid(), status)));
            self.statuses.contains_key(&victim.pid())
        });
        assert!(gone, "{} is reaped", victim.pid());
        for _ in 0..ATTEMPTS {
            let bystander = with_number(victim.pid(), None);
            if bystander.pid() == victim.pid() {
                self.bystanders.push(bystander);
                return Some(victim.pid());
            }
            bystander.send_kill();
        }
        None
    }

    /// The cgroup of the root, if it has one.
    pub(super) fn cgroup(&self) -> Option<PathBuf> {
        let ledger = rusqlite::Connection::open(self.part.ledger()).expect("a ledger");
        let query = "SELECT cgroup FROM process WHERE root IS NULL";
        let cgroup: Option<String> = ledger.query_row(query, [], |row| row.get(0)).expect("a row");
        cgroup.map(PathBuf::from)
    }

    /// Ends everything that is left and returns the findings.
    pub(super) fn close(mut self, actor: (PidfdWatch, ChildStdin)) -> Vec<String> {
        let mut found = Vec::new();
        let bystanders = std::mem::take(&mut self.bystanders);
        for bystander in bystanders.iter().filter(|bystander| bystander.is_dead()) {
            found.push(format!("unrelated process killed: {}", bystander.pid()));
        }
        for left in self.victims.iter().chain([&self.root]).filter(|one| !one.is_dead()) {
            found.push(format!("leaked: {}", crate::world::describe(left.pid())));
        }
        for (watched, stdin) in [Some(actor), self.owner.take()].into_iter().flatten() {
            drop(stdin);
            match self.wait(&watched) {
                0 => {}
                status => found.push(format!("a host failed: wait status {status}")),
            }
        }
        for bystander in bystanders.iter().filter(|bystander| bystander.is_dead()) {
            found.push(format!("unrelated process killed in the end: {}", bystander.pid()));
        }
        for bystander in &bystanders {
            bystander.send_kill();
            self.wait(bystander);
        }
        found.extend(not_ended(&self.part.ledger()));
        found
    }

    fn wait(&mut self, watched: &PidfdWatch) -> i32 {
        let ended = within(PATIENCE, || {
            self.statuses.extend(reap());
            self.statuses.contains_key(&watched.pid())
        });
        assert!(ended, "{} ends", watched.pid());
        // An unrelated process has the same pid as its victim: the last status counts.
        self.statuses.remove(&watched.pid()).expect("a status")
    }
}

/// Starts a program in a session of its own that is in no ledger, or one with this token.
pub(super) fn with_number(pid: u32, token: Option<&str>) -> PidfdWatch {
    let mut command = Command::new("/usr/bin/setsid");
    command.args(["/bin/sleep", "600"]).stdin(Stdio::null()).env_clear();
    if let Some(token) = token {
        command.env("PROCLEDGER_TOKEN", token);
    }
    steer(pid);
    start(&mut command).0
}

fn start_role(role: &str, part: &Part) -> (PidfdWatch, ChildStdin) {
    let mut command = again(role, &serde_json::to_string(part).expect("JSON"));
    let (watched, stdin) = start(command.stdin(Stdio::piped()));
    (watched, stdin.expect("piped"))
}

fn not_ended(ledger: &Path) -> Vec<String> {
    let ledger = rusqlite::Connection::open(ledger).expect("a ledger");
    let query = "SELECT pid || ' ' || state FROM process WHERE state <> 'ended'";
    let mut query = ledger.prepare(query).expect("a query");
    let rows = query.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    rows.map(|row| format!("a row is not ended: {}", row.expect("a row"))).collect()
}

/// Makes the next process of this namespace get this pid, if it is free and no other process is
/// faster.
fn steer(pid: u32) {
    fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("steered");
}
