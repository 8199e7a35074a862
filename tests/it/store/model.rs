//! Random sequences of calls, commands and accidents, compared with a small model.
//!
//! Two programs share one ledger. After each action everything is checked: the live rows and the
//! ended ones, with their reasons; every process that should be alive, and every one that should be
//! dead. The processes are real, in a PID namespace of their own. A failing sequence is shrunk to a
//! short one.
//!
//! `PROCLEDGER_LONG=1 cargo test --test it -- model` runs for some minutes; `PROCLEDGER_SEED=N`
//! repeats a run.

use std::{collections::BTreeMap, fs};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

use crate::support::{
    Guard, Host, PidfdWatch, Place, canary, in_namespace_with_init, long, sampled, until,
};

const PROGRAMS: [&str; 2] = ["one", "two"];
const TASKS: [&str; 3] = ["a", "b", "c"];
/// The containments, each as the options of a host. The last one only where root in the namespace
/// is root outside as well: in the namespace of a user the keeper appears as owned by `nobody`,
/// which root does not trust.
const CONTAINMENTS: [&str; 3] =
    ["containment=auto", "containment=session", "containment=keeper keeper"];

/// Programs that start another one in a session of its own, and report it.
const TREE: &str = "setsid sleep 3600 & echo $! > FILE.tmp; mv FILE.tmp FILE; exec sleep 3600";
const PLAIN: &str = "exec sleep 3600";

