//! A protected name: the process and its descendants are left, its sibling is not.

use std::path::PathBuf;

use procledger::{Builder, ContainmentMode, Outcome, Report, Tracker};

use crate::{
    cli::command::{Running, run},
    containment::task_cgroups::can_use_cgroups,
    support::{Host, PidfdWatch, Place, at_once, is_alive, need, until},
};

/// A script with a name of its own, which starts a child: `NAME.pid` and `NAME.child` contain their
/// pids.
fn server(place: &Place, name: &str) -> PathBuf {
    let folder = place.path().display();
    let body = format!(
        "echo $$ > {folder}/{name}.pid; sleep 3600 & echo $! > {folder}/{name}.child; wait"
    );
    place.script(name, &body)
}

/// A root that starts two servers, each in a session of its own, and waits for `go`.
fn task(place: &Place) -> String {
    let (kept, ended) = (server(place, "buildserver"), server(place, "buildserver-other"));
    let folder = place.path().display();
    format!(
        "setsid {} & setsid {} & until [ -e {folder}/go ]; do sleep 0.01; done",
        kept.display(),
        ended.display()
    )
}

struct Servers {
    kept: [PidfdWatch; 2],
    ended: [PidfdWatch; 2],
}

impl Servers {
    fn of(place: &Place) -> Self {
        let both = |name: &str| ["pid", "child"].map(|what| place.watch(&format!("{name}.{what}")));
        Self { kept: both("buildserver"), ended: both("buildserver-other") }
    }

    #[track_caller]
    fn check(&self, place: &Place, kind: &str) {
        assert!(self.kept.iter().all(|watched| !watched.is_dead()), "what is protected was ended");
        assert!(self.ended.iter().all(PidfdWatch::is_dead), "its sibling was not ended");
        let rows = |watched: &PidfdWatch| {
            place.sqlite3(&format!(
                "SELECT l.kind, l.outcome, l.rule, p.end_reason, p.end_rule = l.rule, p.end_evidence = l.evidence
                 FROM leak AS l JOIN process AS p ON p.id = l.process WHERE p.pid = {}",
                watched.pid()
            ))
        };
        let rule = "its script is named buildserver, which is protected";
        assert_eq!(rows(&self.kept[0]), format!("{kind}|kept|{rule}|released|1|1"));
        // Until it execs, the child is the script as well, and is left because of its own name.
        let below = rows(&self.kept[1]);
        assert!(below.starts_with(&format!("{kind}|kept|it")), "{below}");
        assert!(below.ends_with(&format!("{rule}|released|1|1")), "{below}");
        assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
    }
}

fn builder(place: &Place) -> Builder {
    Tracker::builder(place.ledger()).protect("buildserver")
}

fn kept(report: &Report) -> u64 {
    report.count(Outcome::Kept)
}

#[test]
fn a_protected_stray_is_left_when_its_root_ends() {
    let place = Place::new();
    let tracker = builder(&place).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("task", &task(&place))).expect("spawned");
    let servers = Servers::of(&place);
    std::fs::write(place.path().join("go"), "").expect("the sign");
    process.wait().expect("ended");
    until("the strays are seen to", || tracker.executing_count() == 0);
    servers.check(&place, "stray");
}

#[test]
fn a_protected_descendant_is_left_when_its_tree_is_terminated() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    // For this job alone.
    let job = place.job("task", &task(&place)).protect("buildserver");
    tracker.spawn(job).expect("spawned");
    let servers = Servers::of(&place);
    let report = tracker.terminate("task").expect("terminated");
    assert_eq!(kept(&report), 2, "{report:?}");
    assert_eq!(report.survived(), 0, "{report:?}");
    servers.check(&place, "stray");
}

/// With a row it would be ended by an instance that cleans up and protects nothing.
#[test]
fn a_health_pass_does_not_record_protected_processes() {
    let place = Place::new();
    let mut host = Host::start(&place, "protect=buildserver");
    host.spawn("task", &task(&place));
    let servers = Servers::of(&place);
    until("its sibling is recorded", || {
        host.ask("health");
        let pid = servers.ended[1].pid();
        place.sqlite3(&format!("SELECT count(*) FROM process WHERE pid = {pid}")) == "1"
    });
    for watched in &servers.kept {
        let pid = watched.pid();
        assert_eq!(place.sqlite3(&format!("SELECT count(*) FROM process WHERE pid = {pid}")), "0");
    }
    host.crash();
    Host::start(&place, "protect=buildserver").stop();
    servers.check(&place, "orphan");
}

