//! Which processes should be alive and which are: by what the programs report about themselves, and
//! by pidfds. The model opens the ledger only to check that it contains every program that ran and
//! everything that a host reported.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    stepper::reap,
    world::{Chance, PATIENCE, PidfdWatch, describe, live_processes, parent, within},
};

/// What one spawn started.
pub(super) struct Tree {
    host: u64,
    size: usize,
    /// Its end was not requested, and it does not end by itself.
    stays: bool,
    members: Vec<PidfdWatch>,
}

impl Tree {
    pub(super) fn new(host: u64, size: usize, stays: bool) -> Self {
        Self { host, size, stays, members: Vec::new() }
    }
}

pub(super) struct Model {
    folder: PathBuf,
    canaries: Vec<PidfdWatch>,
    trees: BTreeMap<String, Tree>,
    /// How much of the members' file has been read.
    read: usize,
    looks: u64,
    pub(super) findings: Vec<String>,
}

impl Model {
    pub(super) fn new(folder: &Path, canaries: Vec<PidfdWatch>) -> Self {
        Self {
            folder: folder.to_owned(),
            canaries,
            trees: BTreeMap::new(),
            read: 0,
            looks: 0,
            findings: Vec::new(),
        }
    }

    pub(super) fn find(&mut self, what: String) {
        println!("FOUND {what}");
        self.findings.push(what);
    }

    pub(super) fn counts(&self) -> String {
        format!(
            "{} trees, {} programs that said so, {} looks at everything",
            self.trees.len(),
            self.read_file("members").lines().count(),
            self.looks
        )
    }

    /// Announces a tree that is about to be spawned; returns its task.
    pub(super) fn expect(&mut self, tree: Tree) -> String {
        let task = format!("task-{:05}", self.trees.len());
        self.trees.insert(task.clone(), tree);
        task
    }

    /// Returns a tree of that host whose end was not requested; from now on it may end.
    pub(super) fn any_of(&mut self, host: u64, chance: &mut Chance) -> Option<String> {
        let of_it = |(task, tree): (&String, &Tree)| {
            (tree.host == host && tree.stays).then(|| task.clone())
        };
        let tasks: Vec<String> = self.trees.iter().filter_map(of_it).collect();
        let task = (!tasks.is_empty()).then(|| chance.pick(&tasks).clone())?;
        self.trees.get_mut(&task)?.stays = false;
        Some(task)
    }

    /// From now on its trees may be ended by any instance.
    pub(super) fn host_ends(&mut self, host: u64) {
        // A death before this point is that of an unrelated process.
        self.take_notice();
        self.trees
            .values_mut()
            .filter(|tree| tree.host == host)
            .for_each(|tree| tree.stays = false);
    }

