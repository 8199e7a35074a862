//! `procledger run --detach`: the program outlives its caller and the caller's terminal, and is a
//! task like any other.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    cli::command::{Answer, PROCLEDGER, answer, procledger, run},
    support::{PidfdWatch, Place, children, is_alive, need, parent, stat_field, until},
};

/// Starts a script with `run --detach`; what it prints is its task.
fn detach(place: &Place, options: &[&str], script: &str) -> Answer {
    let mut command = procledger(place);
    command.args(["run", "--detach"]).args(options);
    answer(command.args(["--", "sh", "-c", script, place.marker()]))
}

/// A script that writes its pid into the file `up` of the folder, and then does `rest`.
fn up(place: &Place, rest: &str) -> String {
    let folder = place.path().display();
    format!("echo $$ > {folder}/new; mv {folder}/new {folder}/up; {rest}")
}

/// The process that owns the task, by its arguments.
fn supervisor(task: &str, place: &Place) -> PidfdWatch {
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        words.starts_with(&[b"procledger", b"--supervise", task.as_bytes()])
    };
    let pids = place.alive();
    PidfdWatch::on(*pids.iter().find(|pid| is_it(pid)).expect("a supervisor"))
}

fn link(pid: u32, descriptor: u32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).expect("a descriptor")
}

#[test]
fn it_returns_once_the_program_runs_and_wait_ps_and_kill_work_on_the_task() {
    let place = Place::new();
    let started = detach(&place, &["--task", "t"], &up(&place, "exec sleep 300")).expect(0);
    assert_eq!(started.out, "t\n");
    assert_eq!(started.err, "the output of the program is discarded: --output FILE keeps it\n");
    let rows = run(&place, &["ps", "--json"]).expect(0).json();
    assert_eq!((&rows[0]["task_id"], &rows[0]["state"]), (&"t".into(), &"running".into()));
    let program = place.watch("up");
    assert_eq!(rows[0]["pid"], program.pid());
    let supervisor = supervisor("t", &place);
    for pid in [program.pid(), supervisor.pid()] {
        assert_eq!(stat_field(pid, 7).as_deref(), Some("0"), "no terminal");
        for descriptor in 0..3 {
            assert_eq!(link(pid, descriptor), Path::new("/dev/null"), "{pid}: {descriptor}");
        }
    }
    assert_eq!(stat_field(supervisor.pid(), 6), Some(supervisor.pid().to_string()), "its session");
    assert_ne!(parent(supervisor.pid()), Some(std::process::id()));
    let second = detach(&place, &["--task", "t"], "true").expect(75);
    assert!(second.complaint().contains("already runs"), "{second:?}");
    run(&place, &["kill", "t"]).expect(0);
    assert!(program.is_dead());
    run(&place, &["wait", "t"]).expect(128 + 15);
    until("the supervisor ends with its task", || supervisor.is_dead());
}

#[test]
fn a_status_is_kept_for_a_later_wait_and_a_task_has_a_generated_name() {
    let place = Place::new();
    let started = detach(&place, &["--quiet"], "exit 6").expect(0);
    assert_eq!(started.err, "");
    let task = started.out.trim_end();
    assert!(task.starts_with("sh-"), "{task}");
    run(&place, &["wait", task]).expect(6);
    assert_eq!(run(&place, &["ps", "--json"]).expect(0).json(), serde_json::json!([]));
}

#[test]
fn its_output_is_appended_to_a_file() {
    let place = Place::new();
    let log = place.path().join("log");
    let file = log.to_str().expect("UTF-8");
    for (task, script) in [("a", "echo out; echo err >&2; read line || echo end"), ("b", "echo b")]
    {
        let started = detach(&place, &["--task", task, "--output", file], script).expect(0);
        assert_eq!(started.err, "", "it says nothing of an output that is kept");
        run(&place, &["wait", task]).expect(0);
    }
    assert_eq!(fs::read_to_string(&log).expect("a file"), "out\nerr\nend\nb\n");
    assert_eq!(fs::metadata(&log).expect("a file").permissions().mode() & 0o777, 0o600);
    // The supervisor's own line about an end goes there, too.
    let options = ["--task", "c", "--output", file, "--max-runtime", "50ms"];
    detach(&place, &options, "exec sleep 300").expect(0);
    run(&place, &["wait", "c"]).expect(124);
    until("the supervisor says why", || {
        fs::read_to_string(&log).expect("a file").contains("procledger: task c was ended: ran for")
    });
}

/// One line, the exit code of any `run`, and no task.
#[test]
fn a_failed_start_is_reported_as_by_any_run() {
    let place = Place::new();
    let plain = place.path().join("plain");
    fs::write(&plain, "").expect("a file");
    let (plain, ledger) = (plain.to_str().expect("UTF-8"), place.ledger());
    let ledger = ledger.to_str().expect("UTF-8");
    for (args, code, part) in [
        (&["--", "no-such-program"][..], 127, "no-such-program"),
        (&["--", plain], 126, "plain"),
        (&["--task", "", "--", "true"], 2, "the task id is empty"),
        (&["--cwd", "/no/such", "--", "true"], 2, "/no/such"),
        (&["--output", "/no/such/file", "--", "true"], 125, "/no/such/file"),
        (&["--output", ledger, "--", "true"], 125, "ledger"),
        (&["--output", "/", "--", "true"], 125, "output file /"),
        (&["--containment", "jail", "--", "true"], 2, "give auto"),
        (&["--owner", "999999999", "--", "true"], 2, "--owner"),
        (&["--die-with-parent", "--", "true"], 2, "cannot be used with"),
    ] {
        let mut command = procledger(&place);
        let answer = answer(command.args(["run", "--detach"]).args(args)).expect(code);
        assert!(answer.complaint().contains(part), "{args:?}: {answer:?}");
    }
    let alone = run(&place, &["run", "--output", "x", "--", "true"]).expect(2);
    assert!(alone.complaint().contains("--detach"), "{alone:?}");
    let folder = place.path().join("missing/ledger.db");
    let missing =
        answer(crate::cli::command::on_ledger(&place, &folder).args(["run", "--detach", "true"]));
    assert!(missing.expect(125).complaint().contains("missing"));
    until("no supervisor is left", || place.alive().is_empty());
}

