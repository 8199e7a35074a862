//! `procledger wait`: the status of a task of any owner, whether it runs or has ended.

use std::{fs, process::Child, time::Duration};

use crate::{
    cli::command::{Running, answer, bare, bytes_of, finish, procledger, run},
    support::{PATIENCE, PidfdWatch, Place, state, status, until},
};

/// A `wait` that runs.
fn waiting(place: &Place, args: &[&str]) -> Child {
    procledger(place).arg("wait").args(args).spawn().expect("procledger")
}

/// Returns once it has opened the ledger and sleeps.
fn until_it_sleeps(waiting: &Child) {
    let files = format!("/proc/{}/fd", waiting.id());
    let watches = || {
        let links = fs::read_dir(&files).into_iter().flatten().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .any(|path| path.ends_with("anon_inode:inotify"))
    };
    until("it watches the ledger", watches);
    until("it sleeps", || state(waiting.id()) == Some('S'));
}

/// Runs a script to its end as a task, whatever its status.
fn ended(place: &Place, task: &str, options: &[&str], script: &str) {
    let mut command = procledger(place);
    command.args(["run", "--task", task]).args(options).args(["--", "sh", "-c", script]);
    answer(&mut command);
}

#[test]
fn the_status_of_a_task_that_has_ended_is_read_from_the_ledger() {
    let place = Place::new();
    ended(&place, "good", &[], "exit 0");
    ended(&place, "bad", &[], "exit 7");
    ended(&place, "signalled", &[], "kill -USR1 $$");
    ended(&place, "long", &["--max-runtime", "100ms"], "sleep 300");
    ended(&place, "twice", &[], "exit 3");
    ended(&place, "twice", &[], "exit 4");
    let before = bytes_of(place.path());
    for (task, code, said) in [
        ("good", 0, ""),
        ("bad", 7, ""),
        ("signalled", 128 + libc::SIGUSR1, ""),
        ("long", 124, "task long was ended: ran for "),
        ("twice", 4, ""),
    ] {
        let answer = run(&place, &["wait", task]).expect(code);
        assert!(
            answer.err.contains(said) && (answer.err.is_empty() == said.is_empty()),
            "{answer:?}"
        );
        assert!(run(&place, &["wait", task, "--quiet"]).expect(code).err.is_empty());
    }
    run(&place, &["wait", "good", "twice", "bad"]).expect(4);
    run(&place, &["wait", "good", "good", "--timeout", "0s"]).expect(0);
    let said = run(&place, &["wait", "bad", "-v"]).expect(7).err;
    assert!(said.contains("task bad exited with code 7 after "), "{said}");
    assert!(before == bytes_of(place.path()), "it changed the disk");
}

/// A script that runs until the test creates the file `go`, and then does `rest`.
fn until_go(place: &Place, rest: &str) -> String {
    format!("echo $$; until test -e {}/go; do sleep 0.01; done; {rest}", place.path().display())
}

fn go(place: &Place) {
    fs::write(place.path().join("go"), "").expect("written");
}

#[test]
fn it_sleeps_until_the_task_ends() {
    let place = Place::new();
    let running = Running::start(&place, "t", &[], &until_go(&place, "exit 9"));
    let mut waits = waiting(&place, &["t"]);
    until_it_sleeps(&waits);
    let switches = || -> u64 {
        let text = status(waits.id());
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("a line").trim().parse().expect("a number")
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(1));
    let woken = switches() - before;
    assert!(woken < 8, "it polls: woken {woken} times");
    assert!(waits.try_wait().expect("a child").is_none());
    go(&place);
    assert_eq!(finish(waits).expect(9).err, "");
    running.finish().expect(9);
}

/// Each waiter is woken, whichever task ends first.
#[test]
fn several_tasks_and_patterns_yield_the_first_status_that_is_not_0() {
    let place = Place::new();
    let start = |task: &str, code: u32| {
        Running::start(&place, task, &[], &until_go(&place, &format!("exit {code}")))
    };
    let running = [("a/1", 0), ("a/2", 5), ("b", 6)].map(|(task, code)| start(task, code));
    let waits = [&["a/*"][..], &["b", "a/*"], &["a/1"], &["missing", "a/1"], &["a/*", "c*"]];
    let waits = waits.map(|args| waiting(&place, args));
    waits.iter().for_each(until_it_sleeps);
    go(&place);
    for (waits, code) in waits.into_iter().zip([5, 6, 0, 127, 5]) {
        let answer = finish(waits).expect(code);
        assert!(answer.out.is_empty(), "{answer:?}");
    }
    for running in running {
        running.finish();
    }
}