/// It was recorded by a pass that did not protect it; the instance that ends the tree does.
#[test]
fn a_recorded_process_is_left_by_an_instance_that_protects_its_name() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    host.spawn("task", &task(&place));
    let servers = Servers::of(&place);
    until("all are recorded", || {
        host.ask("health");
        let pids =
            servers.kept.iter().chain(&servers.ended).map(|watched| watched.pid().to_string());
        let pids: Vec<String> = pids.collect();
        let rows = format!("SELECT count(*) FROM process WHERE pid IN ({})", pids.join(", "));
        place.sqlite3(&rows) == "4"
    });
    host.crash();
    let planned = place.procledger(&["reap", "--dry-run", "--protect", "buildserver"]);
    let planned = String::from_utf8(planned.stdout).expect("text");
    assert!(planned.contains("leave running") && planned.contains("kept 2"), "{planned}");
    let done = place.procledger(&["reap", "--protect", "buildserver"]);
    let done = String::from_utf8(done.stdout).expect("text");
    assert!(done.contains("kept running") && done.contains("kept 2"), "{done}");
    servers.check(&place, "orphan");
    // A process that was left stays for good, also when an instance protects nothing.
    place.procledger(&["reap"]);
    servers.check(&place, "orphan");
}

#[test]
fn a_tmux_outlives_the_crash_of_its_host_and_the_reap() {
    need!("tmux");
    let place = Place::new();
    let folder = place.path().display();
    let socket = place.path().join("tmux.sock");
    let mut host = Host::start(&place, "protect=tmux");
    let script = format!(
        "tmux -S {} -f /dev/null new-session -d 'echo $$ > {folder}/window; exec sleep 3600'; \
         setsid sleep 3600 & echo $! > {folder}/sibling; wait",
        socket.display()
    );
    let root = host.spawn("task", &script);
    let (window, sibling) = (place.watch("window"), place.watch("sibling"));
    host.crash();
    let next = Host::start(&place, "protect=tmux");
    assert!(root.is_dead() && sibling.is_dead());
    assert!(!window.is_dead(), "the window of a protected tmux was ended");
    let rule = "SELECT count(*) FROM leaks WHERE outcome = 'kept' AND rule LIKE '%named tmux, which is protected'";
    assert_eq!(place.sqlite3(rule), "2", "{}", place.sqlite3("SELECT * FROM leaks"));
    next.stop();
    assert!(!window.is_dead());
    window.kill();
    until("the server ends with its last window", || !socket.exists() || place.alive().is_empty());
}

/// Protection applies to what a task leaves; the task itself ends on request.
#[test]
fn a_root_with_a_protected_name_is_ended() {
    let place = Place::new();
    let tracker = builder(&place).open().expect("a ledger");
    let job = procledger::Job::new("task", server(&place, "buildserver"))
        .env("PROCLEDGER_IT_MARKER", place.marker())
        .stdin(procledger::Stdio::null());
    let root = tracker.spawn(job).expect("spawned").pid().get();
    let [shell, child] = ["pid", "child"].map(|what| place.watch(&format!("buildserver.{what}")));
    assert_eq!(shell.pid(), root);
    let report = tracker.terminate("task").expect("terminated");
    assert!(shell.is_dead() && child.is_dead() && kept(&report) == 0, "{report:?}");
}

/// W1 for protection: text in a command line protects nothing.
#[test]
fn a_look_alike_is_not_protected() {
    let place = Place::new();
    let tracker = builder(&place).open().expect("a ledger");
    let script = "/bin/sh -c 'echo $$ > alike; while :; do sleep 1; done; buildserver' & wait";
    tracker.spawn(place.job("task", script)).expect("spawned");
    let alike = place.watch("alike");
    tracker.terminate("task").expect("terminated");
    assert!(alike.is_dead());
}

