//! `procledger watch --on-leak`: a program gets each new leak, bounded and contained, and never
//! delays the watch.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;

use crate::{
    cli::{
        command::{Answer, Running, finish, procledger, run},
        command_reap::{as_nobody, nobodys_place},
    },
    support::{Host, PidfdWatch, Place, eventually, pidfd, until},
};

const UP: &str = "echo $$; exec sleep 300";

/// A watch with a script for each leak.
struct Watch(Child);

impl Watch {
    fn start(place: &Place, script: &str, options: &[&str]) -> Self {
        let script = place.script("hook", script);
        let mut command = procledger(place);
        command.args(["watch", "--on-leak"]).arg(script).args(options);
        let child = command.spawn().expect("procledger");
        let passes = "SELECT count(*) FROM pass JOIN instance ON instance.id = pass.instance WHERE instance.pid =";
        until("it watches", || {
            place.ledger().exists()
                && rusqlite::Connection::open(place.ledger()).is_ok_and(|ledger| {
                    let count =
                        ledger.query_row(&format!("{passes} {}", child.id()), [], |row| row.get(0));
                    count.is_ok_and(|count: i64| count > 0)
                })
        });
        Self(child)
    }

    fn stop(self) -> Answer {
        let fd = pidfd(self.0.id()).expect("it is ours and not waited for");
        pidfd_send_signal(fd.as_fd(), Signal::TERM).expect("a signal");
        finish(self.0)
    }
}

/// The leaks that a script has appended to a file, once there are so many.
fn leaks(place: &Place, count: usize) -> Vec<Value> {
    let file = place.path().join("leaks");
    eventually("the leaks", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let whole = text.ends_with('\n') && text.lines().count() >= count;
        whole.then(|| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
    })
}

#[test]
fn each_new_leak_of_any_instance_is_passed_on_once_and_without_a_shell() {
    let place = Place::new();
    Running::start(&place, "before", &[], UP).crash();
    run(&place, &["reap"]).expect(0);
    let folder = place.path().display();
    let script =
        format!("echo \"$#:$1:$2:$PROCLEDGER_LEDGER\" > {folder}/args; cat >> {folder}/leaks");
    let watch = Watch::start(&place, &script, &["--on-leak-arg", "a b", "--on-leak-arg=--$(id)"]);
    let task = format!("$(touch {folder}/bad); `id` '");
    let running = Running::start(&place, &task, &["--containment", "session"], UP);
    let pid: u64 = running.said.parse().expect("a pid");
    running.crash();
    let found = leaks(&place, 1);
    assert_eq!((&found[0]["task_id"], &found[0]["pid"]), (&task.as_str().into(), &pid.into()));
    assert_eq!((&found[0]["kind"], &found[0]["outcome"]), (&"orphan".into(), &"term".into()));
    // A stray, which its own live host records.
    let mut host = Host::start(&place, "containment=session");
    host.spawn("with-a-stray", "sleep 300 & exit 0");
    let found = leaks(&place, 2);
    assert_eq!(
        (&found[1]["task_id"], &found[1]["kind"]),
        (&"with-a-stray".into(), &"stray".into())
    );
    let ledger = place.ledger().canonicalize().expect("a ledger");
    let args = fs::read_to_string(place.path().join("args")).expect("arguments");
    assert_eq!(args, format!("2:a b:--$(id):{}\n", ledger.display()));
    assert!(!place.path().join("bad").exists(), "a shell has read a task's name");
    let listed = run(&place, &["report", "--format", "json"]).expect(0).json();
    let (mut listed, mut found) = (listed.as_array().expect("leaks").clone(), leaks(&place, 2));
    listed.retain(|leak| leak["task_id"] != "before");
    listed.reverse();
    let key = |leak: &Value| (leak["process"].as_i64(), leak["kind"].to_string());
    found.sort_by_key(key);
    listed.sort_by_key(key);
    assert_eq!(found, listed, "as `report` has them, each once");
    host.stop();
    watch.stop().expect(0);
}

/// The watch looked for leaks only at the end of a cycle, and no event of a live host ends one: up
/// to 5 s passed.
#[test]
fn strays_of_a_live_host_are_passed_on_when_they_are_recorded() {
    let place = Place::new();
    let script = format!("cat >> {}/leaks", place.path().display());
    let watch = Watch::start(&place, &script, &[]);
    let mut host = Host::start(&place, "containment=session");
    let began = Instant::now();
    for stray in 1..=6 {
        host.spawn(&format!("stray-{stray}"), "sleep 300 & exit 0");
        leaks(&place, stray);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "each one waited for a cycle");
    host.stop();
    watch.stop().expect(0);
}