#[test]
fn a_task_that_was_ended_never_counts_as_success() {
    let place = Place::new();
    let polite = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let running = Running::start(&place, "t", &[], polite);
    let waits = waiting(&place, &["t"]);
    until_it_sleeps(&waits);
    run(&place, &["kill", "t"]).expect(0);
    let said = finish(waits).expect(128 + 15).err;
    assert!(
        said.starts_with("procledger: task t was ended: ") && said.lines().count() == 1,
        "{said}"
    );
    running.finish().expect(128 + 15);
    assert_eq!(run(&place, &["wait", "t"]).expect(128 + 15).err, said);
}

#[test]
fn it_waits_until_strays_of_the_program_are_ended() {
    let place = Place::new();
    let stray = format!(
        "trap '' TERM; echo $$ > {0}/new; mv {0}/new {0}/stray; while :; do sleep 0.1; done",
        place.path().display()
    );
    let script = format!(
        "setsid sh -c '{stray}' & until test -e {}/stray; do sleep 0.01; done; {}",
        place.path().display(),
        until_go(&place, "exit 2")
    )
    .replace("trap ''", "trap \"\"");
    let running = Running::start(&place, "t", &["--grace", "300ms"], &script);
    let stray = place.watch("stray");
    let waits = waiting(&place, &["t"]);
    until_it_sleeps(&waits);
    assert!(!stray.is_dead());
    go(&place);
    finish(waits).expect(2);
    assert!(stray.is_dead(), "the task was not over");
    running.finish().expect(2);
}

#[test]
fn a_timeout_leaves_the_task_running() {
    let place = Place::new();
    let running = Running::start(&place, "t", &[], &until_go(&place, "exit 2"));
    for timeout in ["0s", "50ms"] {
        let answer = run(&place, &["wait", "t", "--timeout", timeout]).expect(75);
        assert!(answer.complaint().contains("task t still runs after "), "{answer:?}");
    }
    go(&place);
    running.finish().expect(2);
}

/// The owner records the status. If it is dead, an instance that ends the orphan records that;
/// otherwise nothing is known.
#[test]
fn a_task_whose_owner_is_killed_is_waited_for_until_it_ends() {
    let place = Place::new();
    let reaped = Running::start(&place, "reaped", &[], "echo $$; exec sleep 300");
    let lost = Running::start(&place, "lost", &[], &until_go(&place, "exit 2"));
    let waits = ["reaped", "lost"].map(|task| waiting(&place, &[task]));
    waits.iter().for_each(until_it_sleeps);
    let watched = PidfdWatch::on_one_that_ran(lost.said.parse().expect("a pid"));
    reaped.crash();
    lost.crash();
    go(&place);
    assert!(watched.dies_within(PATIENCE));
    let [waits_reaped, waits_lost] = waits;
    let answer = finish(waits_lost).expect(125);
    assert!(
        answer.complaint().contains("its owner is dead: how it ended is unknown"),
        "{answer:?}"
    );
    assert!(answer.err.contains("procledger reap"), "{answer:?}");
    run(&place, &["reap"]).expect(0);
    let said = finish(waits_reaped).expect(128 + 15).err;
    assert!(said.contains("task reaped was ended: its instance is dead"), "{said}");
    assert!(run(&place, &["wait", "lost"]).expect(125).complaint().contains("unknown exit code"));
}

#[test]
fn an_unknown_task_and_a_wait_for_itself_are_refused_in_one_line() {
    let place = Place::new();
    let missing = answer(bare(&place).args(["wait", "t", "--db"]).arg(place.ledger())).expect(125);
    assert!(missing.complaint().contains("no ledger at"), "{missing:?}");
    ended(&place, "t", &[], "exit 0");
    for (task, part) in
        [("missing", "no task missing is in the ledger"), ("t*", "no running task matches t*")]
    {
        let answer = run(&place, &["wait", task]).expect(127);
        assert!(answer.complaint().contains(part), "{answer:?}");
    }
    let own = procledger(&place)
        .args(["run", "--task", "own", "--", crate::cli::command::PROCLEDGER, "wait", "own"])
        .spawn();
    let answer = finish(own.expect("procledger")).expect(2);
    assert!(answer.complaint().contains("would wait for itself"), "{answer:?}");
}
