//! Every way to end a tree sends the stop signals of its job in their order, unless the call names
//! others.

use std::{fs, time::Duration};

use procledger::{Containment, EndPlan, EndReason, ExitStatus, Job, Outcome, Process, Tracker};

use crate::{
    containment::keepers::KEEPER,
    spawn::{
        attributes::{trackers, trackers_with},
        gate_host::{self, Given},
    },
    support::{Guard, PidfdWatch, Place, until},
};

const FIRST: Duration = Duration::from_millis(100);
/// Longer than any test.
const LAST: Duration = Duration::from_mins(10);
/// SIGHUP, then SIGTERM.
const STOP: [(i32, Duration); 2] = [(libc::SIGHUP, FIRST), (libc::SIGTERM, LAST)];

/// Writes each SIGHUP and SIGTERM to the file `got` with its own name, `$1`, and ends by SIGTERM;
/// starts no process. It is ready once the file of its name exists.
const LISTENS: &str = "exec 3<>never; trap 'echo HUP $1 >> got' HUP; trap 'echo TERM $1 >> got; exit 7' TERM; \
    echo $$ > $1; while :; do read x <&3; done";

/// A root, a child in its session, and a daemon in a session of its own whose parent has exited.
const NAMES: [&str; 3] = ["root", "child", "daemon"];

