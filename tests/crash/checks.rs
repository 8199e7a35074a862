//! What has to hold after a crash. The kernel reports which processes live, and the programs
//! themselves report which ran; the ledger is read from copies, so that reading it repairs nothing.

use std::{collections::HashSet, fs, path::Path, time::Duration};

use rusqlite::{Connection, types::Value};

use crate::{
    trial::{Fixture, Outcome, Strike, Trial, restart},
    workload::Part,
    world::{PATIENCE, PidfdWatch, describe, is_alive, live_processes, parent, within},
};

/// A keeper exits after its tree; nothing waits for it.
const KEEPER_GOES: Duration = Duration::from_secs(10);
/// A child at the gate never becomes a program, and dies once it is scheduled after its host: on a
/// machine under load that may be after the next host has opened the ledger. It has the image of
/// this binary; no other process is given this time.
const GATE_CHILD_GOES: Duration = Duration::from_secs(2);

pub(crate) fn after(fixture: &mut Fixture, trial: &Trial, mut outcome: Outcome) -> Outcome {
    let part = fixture.last_part(trial);
    let mut found = Vec::new();
    let said = Said::read(&trial.folder);
    if matches!(trial.strike, Strike::Never) && !said.all.contains(&"shutdown".into()) {
        found.push("the host did not come to its end".into());
    }
    check_export(&part, &mut found);
    check_ledger(&part, "after the crash", &said, &mut found);
    check_restart(fixture, &part, "the first restart", &mut found);
    let first = check_ledger(&part, "after a restart", &said, &mut found);
    check_restart(fixture, &part, "the second restart", &mut found);
    let second = check_ledger(&part, "after a second restart", &said, &mut found);
    check_unchanged(&first, &second, &mut found);
    check_runs(&trial.folder, &second, &mut found);
    check_files(&trial.folder, &second, &mut found);
    let recorded = recorded(&part.ledger());
    let unrelated = fixture.foreign.iter().filter(|foreign| !recorded.contains(&foreign.pid()));
    for process in unrelated.filter(|process| process.is_dead()) {
        found.push(format!("unrelated process killed: {} was never registered", process.pid()));
    }
    for canary in fixture.canaries.iter().filter(|canary| canary.is_dead()) {
        found.push(format!("unrelated process killed: canary {}", canary.pid()));
    }
    outcome.findings.extend(found);
    outcome
}

/// The actions that the hosts knew to be complete.
struct Said {
    all: Vec<String>,
}

impl Said {
    fn read(folder: &Path) -> Self {
        let said = fs::read_to_string(folder.join("said")).unwrap_or_default();
        Self { all: said.lines().map(str::to_owned).collect() }
    }

    /// Task and pid of each such action.
    fn about(&self, verb: &str) -> Vec<(&str, &str)> {
        let of_verb = |line: &'_ String| line.split(' ').next() == Some(verb);
        let words = self.all.iter().filter(|line| of_verb(line)).map(|line| line.split(' '));
        words.filter_map(|mut words| Some((words.nth(1)?, words.next()?))).collect()
    }
}

/// Checks that the file is absent or complete.
fn check_export(part: &Part, found: &mut Vec<String>) {
    let Ok(text) = fs::read(part.export()) else { return };
    let list: Result<Vec<serde_json::Value>, _> = serde_json::from_slice(&text);
    match list {
        Ok(list) if list.iter().all(|entry| entry["process_id"].is_u64()) => {}
        other => found.push(format!("the export is neither absent nor whole: {other:?}")),
    }
}

/// The whole content of the ledger, as text.
#[derive(Debug, Default, PartialEq)]
struct Dump {
    instances: Vec<String>,
    processes: Vec<String>,
    leaks: Vec<String>,
    /// Pid and token of each root.
    tokens: HashSet<String>,
    /// Task, pid and state of each root.
    roots: HashSet<(String, String, String)>,
    /// Folders that instances have recorded.
    cgroups: Vec<String>,
}

