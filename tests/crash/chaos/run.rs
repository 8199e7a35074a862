//! The first process of the namespace: it chooses the actions and compares the outcome with the
//! model.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use super::{
    OUTCOME, Outcome, Task,
    host::{KINDS, Kind, Part, WORKER},
    model::{Model, Tree},
};
use crate::{
    stepper::reap,
    world::{COMMAND, Chance, PATIENCE, PidfdWatch, again, start, within},
};

const HOSTS: usize = 4;
/// Programs of the same name that are in no ledger.
const CANARIES: usize = 3;
/// Crashes between two full checks.
const ROUND: u64 = 20;
/// Trees of one host at the same time.
const MOST: usize = 6;

/// A live host.
pub(super) struct Host {
    pub(super) part: Part,
    pub(super) watched: PidfdWatch,
    stdin: ChildStdin,
    trees: usize,
}

pub(super) struct Run {
    pub(super) task: Task,
    chance: Chance,
    pub(super) hosts: Vec<Host>,
    pub(super) watch: Option<PidfdWatch>,
    reaps: Vec<PidfdWatch>,
    model: Model,
    statuses: HashMap<u32, i32>,
    number: u64,
    marks: u64,
    crashes: HashMap<&'static str, u64>,
}

pub(crate) fn body(task: Task) {
    assert_eq!(std::process::id(), 1, "chaos reigns in a namespace of its own");
    let worker = task.folder.join("worker");
    fs::write(&worker, WORKER).expect("a script");
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("its mode");
    let canaries = (0..CANARIES).map(|_| {
        let mut command = Command::new("setsid");
        start(command.arg(&worker).arg("canary").arg(&task.folder).stdin(Stdio::null())).0
    });
    let model = Model::new(&task.folder, canaries.collect());
    let up = task.folder.join("canaries");
    let all_are_up = || fs::read_to_string(&up).is_ok_and(|up| up.lines().count() == CANARIES);
    assert!(within(PATIENCE, all_are_up));
    let mut run = Run {
        chance: Chance::new(task.seed),
        task,
        hosts: Vec::new(),
        watch: None,
        reaps: Vec::new(),
        model,
        statuses: HashMap::new(),
        number: 0,
        marks: 0,
        crashes: HashMap::new(),
    };
    run.run();
}

impl Run {
    fn run(&mut self) {
        let mut next_look = ROUND;
        while self.count() < self.task.crashes && self.model.findings.len() < 10 {
            self.act();
            self.take_notice();
            if self.count() >= next_look {
                next_look += ROUND;
                self.look_at_everything();
            }
            thread::sleep(Duration::from_micros(self.chance.below(4_000)));
        }
        self.look_at_everything();
        while !self.hosts.is_empty() {
            self.crash_host(0);
        }
        self.look_at_everything();
        self.model.check_at_the_end();
        let outcome = Outcome {
            counts: format!(
                "{} crashes {:?}; {} hosts, {}",
                self.count(),
                self.crashes,
                self.number,
                self.model.counts()
            ),
            findings: std::mem::take(&mut self.model.findings),
        };
        let path = self.task.folder.join(OUTCOME);
        fs::write(path, serde_json::to_vec(&outcome).expect("JSON")).expect("an outcome");
    }

    fn count(&self) -> u64 {
        self.crashes.values().sum()
    }

    fn act(&mut self) {
        if self.hosts.len() < HOSTS && self.chance.below(3) == 0 {
            self.start_host();
        }
        match self.chance.below(100) {
            0..=3 => self.start_or_crash_watch(),
            4..=6 => self.start_reap(),
            7..=8 => self.crash_reap(),
            9..=16 if !self.hosts.is_empty() => {
                let at = self.any_host();
                self.crash_host(at);
            }
            17..=18 if !self.hosts.is_empty() => {
                let at = self.any_host();
                self.stop_host(at);
            }
            19..=70 if !self.hosts.is_empty() => self.tell_host(),
            _ => {}
        }
    }

    fn any_host(&mut self) -> usize {
        usize::try_from(self.chance.below(self.hosts.len() as u64)).expect("few")
    }

    fn start_host(&mut self) {
        self.number += 1;
        let part = Part {
            folder: self.task.folder.clone(),
            mode: self.chance.pick(&self.task.modes).clone(),
            number: self.number,
        };
        let mut command = again("chaos-host", &serde_json::to_string(&part).expect("JSON"));
        let (watched, stdin) = start(command.stdin(Stdio::piped()));
        self.hosts.push(Host { part, watched, stdin: stdin.expect("piped"), trees: 0 });
    }

