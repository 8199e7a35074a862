//! Real programs that leave their task in the ways that real ones do, in one task: the host is killed, or the root ends
//! well and leaves them all. Beside them run some of the same programs that no ledger knows, and those have to live.
//!
//! Each scenario runs in a PID namespace of its own, so that the oracle can count everything, and so that all of it dies
//! with the test.

mod cast;
mod oracle;

use std::{
    collections::HashSet,
    fs,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use cast::{Actor, CAST};
use oracle::{Seen, Who, everybody, left};

use crate::{
    containment::leaves::leaves,
    support::{Eye, Guard, Host, Place, in_namespace, in_namespace_as_a_user, root, until},
};

/// What session mode may lose or has to leave alone, by the README's section on what escapes: `redis-server`, `nginx` and
/// the hidden daemon have left their session and environment before any pass saw them; `tmux` is tied by its token alone
/// and serves a terminal; `ssh-agent` keeps its environment secret from its own user.
const NAMED_IN_THE_README: [&str; 6] =
    ["redis-server", "nginx", "hidden-daemon", "tmux: server", "tmux-window", "ssh-agent"];
/// What a root leaves has to be gone by then.
const AFTER_ITS_ROOT: Duration = Duration::from_secs(1);

/// The task, running, and the strangers beside it.
struct Stage {
    containment: &'static str,
    place: Place,
    host: Host,
    root: Eye,
    /// All of the task, the root too.
    company: Vec<Seen>,
    strangers: Vec<Seen>,
    /// The host and the strangers.
    others: HashSet<u32>,
    /// What started the strangers.
    _shell: Guard,
}

impl Stage {
    fn set(containment: &'static str) -> Self {
        let place = Place::new();
        let actors = cast::present(&CAST);
        let (shell, strangers) = strangers(&place);
        let named = if containment == "keeper" { " keeper" } else { "" };
        let mut host = Host::start(&place, &format!("containment={containment}{named}"));
        let others = strangers.iter().map(|seen| seen.who.pid).chain([host.pid()]).collect();
        let folder = folder(&place, "task");
        let root = host.spawn("play", &cast::write_script(&actors, &folder));
        cast::wait_until_up(&actors, &folder);
        let company = everybody(&others);
        for Actor { name, trace, .. } in actors {
            let is_it = |who: &Who| who.name.contains(trace) || who.command.contains(trace);
            let plays = company.iter().any(|seen| is_it(&seen.who));
            assert!(plays, "no {name} in {:#?}", all(&company));
        }
        let rows = "SELECT containment FROM process WHERE root IS NULL";
        assert_eq!(place.sqlite3(rows), containment, "the row says how it is contained");
        Self { containment, place, host, root, company, strangers, others, _shell: shell }
    }

    /// Nobody is left but, in session mode, whom the README names; and no stranger was hit.
    fn assert_clean(&self) {
        let has_gone = |seen: &Seen| !is_keeper(seen) || seen.eye.is_dead();
        until("the keeper has gone after its tree", || self.company.iter().all(has_gone));
        let left = left(&self.company, &self.others);
        let may_be_left = |who: &&Who| {
            self.containment == "session" && NAMED_IN_THE_README.contains(&who.name.as_str())
        };
        let lost: Vec<_> = left.iter().filter(|who| !may_be_left(who)).collect();
        assert!(lost.is_empty(), "left in {} mode: {lost:#?}", self.containment);
        let hit: Vec<_> = self.strangers.iter().filter(|seen| seen.eye.is_dead()).collect();
        assert!(hit.is_empty(), "strangers were hit: {:#?}", all(hit));
        println!("{}: {} played, left: {left:?}", self.containment, self.company.len());
    }

    /// Who died is in the leak report, with the task.
    fn assert_reported(&self) {
        let leaks = self.place.sqlite3("SELECT pid FROM leaks WHERE task_id = 'play'");
        let leaks: HashSet<u32> = leaks.lines().map(|pid| pid.parse().expect("a pid")).collect();
        let is_missing = |seen: &&Seen| {
            let pid = seen.who.pid;
            let is_of_the_task = pid != self.root.pid() && !is_keeper(seen);
            is_of_the_task && seen.eye.is_dead() && !leaks.contains(&pid)
        };
        let missing: Vec<_> = self.company.iter().filter(is_missing).collect();
        let rows = "SELECT pid, end_reason, exit_code, exit_signal, command FROM process";
        assert!(
            missing.is_empty(),
            "not in the leak report: {:#?}\n{}",
            all(missing),
            self.place.sqlite3(rows)
        );
    }
}

/// The kernel keeps 15 bytes of `procledger-keeper`.
fn is_keeper(seen: &Seen) -> bool {
    seen.who.name == "procledger-keep"
}

fn all<'a>(seen: impl IntoIterator<Item = &'a Seen>) -> Vec<&'a Who> {
    seen.into_iter().map(|seen| &seen.who).collect()
}