fn check_ledger(part: &Part, when: &str, said: &Said, found: &mut Vec<String>) -> Dump {
    match look(&part.ledger(), found, when) {
        Ok(dump) => {
            check_rows(&dump, when, said, found);
            dump
        }
        Err(error) => {
            // A ledger that was being set up has no tables yet.
            if said.all.iter().any(|line| line == "open") {
                found.push(format!("{when}: the ledger cannot be read: {error}"));
            }
            Dump::default()
        }
    }
}

/// Checks that everything the host knew to be recorded is in the ledger.
fn check_rows(dump: &Dump, when: &str, said: &Said, found: &mut Vec<String>) {
    let has = |task: &str, pid: &str, states: &[&str]| {
        let row = |state: &&str| (task.to_owned(), pid.to_owned(), (*state).to_owned());
        states.iter().any(|state| dump.roots.contains(&row(state)))
    };
    let states = ["running", "ending", "survived", "ended"];
    let begun = said.about("spawn").into_iter().chain(said.about("register"));
    for (task, pid) in begun.filter(|(task, pid)| !has(task, pid, &states)) {
        found.push(format!("{when}: lost row: {task} {pid} was recorded"));
    }
    for (task, pid) in said.about("end") {
        if !has(task, pid, &["ended"]) {
            found.push(format!("{when}: lost end: {task} {pid} had ended"));
        }
    }
}

fn look(ledger: &Path, found: &mut Vec<String>, when: &str) -> rusqlite::Result<Dump> {
    let folder = ledger.with_file_name("copy");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder");
    for suffix in ["", "-wal"] {
        let name = format!("ledger.db{suffix}");
        // Missing files are not copied.
        let _ = fs::copy(ledger.with_file_name(&name), folder.join(&name));
    }
    let copy = Connection::open(folder.join("ledger.db"))?;
    let integrity = rows(&copy, "PRAGMA integrity_check")?;
    if integrity != ["[Text(\"ok\")]"] {
        found.push(format!("{when}: integrity_check: {integrity:?}"));
    }
    let foreign = rows(&copy, "PRAGMA foreign_key_check")?;
    if !foreign.is_empty() {
        found.push(format!("{when}: foreign_key_check: {foreign:?}"));
    }
    let dump = Dump {
        instances: rows(&copy, "SELECT * FROM instance ORDER BY id")?,
        processes: rows(&copy, "SELECT * FROM process ORDER BY id")?,
        leaks: rows(&copy, "SELECT * FROM leak ORDER BY id")?,
        tokens: tokens(&copy)?,
        roots: roots(&copy)?,
        cgroups: cgroups(&copy)?,
    };
    drop(copy);
    fs::remove_dir_all(&folder).expect("removed");
    Ok(dump)
}

fn rows(ledger: &Connection, query: &str) -> rusqlite::Result<Vec<String>> {
    let mut query = ledger.prepare(query)?;
    let width = query.column_count();
    let rows = query.query_map([], |row| {
        let values = (0..width).map(|column| row.get::<_, Value>(column));
        Ok(format!("{:?}", values.collect::<rusqlite::Result<Vec<_>>>()?))
    })?;
    rows.collect()
}