    fn tell_host(&mut self) {
        let at = self.any_host();
        let part = &self.hosts[at].part;
        let line = match self.chance.below(10) {
            0 => "health".to_owned(),
            1 => "reap".to_owned(),
            2..=3 => match self.model.any_of(part.number, &mut self.chance) {
                Some(task) => format!("terminate {task}"),
                None => return,
            },
            _ if self.hosts[at].trees >= MOST => return,
            _ => self.new_tree(at),
        };
        // A host that died by itself is detected by its status.
        let _ = writeln!(self.hosts[at].stdin, "{line}");
    }

    fn new_tree(&mut self, at: usize) -> String {
        let host = &mut self.hosts[at];
        host.trees += 1;
        let Kind { name, size, stays } = self.chance.pick(&KINDS);
        // In session mode a process that removes all of its marks is lost by design (README, "What
        // escapes").
        let name =
            if *name == "daemon" && host.part.mode != "session" { "hidden-daemon" } else { name };
        let task = self.model.expect(Tree::new(host.part.number, *size, *stays));
        format!("spawn {task} {name}")
    }

    fn crash_host(&mut self, at: usize) {
        let host = self.hosts.swap_remove(at);
        self.model.host_ends(host.part.number);
        host.watched.send_kill();
        *self.crashes.entry("host").or_default() += 1;
        self.wait(&host.watched);
    }

    /// An orderly end: the host's input ends. Does not wait for it.
    fn stop_host(&mut self, at: usize) {
        let host = self.hosts.swap_remove(at);
        self.model.host_ends(host.part.number);
        drop(host.stdin);
        // It may be killed in the middle of its shutdown.
        if self.chance.below(2) == 0 {
            host.watched.dies_within(Duration::from_micros(self.chance.below(30_000)));
            if !host.watched.is_dead() {
                host.watched.send_kill();
                *self.crashes.entry("host at its end").or_default() += 1;
            }
        }
        self.wait(&host.watched);
    }

    fn start_or_crash_watch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.send_kill();
            *self.crashes.entry("watch").or_default() += 1;
            self.wait(&watch);
        } else {
            self.watch = Some(self.command(&["watch"]));
        }
    }

    fn start_reap(&mut self) {
        let reap = self.command(&["reap"]);
        self.reaps.push(reap);
    }

    fn crash_reap(&mut self) {
        let Some(reap) = self.reaps.pop() else { return };
        if !reap.is_dead() {
            reap.send_kill();
            *self.crashes.entry("reap").or_default() += 1;
        }
        self.wait(&reap);
    }

    fn command(&self, args: &[&str]) -> PidfdWatch {
        let mut command = Command::new(COMMAND);
        command.arg("--db").arg(self.task.folder.join("ledger.db")).args(args);
        start(command.stdin(Stdio::null()).stdout(Stdio::null())).0
    }

    fn wait(&mut self, watched: &PidfdWatch) -> i32 {
        let mut status = None;
        let ended = within(PATIENCE, || {
            self.statuses.extend(reap());
            status = self.statuses.remove(&watched.pid());
            status.is_some()
        });
        if !ended {
            self.model.find(format!("{} does not end", crate::world::describe(watched.pid())));
        }
        status.unwrap_or(-1)
    }

    /// Returns what has happened without a request.
    fn take_notice(&mut self) {
        self.statuses.extend(reap());
        if let Some(at) = self.hosts.iter().position(|host| host.watched.is_dead()) {
            let host = self.hosts.swap_remove(at);
            let status = self.wait(&host.watched);
            self.model.host_ends(host.part.number);
            self.model.find(format!("host {} ended by itself: {status}", host.part.number));
        }
        self.model.take_notice();
    }

    /// With everything at rest, each live process must belong to a tree.
    fn look_at_everything(&mut self) {
        self.marks += 1;
        for host in &mut self.hosts {
            let _ = writeln!(host.stdin, "mark {}", self.marks);
        }
        let mark = format!("mark {}\n", self.marks);
        for at in 0..self.hosts.len() {
            let said = self.hosts[at].part.said();
            let answered = within(PATIENCE, || {
                self.statuses.extend(reap());
                fs::read_to_string(&said).is_ok_and(|said| said.contains(&mark))
            });
            if !answered {
                self.model.find(format!("host {} does not answer", self.hosts[at].part.number));
            }
        }
        for running in std::mem::take(&mut self.reaps) {
            self.check_status("reap", &running);
        }
        let last = self.command(&["reap"]);
        self.check_status("reap", &last);
        let mut spared: Vec<u32> = self.hosts.iter().map(|host| host.watched.pid()).collect();
        spared.extend(self.watch.as_ref().map(PidfdWatch::pid));
        self.model.look_at_everything(&spared, &mut self.statuses);
    }

    fn check_status(&mut self, what: &str, watched: &PidfdWatch) {
        let status = self.wait(watched);
        if status != 0 {
            self.model.find(format!("`{what}` ended with wait status {status}"));
        }
    }
}