pub(crate) fn prepare(place: &Place) {
    let fifo = place.path().join("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    place.script("listens", LISTENS);
}

/// The tree of [`NAMES`], which is to be ended by [`STOP`].
pub(crate) fn tree(folder: &std::path::Path, marker: &str) -> Job {
    let script = "(setsid ./listens daemon &); ./listens child & exec ./listens root";
    Job::new("tree", "/bin/sh")
        .args(["-c", script, marker])
        .env("PROCLEDGER_IT_MARKER", marker)
        .current_dir(folder)
        .stdin(procledger::Stdio::null())
        .stop_signals(STOP)
}

pub(crate) fn all_watched(place: &Place) -> [PidfdWatch; 3] {
    NAMES.map(|name| {
        until(name, || fs::read(place.path().join(name)).is_ok_and(|pid| pid.ends_with(b"\n")));
        place.watch(name)
    })
}

/// Starts the tree with what `set` adds, and returns it when all of it listens.
pub(crate) fn start(
    place: &Place,
    tracker: &Tracker,
    set: impl Fn(Job) -> Job,
) -> (Process, [PidfdWatch; 3]) {
    prepare(place);
    let process = tracker.spawn(set(tree(place.path(), place.marker()))).expect("spawned");
    (process, all_watched(place))
}

/// The lines of the file `got`: a signal and a name each.
fn got(place: &Place) -> Vec<(String, String)> {
    let text = fs::read_to_string(place.path().join("got")).unwrap_or_default();
    let line = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    text.lines().filter_map(line).collect()
}

/// Each member got these signals, in this order.
#[track_caller]
fn each_got(place: &Place, signals: &[&str], what: &str) {
    let all = got(place);
    for name in NAMES {
        let its: Vec<&str> =
            all.iter().filter(|(_, by)| by == name).map(|(signal, _)| signal.as_str()).collect();
        assert_eq!(its, signals, "{what}: {name}: {all:?}");
    }
}

#[track_caller]
pub(crate) fn ended_by_both(place: &Place, all: &[PidfdWatch], what: &str) {
    until("all are dead", || all.iter().all(PidfdWatch::is_dead));
    each_got(place, &["HUP", "TERM"], what);
}

/// Opens a tracker of another instance; its containment does not matter.
pub(crate) fn another(place: &Place) -> Tracker {
    Tracker::builder(place.ledger()).keeper(KEEPER).open().expect("a ledger")
}

#[test]
fn every_way_to_end_a_tree_sends_its_stop_signals_in_order() {
    type End = fn(&Place, &Tracker, Process) -> EndReason;
    let ends: [(&str, End); 4] = [
        ("terminate", |_, _, mut process| {
            assert_eq!(process.terminate().expect("ended").survived(), 0);
            EndReason::Terminated
        }),
        ("a dropped handle", |_, _, process| {
            drop(process);
            EndReason::Terminated
        }),
        ("a kill by another instance", |place, _, _| {
            let report = another(place).kill(&["tree"], "the operator").expect("ended");
            assert_eq!(report.survived(), 0);
            let asked = |it: &&procledger::Ending| it.outcome == Outcome::Term;
            let mut asked = report.endings.iter().filter(asked).peekable();
            assert!(asked.peek().is_some(), "{report:?}");
            assert!(asked.all(|it| it.stop_signal == Some(libc::SIGTERM)), "{report:?}");
            EndReason::Killed
        }),
        ("a shutdown", |_, tracker, _| {
            assert_eq!(tracker.shutdown().expect("an orderly end").survived(), 0);
            EndReason::Shutdown
        }),
    ];
    for (what, end) in ends {
        for (place, tracker, containment) in trackers() {
            let on_drop = what == "a dropped handle";
            let (process, all) = start(&place, &tracker, |job| job.terminate_on_drop(on_drop));
            let id = process.id();
            let reason = end(&place, &tracker, process);
            ended_by_both(&place, &all, &format!("{what}, {containment}"));
            let row = || tracker.ledger().process(id).expect("read").expect("a row");
            until("it is recorded", || row().life.end().is_some());
            let end = row().life.end().cloned().expect("it has ended");
            assert_eq!((end.reason, end.status), (reason, ExitStatus::Exited(7)), "{what}");
        }
    }
}

#[test]
fn a_tree_over_a_limit_is_ended_by_its_stop_signals() {
    // Without a monitor the limit is enforced when the test says so.
    for (place, tracker, containment) in trackers_with(|builder| builder.monitor(false)) {
        let limited = |job: Job| job.max_runtime(Duration::from_millis(1));
        let (mut process, all) = start(&place, &tracker, limited);
        enforce_limit(&tracker, "tree");
        ended_by_both(&place, &all, containment.as_str());
        let exit = process.wait().expect("ended");
        assert_eq!((exit.code(), exit.reason), (Some(7), EndReason::MaxRuntime), "{exit:?}");
    }
}

/// Makes passes until the task, which has a run time of next to nothing, is over its limit by the
/// clock of processes, and has ended.
pub(crate) fn enforce_limit(tracker: &Tracker, task: &str) {
    until("its limit is enforced", || {
        assert_eq!(tracker.health_pass().expect("a pass").survived(), 0);
        tracker.get(task).expect("a look").is_none()
    });
}

#[test]
fn after_the_death_of_its_host_a_tree_is_ended_by_its_stop_signals() {
    let usable: Vec<Containment> = trackers().into_iter().map(|(_, _, it)| it).collect();
    for containment in usable {
        let place = Place::new();
        prepare(&place);
        let mut host = gate_host::command(&place, "stop-signals");
        host.env("PROCLEDGER_CONTAINMENT", containment.as_str());
        let mut host = Guard(host.stdin(std::process::Stdio::null()).spawn().expect("a host"));
        let all = all_watched(&place);
        host.0.kill().expect("killed");
        host.0.wait().expect("reaped");
        if containment == Containment::Keeper {
            until("its keeper ends it", || all.iter().all(PidfdWatch::is_dead));
        }
        let tracker = another(&place);
        ended_by_both(&place, &all, containment.as_str());
        let rows = tracker.ledger().history(procledger::Query::new()).expect("rows");
        let orphan = |row: &procledger::ProcessRecord| {
            row.life.end().is_some_and(|end| end.reason == EndReason::Orphan)
        };
        assert!(rows.iter().all(orphan), "{containment}: {rows:#?}");
        let leaks = tracker.ledger().leaks(procledger::Query::new()).expect("leaks");
        let has_its_signal = |leak: &procledger::LeakRecord| {
            leak.stop_signal == (leak.outcome == Outcome::Term).then_some(libc::SIGTERM)
        };
        assert!(
            leaks.iter().any(|leak| leak.outcome == Outcome::Term),
            "{containment}: {leaks:#?}"
        );
        assert!(leaks.iter().all(has_its_signal), "{containment}: {leaks:#?}");
    }
}

#[test]
fn leaks_and_reports_contain_the_signal_that_ended_the_process() {
    for (place, tracker, containment) in trackers() {
        let job = Job::new("leaks", "/bin/sh")
            .args(["-c", "sleep 600 &", place.marker()])
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .stdin(procledger::Stdio::null())
            .stop_signals([(libc::SIGHUP, LAST)]);
        tracker.spawn(job).expect("spawned").wait().expect("ended");
        let leaks = || tracker.ledger().leaks(procledger::Query::new()).expect("leaks");
        until("the stray is recorded", || !leaks().is_empty());
        let leaks = leaks();
        let found: Vec<_> = leaks.iter().map(|it| (it.outcome, it.stop_signal)).collect();
        assert_eq!(found, [(Outcome::Term, Some(libc::SIGHUP))], "{containment}");
        assert_eq!(place.sqlite3("SELECT stop_signal FROM leaks"), "1");
        let report = |more: &[&str]| {
            let printed = place.procledger(&[&["report"], more].concat());
            String::from_utf8(printed.stdout).expect("UTF-8")
        };
        assert!(report(&[]).contains("ended by HUP, "), "{containment}: {}", report(&[]));
        assert!(report(&["--format", "html"]).contains("ended by HUP, "), "{containment}");
        let json: serde_json::Value =
            serde_json::from_str(&report(&["--format", "json"])).expect("JSON");
        assert_eq!(json[0]["stop_signal"], 1);
        assert!(report(&["--format", "csv"]).trim_end().ends_with(",1"), "{containment}");
        // As a program of an older version records it.
        let ledger = rusqlite::Connection::open(place.ledger()).expect("opens");
        ledger.execute("UPDATE leak SET stop_signal = NULL", []).expect("set");
        assert!(report(&[]).contains(" ended, "), "{containment}: {}", report(&[]));
    }
}

pub(crate) fn leave(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    tracker.spawn(tree(&given.folder, &given.marker)).expect("spawned");
    loop {
        std::thread::park();
    }
}

#[test]
fn with_root_first_the_root_gets_all_signals_before_the_others() {
    for (place, tracker, containment) in trackers() {
        let (_process, all) = start(&place, &tracker, |job| job.root_first(true));
        let report = tracker.terminate("tree").expect("ended");
        assert_eq!(report.survived(), 0);
        ended_by_both(&place, &all, containment.as_str());
        let by: Vec<String> = got(&place).into_iter().map(|(_, by)| by).collect();
        assert!(by[..2] == ["root", "root"] && by[2..].iter().all(|by| by != "root"), "{by:?}");
    }
}

#[test]
fn a_process_that_ignores_all_stop_signals_is_killed() {
    for (place, tracker, containment) in trackers() {
        let set = |job: Job| job.stop_signals([(libc::SIGHUP, FIRST), (libc::SIGHUP, FIRST)]);
        let (mut process, all) = start(&place, &tracker, set);
        assert_eq!(process.terminate().expect("ended").survived(), 0);
        assert_eq!(process.wait().expect("ended"), ExitStatus::Signaled(libc::SIGKILL));
        until("all are dead", || all.iter().all(PidfdWatch::is_dead));
        each_got(&place, &["HUP", "HUP"], containment.as_str());
    }
}

#[test]
fn a_call_can_override_the_signals_the_grace_and_the_order() {
    let seconds = Duration::from_secs;
    for (place, tracker, containment) in trackers() {
        let what = containment.as_str();
        // A job that would take ten minutes.
        let slow = |job: Job| job.stop_signals([(libc::SIGHUP, LAST)]).root_first(true);
        let (mut process, all) = start(&place, &tracker, slow);
        let plan = EndPlan::new().signal(libc::SIGTERM).root_first(false);
        assert_eq!(process.terminate_with(&plan).expect("ended").survived(), 0);
        assert!(all.iter().all(PidfdWatch::is_dead));
        each_got(&place, &["TERM"], what);
        assert_eq!(process.wait().expect("ended").code(), Some(7));

        let again = Place::new();
        let (_process, all) = start(&again, &tracker, slow);
        let plan = EndPlan::new().stop_signals(STOP);
        assert_eq!(tracker.terminate_with("tree", &plan).expect("ended").survived(), 0);
        ended_by_both(&again, &all, what);
        assert_eq!(got(&again)[..2].iter().filter(|(_, by)| by == "root").count(), 2);

        let again = Place::new();
        let (mut process, all) = start(&again, &tracker, slow);
        let other = another(&place);
        let plan = EndPlan::new().grace(Duration::ZERO);
        assert_eq!(other.kill_with(&["tree"], "the operator", &plan).expect("ended").survived(), 0);
        let exit = process.wait().expect("ended");
        assert_eq!((exit.signal(), exit.reason), (Some(libc::SIGKILL), EndReason::Killed));
        assert!(all.iter().all(PidfdWatch::is_dead));

        let again = Place::new();
        let (_process, all) = start(&again, &tracker, |job| job);
        let plan = EndPlan::new().signal(libc::SIGTERM).grace(seconds(600));
        assert_eq!(other.kill_all_with("the operator", &plan).expect("ended").survived(), 0);
        assert!(all.iter().all(PidfdWatch::is_dead));
        each_got(&again, &["TERM"], what);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn futures_end_a_tree_by_the_stop_signals_of_its_job_or_of_the_call() {
    for (place, tracker, containment) in trackers() {
        let what = containment.as_str();
        let (process, all) = start(&place, &tracker, |job| job);
        let tracker = tracker.into_async();
        let mut process = process.into_async().expect("a handle");
        assert_eq!(process.terminate().await.expect("ended").survived(), 0);
        ended_by_both(&place, &all, what);
        assert_eq!(process.wait().await.expect("ended").code(), Some(7));

        let again = Place::new();
        let (process, all) = start(&again, tracker.tracker(), |job| job);
        let mut process = process.into_async().expect("a handle");
        let plan = || EndPlan::new().signal(libc::SIGTERM);
        assert_eq!(process.terminate_with(&plan()).await.expect("ended").survived(), 0);
        assert!(all.iter().all(PidfdWatch::is_dead));
        each_got(&again, &["TERM"], what);

        let again = Place::new();
        let (_process, all) = start(&again, tracker.tracker(), |job| job);
        assert_eq!(tracker.terminate_with("tree", &plan()).await.expect("ended").survived(), 0);
        assert!(all.iter().all(PidfdWatch::is_dead));
        each_got(&again, &["TERM"], what);

        let again = Place::new();
        let (process, all) = start(&again, tracker.tracker(), |job| job);
        drop(process.into_async().expect("a handle").terminate_on_drop(true));
        ended_by_both(&again, &all, what);
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn the_row_and_the_json_contain_the_stop_signals() {
    for (place, tracker, containment) in trackers() {
        let (_process, _all) = start(&place, &tracker, |job| job.root_first(true));
        let json = r#"{"stop_signals":[{"signal":1,"wait_ms":100},{"signal":15,"wait_ms":600000}],"root_first":true}"#;
        let row = "SELECT grace_ms, end_plan FROM process WHERE root IS NULL";
        assert_eq!(place.sqlite3(row), format!("600100|{json}"), "{containment}");
        let rows = tracker.ledger().processes().expect("rows");
        let spec = &rows.iter().find(|row| row.spec.root.is_none()).expect("a row").spec;
        assert!(spec.end_plan.get_stop_signals().eq(STOP));
        assert_eq!(spec.end_plan.get_root_first(), Some(true));
        assert!(spec.asking_time() >= 2 * spec.limits.grace);
        let shown = place.procledger(&["ps", "--json"]);
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let expected: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let rows = shown.as_array().expect("rows");
        assert!(rows.iter().any(|row| row["end_plan"] == expected), "{shown:#}");
        // A job without any has none.
        tracker.spawn(place.job("plain", "true")).expect("spawned").wait().expect("ended");
        let row = "SELECT end_plan IS NULL FROM process WHERE task_id = 'plain'";
        assert_eq!(place.sqlite3(row), "1");
    }
}

#[test]
fn bad_stop_signals_are_refused_before_anything_runs() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let job = || place.job("task", ": > ran");
    let second = Duration::from_secs(1);
    for (job, why) in [
        (job().stop_signals([(0, second)]), "0 is not a signal"),
        (job().stop_signals([(libc::SIGTERM, second), (65, second)]), "65 is not a signal"),
        (job().stop_signals([(libc::SIGKILL, second)]), "SIGKILL is not a stop signal"),
        (job().stop_signals([(libc::SIGSTOP, second)]), "SIGSTOP is not a stop signal"),
        (job().stop_signals([(libc::SIGTERM, second); 9]), "9 stop signals are too many"),
        (job().stop_signals([(libc::SIGTERM, Duration::MAX)]), "more than a day"),
    ] {
        let error = tracker.spawn(job).expect_err(why);
        assert!(error.is_invalid_input() && error.to_string().contains(why), "{error}");
    }
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
    assert!(!place.path().join("ran").exists());

    let mut process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let bad = || EndPlan::new().stop_signals([(libc::SIGKILL, second)]);
    let refused = [
        process.terminate_with(&bad()),
        tracker.terminate_with("task", &bad()),
        tracker.kill_with(&["task"], "the operator", &bad()),
        tracker.kill_all_with("the operator", &EndPlan::new().signal(0)),
    ];
    for refused in refused {
        assert!(refused.expect_err("refused").is_invalid_input());
    }
    assert!(process.try_wait().expect("asked").is_none());
    // A grace without end is not one that a clock cannot express.
    let plan = EndPlan::new().grace(Duration::MAX);
    assert_eq!(process.terminate_with(&plan).expect("ended").survived(), 0);
}