    /// Registers processes that reported themselves, and detects missing ones.
    pub(super) fn take_notice(&mut self) {
        let text = self.read_file("members");
        let new: Vec<(u32, String)> = text[self.read..]
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| {
                self.read += line.len();
                let (pid, task) = line.trim_end().split_once(' ')?;
                Some((pid.parse().ok()?, task.to_owned()))
            })
            .collect();
        for (pid, task) in new {
            self.meet(pid, &task);
        }
        self.miss();
    }

    fn meet(&mut self, pid: u32, task: &str) {
        let Some(tree) = self.trees.get_mut(task) else {
            return self.find(format!("{pid} is of no tree: {task}"));
        };
        match PidfdWatch::find(pid) {
            Some(watched) => tree.members.push(watched),
            None if tree.stays => self.find(format!("unrelated process killed: {pid} of {task}")),
            None => {}
        }
    }

    fn miss(&mut self) {
        let mut missed = Vec::new();
        for (task, tree) in self.trees.iter_mut().filter(|(_, tree)| tree.stays) {
            if let Some(dead) = tree.members.iter().find(|member| member.is_dead()) {
                missed.push(format!(
                    "unrelated process killed: {} of {task}, host {}",
                    dead.pid(),
                    tree.host
                ));
                tree.stays = false;
            }
        }
        self.canaries.retain(|canary| {
            let dead = canary.is_dead();
            if dead {
                missed.push(format!("unrelated process killed: canary {}", canary.pid()));
            }
            !dead
        });
        for missed in missed {
            self.find(missed);
        }
    }

    /// Runs when all hosts stand still and one reap has completed.
    pub(super) fn look_at_everything(&mut self, spared: &[u32], statuses: &mut HashMap<u32, i32>) {
        self.looks += 1;
        let mut left = Vec::new();
        let clean = within(PATIENCE, || {
            statuses.extend(reap());
            self.take_notice();
            left = self.unrelated(spared);
            left.is_empty() && self.unfinished().is_empty()
        });
        if !clean {
            for pid in left {
                self.find(format!("leaked: {}", describe(pid)));
            }
            for what in self.unfinished() {
                self.find(what);
            }
        }
        self.check_said();
        // Those that have ended for good need no pidfd any more.
        self.trees.values_mut().filter(|tree| !tree.stays).for_each(|tree| tree.members.clear());
    }

    /// Processes that are alive and belong to no tree of a living host.
    fn unrelated(&self, spared: &[u32]) -> Vec<u32> {
        let staying = self.trees.values().filter(|tree| tree.stays);
        let mut known: HashSet<u32> =
            staying.flat_map(|tree| tree.members.iter().map(PidfdWatch::pid)).collect();
        known.extend(self.canaries.iter().map(PidfdWatch::pid));
        known.extend(spared);
        let is_a_keeper = |pid: u32| {
            describe(pid).contains("procledger-keep")
                && known.iter().any(|&kept| parent(kept) == Some(pid))
        };
        let is_known = |pid: u32| {
            known.contains(&pid) || parent(pid).is_some_and(|parent| known.contains(&parent))
        };
        live_processes().into_iter().filter(|&pid| !is_known(pid) && !is_a_keeper(pid)).collect()
    }

    /// Trees of living hosts that are incomplete.
    fn unfinished(&self) -> Vec<String> {
        let is_not_up = |tree: &Tree| tree.stays && tree.members.len() < tree.size;
        let trees = self.trees.iter().filter(|(_, tree)| is_not_up(tree));
        trees.map(|(task, tree)| format!("{task} of host {} is not up", tree.host)).collect()
    }

    /// Checks that every program that ran, and everything that a host reported, has a row; what it
    /// reported as ended is ended there.
    fn check_said(&mut self) {
        let rows = match self.rows() {
            Ok(rows) => rows,
            Err(error) => return self.find(format!("the ledger cannot be read: {error}")),
        };
        let tokens: HashSet<String> = rows.iter().map(|row| row.token.clone()).collect();
        let states: HashMap<String, bool> =
            rows.into_iter().map(|row| (row.task, row.ended)).collect();
        for line in self.read_file("runs").lines() {
            if !tokens.contains(&line.replace('-', "")) {
                self.find(format!("a program ran without a row: {line}"));
            }
        }
        for line in self.said() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["spawn", task, _] if !states.contains_key(task) => {
                    self.find(format!("lost row: {line}"));
                }
                ["end", task] if states.get(task) != Some(&true) => {
                    self.find(format!("lost end: {line}"));
                }
                ["error", ..] => self.find(line),
                _ => {}
            }
        }
        let lost: Vec<String> = self
            .trees
            .iter()
            .filter(|(task, tree)| tree.stays && states.get(*task) == Some(&true))
            .map(|(task, tree)| format!("row of a living tree ended: {task} of host {}", tree.host))
            .collect();
        for lost in lost {
            self.find(lost);
        }
    }

    fn said(&self) -> Vec<String> {
        let names = fs::read_dir(&self.folder).expect("a folder").flatten();
        let names = names.filter(|name| name.file_name().to_string_lossy().starts_with("said-"));
        let texts = names.map(|name| fs::read_to_string(name.path()).unwrap_or_default());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn rows(&self) -> rusqlite::Result<Vec<Row>> {
        let ledger = self.open()?;
        let query = "SELECT task_id, pid || ' ' || replace(token, '-', ''), state = 'ended'
                     FROM process WHERE origin = 'spawned'";
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row { task: row.get(0)?, token: row.get(1)?, ended: row.get(2)? })
        };
        ledger.prepare(query)?.query_map([], row)?.collect()
    }

    fn open(&self) -> rusqlite::Result<rusqlite::Connection> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = rusqlite::Connection::open_with_flags(self.folder.join("ledger.db"), flags)?;
        ledger.busy_timeout(Duration::from_secs(10))?;
        Ok(ledger)
    }

    /// No host runs any more.
    pub(super) fn check_at_the_end(&mut self) {
        let ask = |query: &str| -> rusqlite::Result<Vec<String>> {
            let ledger = self.open()?;
            let mut query = ledger.prepare(query)?;
            let width = query.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                let values = (0..width).map(|at| row.get::<_, rusqlite::types::Value>(at));
                Ok(format!("{:?}", values.collect::<rusqlite::Result<Vec<_>>>()?))
            };
            query.query_map([], row)?.collect()
        };
        let questions = [
            ("PRAGMA integrity_check", vec!["[Text(\"ok\")]".to_owned()]),
            ("PRAGMA foreign_key_check", vec![]),
            ("SELECT task_id, pid, state FROM process WHERE state <> 'ended'", vec![]),
            ("SELECT task_id, pid FROM process WHERE end_reason = 'failed'", vec![]),
        ];
        let answers = questions.map(|(question, right)| (question, ask(question), right));
        for (question, answer, right) in answers {
            if answer.as_ref().ok() != Some(&right) {
                self.find(format!("at the end: {question}: {answer:?}"));
            }
        }
    }

    fn read_file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }
}

struct Row {
    task: String,
    /// The line, preceded by the pid.
    token: String,
    ended: bool,
}