/// A shell waits for all copies of the pipe of `$(...)`, and a script may pass on other descriptors
/// as well.
#[test]
fn a_caller_that_reads_its_pipes_to_the_end_is_not_blocked() {
    let place = Place::new();
    let script = format!(
        "exec 7>&1; all=$(\"$1\" run --detach --task t -- sh -c '{}' \"$2\" 2>&1); echo \"$all\"",
        up(&place, "exec sleep 300")
    );
    let mut shell = Command::new("sh");
    crate::cli::command::clean(&mut shell, &place);
    shell.env("PROCLEDGER_DB", place.ledger());
    let answer = answer(shell.args(["-c", &script, "sh", PROCLEDGER, place.marker()])).expect(0);
    assert!(answer.out.ends_with("\nt\n"), "{answer:?}");
    assert!(is_alive(place.watch("up").pid()));
    run(&place, &["kill", "t"]).expect(0);
}

/// The shell at the terminal ends, and the terminal is hung up: neither reaches the task.
#[test]
fn it_survives_its_terminal_in_each_containment() {
    need!("script");
    for containment in ["session", "keeper", "cgroup", "auto"] {
        let place = Place::new();
        let started = place.path().join("started");
        let line = format!(
            "'{PROCLEDGER}' run --detach --task t --containment {containment} -- sh -c '{}' {} > {}; kill -HUP $$",
            up(&place, "exec sleep 300"),
            place.marker(),
            started.display(),
        );
        let mut terminal = Command::new("script");
        crate::cli::command::clean(&mut terminal, &place);
        terminal.env("PROCLEDGER_DB", place.ledger()).env("SHELL", "/bin/sh");
        terminal.args(["-qfc", &line, "/dev/null"]).stdout(Stdio::piped());
        let seen = answer(&mut terminal);
        if fs::read_to_string(&started).expect("a file").is_empty() {
            assert!(["keeper", "cgroup"].contains(&containment), "{seen:?}");
            assert!(seen.out.contains("containment") || seen.out.contains(containment), "{seen:?}");
            continue;
        }
        let program = place.watch("up");
        assert!(!program.is_dead(), "{containment}: {seen:?}");
        let rows = run(&place, &["ps", "--json"]).expect(0).json();
        assert_eq!(rows[0]["state"], "running", "{containment}: {rows:#}");
        assert!(containment == "auto" || rows[0]["containment"] == containment, "{rows:#}");
        // The supervisor is alive, so its program is not an orphan.
        run(&place, &["reap"]).expect(0);
        assert!(!program.is_dead(), "{containment}");
        let supervisor = supervisor("t", &place);
        run(&place, &["kill", "t"]).expect(0);
        assert!(program.is_dead(), "{containment}");
        until("the supervisor ends", || supervisor.is_dead());
    }
}

/// The caller may be interrupted while the supervisor waits for an earlier run of the task: then
/// the program must not start.
#[test]
fn a_supervisor_whose_caller_has_ended_starts_nothing() {
    let place = Place::new();
    detach(&place, &["--task", "t"], &up(&place, "exec sleep 300")).expect(0);
    let first = place.watch("up");
    let second = place.path().join("second");
    let script = format!("echo started > {}", second.display());
    let mut command = procledger(&place);
    command.args([
        "run",
        "--detach",
        "--task",
        "t",
        "--if-running",
        "wait",
        "--",
        "sh",
        "-c",
        &script,
    ]);
    let mut caller = command.spawn().expect("procledger");
    let supervisor =
        crate::support::eventually("a supervisor", || children(caller.id()).first().copied());
    let supervisor = PidfdWatch::on(supervisor);
    caller.kill().expect("ours");
    caller.wait().expect("reaped");
    run(&place, &["kill", "t"]).expect(0);
    assert!(first.is_dead());
    until("the supervisor gives up", || supervisor.is_dead());
    assert!(!second.exists(), "the program was started");
}

/// The supervisor is the owner: if it crashes, its program is an orphan.
#[test]
fn a_crash_of_the_supervisor_counts_as_a_crash_of_the_owner() {
    let place = Place::new();
    detach(&place, &["--task", "t", "--containment", "session"], &up(&place, "exec sleep 300"))
        .expect(0);
    let program = place.watch("up");
    supervisor("t", &place).kill();
    assert!(!program.is_dead());
    let report = run(&place, &["reap", "--json"]).expect(0).json();
    assert_eq!(report["endings"][0]["rule"], "its instance is dead", "{report:#}");
    assert!(program.is_dead());
}

#[test]
fn the_internal_option_of_the_supervisor_is_refused_elsewhere() {
    let place = Place::new();
    let answer = run(&place, &["--supervise", "t", "run", "--", "true"]).expect(2);
    assert!(answer.complaint().contains("run --detach"), "{answer:?}");
    assert!(!run(&place, &["--help"]).expect(0).out.contains("--supervise"));
}