/// The daemons of the cast once more, started by nobody that a ledger knows. Not those that take their time to start.
fn strangers(place: &Place) -> (Guard, Vec<Seen>) {
    let mut actors = cast::present(&CAST);
    actors.retain(|actor| actor.is_small);
    let folder = folder(place, "strangers");
    let shell = place.child(&cast::write_script(&actors, &folder));
    cast::wait_until_up(&actors, &folder);
    let seen = everybody(&HashSet::new());
    assert!(seen.len() > actors.len(), "{:#?}", all(&seen));
    (shell, seen)
}

fn folder(place: &Place, name: &str) -> PathBuf {
    let folder = place.path().join(name);
    fs::create_dir(&folder).expect("a folder");
    folder
}

/// The host is killed: after one `reap` nobody is left.
fn a_host_is_killed(containment: &'static str) {
    let stage = Stage::set(containment);
    Eye::on(stage.host.pid()).kill();
    let output = stage.place.procledger(&["reap", "--json"]);
    assert!(output.status.success(), "{output:?}");
    stage.assert_clean();
    stage.assert_reported();
    // What could not be verified is told and counted.
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let suspects = report["suspects"].as_array().expect("a list");
    assert_eq!(suspects.is_empty(), containment != "session", "{suspects:?}");
    let report = stage.place.procledger(&["report"]);
    let told = String::from_utf8(report.stderr).expect("text");
    let doubt = "1 of these trees was contained by a session only";
    assert_eq!(told.contains(doubt), containment == "session", "{told}");
}

/// The root ends with 0: how long after it the last one is gone that has to go.
fn a_root_ends_well(containment: &'static str) -> Duration {
    let stage = Stage::set(containment);
    let go = stage.place.path().join("task/go");
    let mut go = fs::File::options().write(true).open(go).expect("a FIFO");
    writeln!(go).expect("the root listens");
    until("the root has ended", || stage.root.is_dead());
    let ended = Instant::now();
    let has_to_go: Vec<&Seen> = stage
        .company
        .iter()
        .filter(|seen| {
            containment != "session" || !NAMED_IN_THE_README.contains(&seen.who.name.as_str())
        })
        .collect();
    until("all are gone", || has_to_go.iter().all(|seen| seen.eye.is_dead()));
    let took = ended.elapsed();
    let pending = "SELECT count(*) FROM process WHERE state <> 'ended'";
    until("it is recorded", || stage.place.sqlite3(pending) == "0");
    let status = "SELECT end_reason, exit_code FROM process WHERE root IS NULL";
    assert_eq!(stage.place.sqlite3(status), "exited|0");
    stage.assert_clean();
    stage.assert_reported();
    took
}

/// One of three: a busy machine delays everybody. That nobody is left holds each time.
fn within_a_second(containment: &'static str) {
    let mut took = Vec::new();
    while !took.iter().any(|took| *took <= AFTER_ITS_ROOT) {
        assert!(took.len() < 3, "they took {took:?}");
        took.push(a_root_ends_well(containment));
    }
    println!("gone {took:?} after their root");
}

#[test]
fn a_killed_hosts_programs_in_session_mode() {
    if in_namespace("containment::real_programs::a_killed_hosts_programs_in_session_mode") {
        a_host_is_killed("session");
    }
}

/// Whose daemons he may not look into: `ssh-agent` forbids it.
#[test]
fn a_killed_hosts_programs_in_session_mode_of_an_ordinary_user() {
    let test =
        "containment::real_programs::a_killed_hosts_programs_in_session_mode_of_an_ordinary_user";
    if in_namespace_as_a_user(test) {
        a_host_is_killed("session");
    }
}

#[test]
fn a_killed_hosts_programs_in_a_leaf() {
    if in_namespace("containment::real_programs::a_killed_hosts_programs_in_a_leaf") && leaves() {
        a_host_is_killed("cgroup");
    }
}

/// An ordinary user can make a PID namespace only as root of a user namespace, and such a root is refused a keeper that the
/// machine's root owns: the user's turn is the next test, in a namespace that root makes.
fn in_namespace_with_keepers(test: &str) -> bool {
    root() && in_namespace(test)
}

#[test]
fn a_killed_hosts_programs_under_a_keeper() {
    if in_namespace_with_keepers(
        "containment::real_programs::a_killed_hosts_programs_under_a_keeper",
    ) {
        a_host_is_killed("keeper");
    }
}

#[test]
fn a_killed_hosts_programs_under_a_keeper_of_an_ordinary_user() {
    let test =
        "containment::real_programs::a_killed_hosts_programs_under_a_keeper_of_an_ordinary_user";
    if in_namespace_as_a_user(test) {
        a_host_is_killed("keeper");
    }
}

#[test]
fn what_a_root_leaves_under_a_keeper() {
    if in_namespace_with_keepers("containment::real_programs::what_a_root_leaves_under_a_keeper") {
        within_a_second("keeper");
    }
}

#[test]
fn what_a_root_leaves_in_session_mode() {
    if in_namespace("containment::real_programs::what_a_root_leaves_in_session_mode") {
        within_a_second("session");
    }
}

#[test]
fn what_a_root_leaves_in_a_leaf() {
    if in_namespace("containment::real_programs::what_a_root_leaves_in_a_leaf") && leaves() {
        within_a_second("cgroup");
    }
}
