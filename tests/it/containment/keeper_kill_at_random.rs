//! Hosts are killed at random instants around a spawn under a keeper. Afterwards, without any reap:
//! no program has run without a row, no program is left, and no keeper is left.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::Write,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use procledger::{ContainmentMode, Job, Tracker};

use crate::{
    containment::keepers::KEEPER,
    spawn::gate_host::{self, Given, kill_at_random},
    support::{Place, at_once, pids, sampled, sqlite3, until},
};

/// Two cores.
const WORKERS: u32 = 2;
const TRIAL: &str = "PROCLEDGER_IT_TRIAL";

/// Spawns until it is killed; prints `b` when it begins a spawn, `r` when the spawn returns.
pub(crate) fn host(given: &Given) {
    let trial = std::env::var(TRIAL).expect("a number");
    let tracker = Tracker::builder(given.folder.join(format!("ledger-{trial}.db")))
        .containment(ContainmentMode::Keeper)
        .keeper(given.folder.join("procledger-keeper"))
        .open()
        .expect("a ledger");
    let say = |letter: &str| {
        let mut out = std::io::stdout().lock();
        out.write_all(letter.as_bytes()).and_then(|()| out.flush()).expect("a reader");
    };
    say("\n>>");
    for number in 0_u32.. {
        let script = r#"echo "$$ $PROCLEDGER_TOKEN" >>"$1"; (setsid env -i sh -c 'sleep 600' "$0" &); exec sleep 600"#;
        let job = Job::new(format!("task-{number}"), "/bin/sh")
            .args(["-c", script, &format!("{}-trial-{trial}-", given.marker)])
            .arg(given.folder.join(format!("runs-{trial}")))
            .stdin(procledger::Stdio::null())
            .stdout(procledger::Stdio::null())
            .stderr(procledger::Stdio::null());
        say("b");
        tracker.spawn(job).expect("a program");
        say("r");
    }
}

#[test]
fn no_program_runs_unrecorded_and_no_program_or_keeper_is_left() {
    // Kills; each is one host.
    let trials = sampled(50, 200);
    let (next, struck) = (AtomicU32::new(0), Mutex::new(BTreeMap::<&str, u32>::new()));
    at_once(0..WORKERS, |_| {
        let place = Place::new();
        // A copy of the executable, so that keepers of this worker can be identified by it.
        fs::copy(KEEPER, place.path().join("procledger-keeper")).expect("a copy");
        loop {
            let trial = next.fetch_add(1, Ordering::Relaxed);
            // On a busy machine most kills come before the row, so it takes more of them to hit
            // both sides.
            let is_over = |struck| trial >= trials && hit_both(struck, trials);
            if trial >= 4 * trials || is_over(&struck.lock().expect("no panic")) {
                return;
            }
            let at = strike(&place, trial);
            *struck.lock().expect("no panic").entry(at).or_default() += 1;
        }
    });
    let struck = struck.into_inner().expect("no panic");
    eprintln!("{} kills struck {struck:?}", struck.values().sum::<u32>());
    assert!(hit_both(&struck, trials), "the kills hit one side only: {struck:?}");
}

/// Whether enough of the kills came before the row of their program, and after it.
fn hit_both(struck: &BTreeMap<&str, u32>, trials: u32) -> bool {
    let before = struck.get("before a row").copied().unwrap_or(0);
    let outside = struck.get("outside").copied().unwrap_or(0);
    let after = struck.values().sum::<u32>() - before - outside;
    before > trials / 20 && after > trials / 20
}

fn strike(place: &Place, trial: u32) -> &'static str {
    let mut host = gate_host::command(place, "kept-at-random");
    let said = kill_at_random(host.env(TRIAL, trial.to_string()), 25_000, |_| true);
    until("no keeper is left", || keepers(place.path()).is_empty());
    until("no program is left", || place.alive().is_empty());
    let ledger = place.path().join(format!("ledger-{trial}.db"));
    let rows = sqlite3(&ledger, "SELECT pid || ' ' || replace(token, '-', '') FROM process");
    let rows: HashSet<&str> = rows.lines().collect();
    let runs = fs::read_to_string(place.path().join(format!("runs-{trial}"))).unwrap_or_default();
    for line in runs.lines() {
        assert!(rows.contains(line), "trial {trial}: {line} ran without a row: {rows:?}");
    }
    let (begun, returned) = (said.matches('b').count(), said.matches('r').count());
    assert!(rows.len() >= returned && rows.len() <= begun, "{rows:?}: {said}");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(place.path().join(format!("ledger-{trial}.db{suffix}")));
    }
    match (begun > returned, rows.len() > returned, runs.lines().count() > returned) {
        (false, ..) => "outside",
        (true, false, _) => "before a row",
        (true, true, false) => "before the program said so",
        (true, true, true) => "before the host knew",
    }
}

/// Keepers of this test, gated children among them.
fn keepers(folder: &Path) -> Vec<u32> {
    let binary = folder.join("procledger-keeper");
    let runs_it =
        |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary);
    pids().into_iter().filter(runs_it).collect()
}