#[test]
fn a_task_that_left_a_protected_process_can_run_again() {
    let place = Place::new();
    let tracker = builder(&place).open().expect("a ledger");
    tracker.spawn(place.job("task", &task(&place))).expect("spawned");
    let servers = Servers::of(&place);
    tracker.terminate("task").expect("terminated");
    let again = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned again");
    assert!(is_alive(again.pid().get()));
    tracker.shutdown().expect("shut down");
    assert!(servers.kept.iter().all(|watched| !watched.is_dead()));
}

#[test]
fn a_protected_name_with_a_folder_is_refused() {
    let place = Place::new();
    let error = Tracker::builder(place.ledger()).protect("/usr/bin/tmux").open();
    let error = error.expect_err("refused").to_string();
    assert_eq!(
        error,
        "the protected name \"/usr/bin/tmux\" is not a file name: use a name without folders"
    );
    assert!(!place.ledger().exists());
    for command in ["run", "reap", "watch", "kill"] {
        let output = place.procledger(&[command, "--protect", "a/b"]);
        assert_eq!(output.status.code(), Some(2), "{command}");
    }
}

/// Then the cgroup cannot be killed as a whole: its members are ended one by one, and it does not
/// stay frozen.
#[test]
fn protected_processes_in_a_cgroup_are_left_and_all_others_are_ended() {
    if !crate::containment::task_cgroups::can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let tracker = builder(&place).containment(ContainmentMode::Cgroup).open().expect("a ledger");
    let folder = place.path().display();
    let server = place.script("buildserver", "sleep 3600; exit");
    // It ignores SIGTERM and starts another one all the time.
    let script = format!(
        "trap '' TERM; while :; do {} & touch {folder}/up; sleep 0.01; done",
        server.display()
    );
    tracker.spawn(place.job("task", &script)).expect("spawned");
    place.wait_for("up");
    let cgroup = std::path::PathBuf::from(place.sqlite3("SELECT cgroup FROM process"));
    let report = tracker.terminate("task").expect("terminated");
    assert!(report.survived() == 0 && kept(&report) > 0, "{report:?}");
    let frozen = std::fs::read_to_string(cgroup.join("cgroup.freeze")).expect("it is in use");
    assert_eq!(frozen.trim(), "0");
    let inside = std::fs::read_to_string(cgroup.join("cgroup.procs")).expect("it is in use");
    let kept: Vec<u32> = report
        .endings
        .iter()
        .filter(|ending| ending.outcome == Outcome::Kept)
        .map(|ending| ending.pid.get())
        .collect();
    for pid in inside.lines().map(|pid| pid.parse::<u32>().expect("a pid")) {
        // Processes that it starts itself belong to it, whenever they start.
        let parent = crate::support::parent(pid).unwrap_or(pid);
        let is_kept = kept.contains(&pid) || kept.contains(&parent);
        assert!(is_kept, "{pid} was neither ended nor kept: {report:?}");
    }
}

/// Their rows, which belong to the owner of the task, stayed `running`, and no leak was recorded.
#[test]
fn a_reap_ended_what_a_kill_of_another_instance_had_protected() {
    let containments =
        ["session", "keeper"].into_iter().chain(can_use_cgroups().then_some("cgroup"));
    at_once(containments, |containment| {
        let place = Place::new();
        let server = server(&place, "buildserver");
        let script =
            format!("setsid {} >/dev/null 2>&1 & echo ready; sleep 3600", server.display());
        let owner = Running::start(&place, "task", &["--containment", containment], &script);
        let kept = ["pid", "child"].map(|what| place.watch(&format!("buildserver.{what}")));
        run(&place, &["kill", "task", "--protect", "buildserver"]).expect(0);
        owner.finish().expect(128 + 15);
        for _ in 0..2 {
            assert!(kept.iter().all(|watched| !watched.is_dead()), "{containment}");
            let live = "SELECT count(*) FROM process WHERE state <> 'ended'";
            assert_eq!(place.sqlite3(live), "0", "{containment}");
            let leaks = "SELECT kind, outcome, rule_key, count(*) FROM leak GROUP BY 1, 2, 3";
            assert_eq!(place.sqlite3(leaks), "stray|kept|protected|2", "{containment}");
            run(&place, &["reap"]).expect(0);
        }
    });
}