/// It is ended with its descendants, which are not recorded as leaks; the watch reports that and
/// continues.
#[test]
fn a_hanging_program_is_ended_at_its_time_limit_and_delays_nothing() {
    let place = Place::new();
    let folder = place.path().display();
    let script = format!(
        "cat >> {folder}/leaks; setsid sleep 300 & echo $! >> {folder}/pids; trap '' TERM; sleep 300; sleep 300"
    );
    let mut watch = Watch::start(&place, &script, &["--on-leak-timeout", "200ms"]);
    let err = BufReader::new(watch.0.stderr.take().expect("piped"));
    for task in ["one", "two"] {
        Running::start(&place, task, &[], UP).crash();
    }
    assert_eq!(leaks(&place, 2).len(), 2);
    let pids = eventually("the pids", || {
        let text = fs::read_to_string(place.path().join("pids")).ok()?;
        (text.lines().count() == 2)
            .then(|| text.lines().map(|pid| pid.parse().expect("a pid")).collect::<Vec<u32>>())
    });
    let all_watched: Vec<PidfdWatch> = pids.into_iter().map(PidfdWatch::on_one_that_ran).collect();
    let mut lines = err.lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("--on-leak")).expect("a complaint");
    assert!(line.contains("/hook was ended: ran for "), "{line}");
    until("what it has started is ended", || all_watched.iter().all(PidfdWatch::is_dead));
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    let is_hook =
        |row: &&Value| row["task_id"].as_str().is_some_and(|id| id.starts_with("on-leak/"));
    assert!(rows.as_array().expect("rows").iter().filter(is_hook).count() >= 2, "{rows:#}");
    assert_eq!(leaks(&place, 2).len(), 2, "it ran for its own leaks");
    drop(watch.stop());
}

#[test]
fn the_end_of_the_watch_ends_running_programs() {
    let place = Place::new();
    let watch = Watch::start(
        &place,
        &format!("cat >> {}/leaks; exec sleep 300", place.path().display()),
        &[],
    );
    let tasks: Vec<String> = (0..6).map(|number| format!("t{number}")).collect();
    for task in &tasks {
        Running::start(&place, task, &[], UP).crash();
    }
    // Four at once; the others wait.
    assert_eq!(leaks(&place, 4).len(), 4);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(leaks(&place, 4).len(), 4, "more than four at once");
    watch.stop().expect(0);
    until("nothing is left", || place.alive().is_empty());
}

/// A failure is one line, and the next leak is passed on all the same.
#[test]
fn a_program_that_fails_is_reported() {
    let place = Place::new();
    let script = format!("cat >> {}/leaks; echo why >&2; exit 3", place.path().display());
    let watch = Watch::start(&place, &script, &[]);
    for (count, task) in (1..).zip(["one", "two"]) {
        Running::start(&place, task, &[], UP).crash();
        leaks(&place, count);
    }
    until("both have ended", || {
        place.sqlite3(
            "SELECT count(*) FROM process WHERE task_id LIKE 'on-leak/%' AND exit_code = 3",
        ) == "2"
    });
    let answer = watch.stop().expect(0);
    assert!(
        answer.err.contains("why") && answer.err.contains("/hook exited with code 3"),
        "{answer:?}"
    );
}

/// root's watch of another user's ledger: the program has nothing of root's.
#[test]
fn it_runs_as_the_owner_of_the_ledger() {
    let place = Place::new();
    let Some(ledger) = nobodys_place(&place) else { return };
    let theirs = ledger.parent().expect("a folder").display();
    let script = place.script(
        "hook",
        &format!(
            "{{ id -u; cat; }} > {theirs}/new; env > {theirs}/env; mv {theirs}/new {theirs}/leak"
        ),
    );
    let args = ["run", "--task", "t", "--", "sh", "-c", UP, place.marker()];
    let running = Running::spawn(as_nobody(&place, &ledger).args(args));
    let mut watch = procledger(&place);
    watch
        .env("PROCLEDGER_SECRET_OF_ROOT", "1")
        .arg("watch")
        .arg(&ledger)
        .arg("--on-leak")
        .arg(&script);
    let watch = Watch(watch.stdout(Stdio::null()).spawn().expect("procledger"));
    running.crash();
    let leak = ledger.with_file_name("leak");
    let text = eventually("the leak", || fs::read_to_string(&leak).ok());
    assert!(text.starts_with("65534\n{") && text.contains("\"task_id\":\"t\""), "{text}");
    let env = fs::read_to_string(ledger.with_file_name("env")).expect("an environment");
    assert!(!env.contains("SECRET_OF_ROOT") && env.contains("PATH="), "{env}");
    watch.stop();
}

#[test]
fn a_missing_program_is_refused_in_one_line() {
    let place = Place::new();
    let plain = place.path().join("plain");
    fs::write(&plain, "").expect("a file");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("a mode");
    for program in ["/no/such/program", "no-such-program", plain.to_str().expect("UTF-8"), "/", ""]
    {
        let refused = run(&place, &["watch", "--on-leak", program]).expect(2);
        assert!(refused.complaint().contains("there is no executable program"), "{refused:?}");
    }
    let alone = run(&place, &["watch", "--on-leak-arg", "x"]).expect(2);
    assert!(alone.complaint().contains("--on-leak"), "{alone:?}");
    let zero = run(&place, &["watch", "--on-leak", "true", "--on-leak-timeout", "0s"]).expect(2);
    assert!(zero.complaint().contains("zero"), "{zero:?}");
    assert!(!place.ledger().exists());
}