#[derive(Clone, Copy, Debug)]
enum Act {
    Spawn {
        by: usize,
        task: usize,
        tree: bool,
        survive: bool,
    },
    RunToTheEnd {
        by: usize,
        task: usize,
        code: u8,
    },
    Register {
        by: usize,
        task: usize,
    },
    Unregister {
        by: usize,
        task: usize,
    },
    Terminate {
        by: usize,
        task: usize,
    },
    KillByCommand {
        task: usize,
    },
    Forget {
        task: usize,
    },
    /// Its root is killed from outside, without notice.
    DieBehindBack {
        task: usize,
    },
    Health {
        by: usize,
    },
    Reap {
        by: usize,
    },
    ReapByCommand,
    Crash {
        host: usize,
    },
    Stop {
        host: usize,
    },
    Open {
        host: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let (by, task) = (0..PROGRAMS.len(), 0..TASKS.len());
    let both = (by.clone(), task.clone());
    prop_oneof![
        8 => (both.clone(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|((by, task), tree, survive)| Act::Spawn { by, task, tree, survive }),
        2 => (both.clone(), any::<u8>()).prop_map(|((by, task), code)| Act::RunToTheEnd { by, task, code }),
        3 => both.clone().prop_map(|(by, task)| Act::Register { by, task }),
        2 => both.clone().prop_map(|(by, task)| Act::Unregister { by, task }),
        3 => both.prop_map(|(by, task)| Act::Terminate { by, task }),
        2 => task.clone().prop_map(|task| Act::KillByCommand { task }),
        1 => task.clone().prop_map(|task| Act::Forget { task }),
        3 => task.prop_map(|task| Act::DieBehindBack { task }),
        2 => by.clone().prop_map(|by| Act::Health { by }),
        1 => by.clone().prop_map(|by| Act::Reap { by }),
        1 => Just(Act::ReapByCommand),
        3 => by.clone().prop_map(|host| Act::Crash { host }),
        2 => by.clone().prop_map(|host| Act::Stop { host }),
        4 => by.prop_map(|host| Act::Open { host }),
    ]
}

/// A live row, as it should be.
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a row")]
struct Row {
    /// The root first, then what it started.
    all_watched: Vec<PidfdWatch>,
    /// The child of the test, if the row was registered.
    own: Option<Guard>,
    owner: usize,
    survive: bool,
    kept: bool,
    /// Its root has died, and no instance that could record that is present.
    unnoticed: bool,
    /// Its keeper has ended it, since its host crashed.
    by_keeper: bool,
}

/// The expected state.
struct World {
    place: Place,
    options: &'static str,
    hosts: [Option<Host>; 2],
    rows: [Option<Row>; 3],
    /// How many rows of each task ended for each reason.
    ended: BTreeMap<(usize, &'static str), u32>,
    dead: Vec<PidfdWatch>,
    /// Released, and so untracked; they live to the end.
    free: Vec<(Vec<PidfdWatch>, Option<Guard>)>,
    canary: Guard,
    spawned: u32,
}

impl World {
    fn new(options: &'static str) -> Self {
        let mut world = Self {
            place: Place::new(),
            options,
            hosts: [None, None],
            rows: [None, None, None],
            ended: BTreeMap::new(),
            dead: Vec::new(),
            free: Vec::new(),
            canary: canary(),
            spawned: 0,
        };
        world.open(0);
        world.open(1);
        world
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Spawn { by, task, tree, survive } => self.spawn(by, task, tree, survive),
            Act::RunToTheEnd { by, task, code } => self.run_to_the_end(by, task, code),
            Act::Register { by, task } => self.register(by, task),
            Act::Unregister { by, task } => self.unregister(by, task),
            Act::Terminate { by, task } => self.terminate(by, task),
            Act::KillByCommand { task } => self.kill_by_command(task),
            Act::Forget { task } => self.forget(task),
            Act::DieBehindBack { task } => self.die_behind_back(task),
            Act::Health { by } => self.health(by),
            Act::Reap { by } => {
                if let Some(host) = &mut self.hosts[by] {
                    host.ask("reap").parse::<u32>().expect("a number");
                    self.orphans_end();
                }
            }
            Act::ReapByCommand => {
                assert!(self.place.procledger(&["reap"]).status.success());
                self.orphans_end();
            }
            Act::Crash { host } => self.crash(host),
            Act::Stop { host } => self.stop(host),
            Act::Open { host } => self.open(host),
        }
    }

    /// Sends a command to a running host; `false` if the answer is an error.
    fn ask(&mut self, by: usize, line: &str) -> Option<Result<String, String>> {
        let answer = self.hosts[by].as_mut()?.ask(line);
        Some(match answer.strip_prefix("error ") {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        })
    }

    fn spawn(&mut self, by: usize, task: usize, tree: bool, survive: bool) {
        self.spawned += 1;
        let daemon = self.place.path().join(format!("daemon-{}", self.spawned));
        let script =
            if tree { TREE.replace("FILE", &daemon.to_string_lossy()) } else { PLAIN.to_owned() };
        let verb = if survive { "survive" } else { "spawn" };
        let Some(answer) = self.ask(by, &format!("{verb} {} {script}", TASKS[task])) else {
            return;
        };
        if self.rows[task].is_some() {
            let error = answer.expect_err("the task has a live row");
            return assert!(error.contains("already runs"), "{error}");
        }
        let answer = answer.expect("spawned");
        let pid = answer.strip_prefix("pid ").and_then(|pid| pid.parse().ok()).expect("a pid");
        let mut all_watched = vec![PidfdWatch::on(pid)];
        if tree {
            until("the daemon is there", || daemon.exists());
            let pid = fs::read_to_string(&daemon).expect("a pid").trim().parse().expect("a pid");
            all_watched.push(PidfdWatch::on(pid));
        }
        let kept = self.options.contains("keeper") && !survive;
        self.rows[task] = Some(Row {
            all_watched,
            own: None,
            owner: by,
            survive,
            kept,
            unnoticed: false,
            by_keeper: false,
        });
    }

    fn run_to_the_end(&mut self, by: usize, task: usize, code: u8) {
        let Some(answer) = self.ask(by, &format!("spawn {} exit {code}", TASKS[task])) else {
            return;
        };
        if self.rows[task].is_some() {
            return drop(answer.expect_err("the task has a live row"));
        }
        answer.expect("spawned");
        let waited = self.ask(by, &format!("wait {}", TASKS[task])).expect("a host");
        assert_eq!(waited, Ok(format!("exit code {code}")));
        *self.ended.entry((task, "by itself")).or_default() += 1;
    }

    fn register(&mut self, by: usize, task: usize) {
        if self.hosts[by].is_none() {
            return;
        }
        let own = self.place.child(PLAIN);
        let answer = self.ask(by, &format!("register {} {}", TASKS[task], own.pid()));
        let answer = answer.expect("a host");
        if self.rows[task].is_some() {
            let error = answer.expect_err("the task has a live row");
            return assert!(error.contains("already runs"), "{error}");
        }
        assert_eq!(answer, Ok("done".to_owned()));
        let (all_watched, own) = (vec![PidfdWatch::on(own.pid())], Some(own));
        let row = Row {
            all_watched,
            own,
            owner: by,
            survive: false,
            kept: false,
            unnoticed: false,
            by_keeper: false,
        };
        self.rows[task] = Some(row);
    }

    fn unregister(&mut self, by: usize, task: usize) {
        let Some(answer) = self.ask(by, &format!("unregister {}", TASKS[task])) else { return };
        let is_its = self.rows[task].as_ref().is_some_and(|row| row.owner == by);
        assert_eq!(answer, Ok(is_its.to_string()));
        if is_its && let Some(row) = self.rows[task].take() {
            self.free.push((row.all_watched, row.own));
            *self.ended.entry((task, "released")).or_default() += 1;
        }
    }

    fn terminate(&mut self, by: usize, task: usize) {
        let Some(answer) = self.ask(by, &format!("terminate {}", TASKS[task])) else { return };
        if self.rows[task].as_ref().is_some_and(|row| row.owner == by) {
            let ended: usize = answer.expect("ended").parse().expect("a number");
            assert!(ended >= self.rows[task].as_ref().map_or(0, |row| row.all_watched.len()));
            self.end(task, "terminated");
        } else {
            let error = answer.expect_err("it is not this host's");
            assert!(error.contains("runs no task"), "{error}");
        }
    }

    fn kill_by_command(&mut self, task: usize) {
        let output = self.place.procledger(&["kill", TASKS[task]]);
        let unnoticed = match &self.rows[task] {
            None => return assert!(!output.status.success(), "{output:?}"),
            Some(row) => row.unnoticed && !row.by_keeper,
        };
        assert!(output.status.success(), "{output:?}");
        self.end(task, if unnoticed { "by itself" } else { "killed" });
    }

    fn forget(&mut self, task: usize) {
        let output = self.place.procledger(&["forget", TASKS[task]]);
        match &self.rows[task] {
            Some(row) if row.all_watched.iter().all(PidfdWatch::is_dead) => {
                assert!(output.status.success(), "{output:?}");
                self.end(task, "forgotten");
            }
            // There is none, or some of its processes are alive: nothing else leads to them.
            _ => assert!(!output.status.success(), "{output:?}"),
        }
    }

    fn die_behind_back(&mut self, task: usize) {
        let Some(row) = &mut self.rows[task] else { return };
        if row.unnoticed {
            return;
        }
        row.all_watched[0].kill();
        if let Some(own) = &mut row.own {
            own.0.wait().expect("reaped");
        }
        if self.hosts[row.owner].is_some() {
            self.end(task, "by itself");
        } else {
            row.unnoticed = true;
        }
    }

    /// A live owner has noticed by itself; for a dead one the row of a root without descendants is
    /// closed.
    fn health(&mut self, by: usize) {
        let Some(answer) = self.ask(by, "health") else { return };
        answer.expect("a pass").parse::<u32>().expect("a number");
        for task in 0..TASKS.len() {
            let is_gone =
                |row: &Row| row.unnoticed && row.all_watched.iter().all(PidfdWatch::is_dead);
            // Not for a task that is to be adopted: its owner may have stopped in good order. Nor
            // for one that a keeper has ended: the orphan pass records that.
            let row = self.rows[task].as_ref().filter(|row| !row.by_keeper);
            if row.is_some_and(|row| is_gone(row) && self.hosts[row.owner].is_none()) {
                self.end(task, "by itself");
            }
        }
    }

    /// All processes of a dead owner have ended, except those that were to survive it and are
    /// alive.
    fn orphans_end(&mut self) {
        for task in 0..TASKS.len() {
            let Some(row) = &self.rows[task] else { continue };
            if self.hosts[row.owner].is_none() && !row.survive {
                let by_itself = row.unnoticed && !row.by_keeper;
                self.end(task, if by_itself { "by itself" } else { "orphan" });
            }
        }
    }

    fn crash(&mut self, host: usize) {
        let Some(died) = self.hosts[host].take() else { return };
        died.crash();
        for row in self.rows.iter_mut().flatten().filter(|row| row.owner == host && row.kept) {
            until("its keeper has ended it", || row.all_watched.iter().all(PidfdWatch::is_dead));
            row.unnoticed = true;
            row.by_keeper = true;
        }
    }

    fn stop(&mut self, host: usize) {
        let Some(stopped) = self.hosts[host].take() else { return };
        stopped.stop();
        for task in 0..TASKS.len() {
            if self.rows[task].as_ref().is_some_and(|row| row.owner == host && !row.survive) {
                self.end(task, "shutdown");
            }
        }
    }

    fn open(&mut self, host: usize) {
        if self.hosts[host].is_some() {
            return;
        }
        let options =
            format!("program={} interval=3600000 grace=50 {}", PROGRAMS[host], self.options);
        let opened = Host::start(&self.place, &options);
        self.orphans_end();
        for task in 0..TASKS.len() {
            let Some(row) = &self.rows[task] else { continue };
            if row.owner == host && row.unnoticed {
                self.end(task, "by itself");
            }
        }
        self.hosts[host] = Some(opened);
    }

    /// The tree of a task is dead, and its row has the reason.
    fn end(&mut self, task: usize, reason: &'static str) {
        let row = self.rows[task].take().expect("a row");
        until("the whole tree is dead", || row.all_watched.iter().all(PidfdWatch::is_dead));
        self.dead.extend(row.all_watched);
        *self.ended.entry((task, reason)).or_default() += 1;
    }

    /// Compares the whole actual state with the expected one. Waits for work that a host's threads
    /// have not finished yet.
    fn compare(&mut self) {
        let expected = self.expected_rows();
        let mut seen = String::new();
        for _ in 0..100 {
            seen = self.place.sqlite3(ROWS);
            if seen == expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(seen, expected, "the ledger, and the model");
        assert!(self.dead.iter().all(PidfdWatch::is_dead));
        let alive =
            |all_watched: &[PidfdWatch]| all_watched.iter().all(|watched| !watched.is_dead());
        assert!(
            self.free.iter().all(|(all_watched, _)| alive(all_watched)),
            "what was released lives"
        );
        for row in self.rows.iter().flatten() {
            assert!(
                alive(&row.all_watched[usize::from(row.unnoticed)..]) || row.kept,
                "a tree lives"
            );
        }
        assert!(self.canary.is_running(), "a bystander lives");
    }

    fn expected_rows(&self) -> String {
        let live = |(task, row): (usize, &Option<Row>)| {
            Some(format!("live|{}|running|{}", TASKS[task], row.as_ref()?.all_watched[0].pid()))
        };
        let mut counts: BTreeMap<(usize, &str), u32> = BTreeMap::new();
        for ((task, reason), count) in &self.ended {
            *counts.entry((*task, reason)).or_default() += count;
        }
        let ended = counts
            .iter()
            .map(|((task, reason), count)| format!("ended|{}|{reason}|{count}", TASKS[*task]));
        let mut lines: Vec<String> =
            self.rows.iter().enumerate().filter_map(live).chain(ended).collect();
        lines.sort();
        lines.join("\n")
    }

    /// At the end: both hosts end in good order, and only released processes are left.
    fn finish(mut self) {
        for host in 0..PROGRAMS.len() {
            self.open(host);
        }
        for host in 0..PROGRAMS.len() {
            self.stop(host);
        }
        for task in 0..TASKS.len() {
            if self.rows[task].is_some() {
                self.kill_by_command(task);
            }
        }
        self.compare();
        let mut left = self.place.alive();
        left.retain(|pid| {
            !self
                .free
                .iter()
                .flat_map(|(all_watched, _)| all_watched)
                .any(|watched| watched.pid() == *pid)
        });
        assert_eq!(left, [0_u32; 0], "nothing else is alive");
        assert_eq!(self.place.sqlite3("SELECT * FROM pragma_integrity_check"), "ok");
        assert_eq!(self.place.sqlite3("SELECT * FROM pragma_foreign_key_check"), "");
        assert_eq!(self.place.sqlite3(LEAKS), "", "each orphan is one leak, and nothing else is");
    }
}

/// Roots, live and ended. The end of a root that could not be observed in time has two possible
/// records.
const ROWS: &str = "SELECT 'live', task_id, state, pid FROM process WHERE root IS NULL AND state <> 'ended'
    UNION ALL
    SELECT 'ended', task_id, iif(end_reason IN ('exited', 'gone'), 'by itself', end_reason) AS reason, count(*)
    FROM process WHERE root IS NULL AND state = 'ended' GROUP BY 2, 3
    ORDER BY 1, 2, 3";

/// Roots whose leaks do not match their end.
const LEAKS: &str = "SELECT p.task_id, p.end_reason, count(l.id) AS leaks
    FROM process AS p LEFT JOIN leak AS l ON l.process = p.id
    WHERE p.root IS NULL GROUP BY p.id HAVING leaks <> (p.end_reason = 'orphan')";

/// The number of sequences.
fn cases() -> u32 {
    if long() { 1500 } else { sampled(15, 40) }
}

#[test]
fn after_any_sequence_of_actions_the_ledger_matches_a_simple_model() {
    let name = "store::model::after_any_sequence_of_actions_the_ledger_matches_a_simple_model";
    if !in_namespace_with_init(name) {
        return;
    }
    let seed = std::env::var("PROCLEDGER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    eprintln!("PROCLEDGER_SEED={seed} repeats it");
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        max_shrink_iters: 60,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    });
    let usable = CONTAINMENTS.len() - usize::from(!owns_the_keeper());
    let sequences =
        (prop::sample::select(&CONTAINMENTS[..usable]), prop::collection::vec(act(), 1..25));
    let result = runner.run(&sequences, |(options, acts)| {
        let mut world = World::new(options);
        for act in acts {
            world.act(act);
            world.compare();
        }
        world.finish();
        Ok(())
    });
    if let Err(error) = result {
        panic!("PROCLEDGER_SEED={seed}: {error}");
    }
}

/// Root of a user's namespace sees that user's files as its own, and all others as owned by
/// `nobody`.
fn owns_the_keeper() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(crate::containment::keepers::KEEPER).is_ok_and(|keeper| keeper.uid() == 0)
}