fn tokens(ledger: &Connection) -> rusqlite::Result<HashSet<String>> {
    let query = "SELECT pid || ' ' || replace(token, '-', '') FROM process WHERE token IS NOT NULL";
    ledger.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

fn roots(ledger: &Connection) -> rusqlite::Result<HashSet<(String, String, String)>> {
    let query = "SELECT task_id, pid || '', state FROM process WHERE root IS NULL";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    ledger.prepare(query)?.query_map([], row)?.collect()
}

fn cgroups(ledger: &Connection) -> rusqlite::Result<Vec<String>> {
    let query = "SELECT cgroup FROM instance WHERE cgroup IS NOT NULL";
    ledger.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

/// When `open` has returned, nothing of the workload is alive; a process that was never recorded
/// must not be ended.
fn check_restart(fixture: &mut Fixture, part: &Part, when: &str, found: &mut Vec<String>) {
    let opened = || {
        let said = fs::read_to_string(part.folder.join("said")).unwrap_or_default();
        said.matches("reopen ").count()
    };
    let before = opened();
    let (host, input) = restart(part);
    let up = within(PATIENCE, || {
        fixture.reap();
        opened() > before || host.is_dead()
    });
    if !up || host.is_dead() {
        found.push(format!("{when}: the ledger was not opened"));
    }
    let mut left = left(fixture, part, host.pid());
    left.retain(|&pid| !is_at_the_gate(pid) || !within(GATE_CHILD_GOES, || !is_alive(pid)));
    if !left.is_empty() {
        let left: Vec<String> = left.into_iter().map(describe).collect();
        found.push(format!("{when}: leaked: {left:?}"));
    }
    drop(input);
    let status = fixture.wait(host.pid());
    if status != 0 {
        found.push(format!("{when}: the host failed: wait status {status}"));
    }
    let is_keeper = |pid: &u32| describe(*pid).contains("procledger-keep");
    let gone = within(KEEPER_GOES, || {
        fixture.reap();
        !live_processes().iter().any(is_keeper)
    });
    if !gone {
        found.push(format!("{when}: leaked: a keeper"));
    }
    if part.export().exists() {
        found.push(format!("{when}: the export was left by a clean shutdown"));
    }
}

/// Live processes besides the host and those that are in no ledger.
fn left(fixture: &mut Fixture, part: &Part, host: u32) -> Vec<u32> {
    fixture.reap();
    let recorded = recorded(&part.ledger());
    let mut spared: HashSet<u32> = fixture.canaries.iter().map(PidfdWatch::pid).collect();
    spared.insert(host);
    for foreign in &fixture.foreign {
        if !recorded.contains(&foreign.pid()) {
            spared.insert(foreign.pid());
        }
    }
    let is_spared = |pid: u32| {
        spared.contains(&pid) || parent(pid).is_some_and(|parent| spared.contains(&parent))
    };
    let all = live_processes().into_iter().filter(|&pid| !is_spared(pid));
    all.filter(|&pid| !describe(pid).contains("procledger-keep")).collect()
}

fn is_at_the_gate(pid: u32) -> bool {
    let own = std::env::current_exe().expect("this binary");
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|image| image == own)
}

/// Pids that are registered, in any state.
fn recorded(ledger: &Path) -> HashSet<u32> {
    let ask = || -> rusqlite::Result<HashSet<u32>> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = Connection::open_with_flags(ledger, flags)?;
        ledger.busy_timeout(Duration::from_secs(5))?;
        let query = "SELECT pid FROM process WHERE origin = 'registered'";
        ledger.prepare(query)?.query_map([], |row| row.get(0))?.collect()
    };
    ask().unwrap_or_default()
}

/// A second restart adds only itself and its pass.
fn check_unchanged(first: &Dump, second: &Dump, found: &mut Vec<String>) {
    if first.processes != second.processes || first.leaks != second.leaks {
        found.push(format!("a second restart changed the ledger:\n{first:#?}\n{second:#?}"));
    }
    if !second.instances.starts_with(&first.instances) {
        let (first, second) = (&first.instances, &second.instances);
        found.push(format!("a second restart changed instances:\n{first:#?}\n{second:#?}"));
    }
    let live = second.roots.iter().filter(|(_, _, state)| state != "ended");
    for row in live {
        found.push(format!("a row is not ended: {row:?}"));
    }
}

/// Checks that every program that ran has a row.
fn check_runs(folder: &Path, dump: &Dump, found: &mut Vec<String>) {
    let runs = fs::read_to_string(folder.join("runs")).unwrap_or_default();
    for line in runs.lines().filter(|line| !dump.tokens.contains(&line.replace('-', ""))) {
        found.push(format!("a program ran without a row: {line}"));
    }
}

/// Checks that nothing is left beside the ledger, nor any of its cgroups.
fn check_files(folder: &Path, dump: &Dump, found: &mut Vec<String>) {
    let ours = ["said", "runs", "worker", "copy", "canary-1", "canary-2", "foreign-0", "foreign-1"];
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("text");
        let is_known = ours.contains(&name.as_str())
            || name == "trial.log"
            || ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-setup.lock"]
                .contains(&name.as_str());
        if !is_known {
            found.push(format!("a file is left: {name}"));
        }
    }
    for cgroup in dump.cgroups.iter().filter(|cgroup| Path::new(cgroup).exists()) {
        found.push(format!("a cgroup is left: {cgroup}"));
    }
}
