//! `procledger run`: exits as its program did, forwards signals, leaves all streams alone, and
//! leaves no process behind.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cli::command::{Running, answer, containments, finish, on_ledger, procledger, run},
    support::{Place, is_alive, need, until, write_program},
};

#[test]
fn it_exits_as_the_program_did() {
    let place = Place::new();
    for code in [0, 1, 7, 125, 255] {
        let script = format!("exit {code}");
        run(&place, &["run", "--task", "code", "--", "sh", "-c", &script]).expect(code);
    }
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    let codes: Vec<i64> = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["exit_code"].as_i64().expect("a code"))
        .collect();
    assert_eq!(codes, [255, 125, 7, 1, 0], "newest first");
}

#[test]
fn it_exits_with_128_and_the_signal() {
    let place = Place::new();
    for (name, number) in [("TERM", 15), ("KILL", 9), ("INT", 2), ("ABRT", 6)] {
        let script = format!("kill -{name} $$");
        let answer = run(&place, &["run", "--task", "signal", "--", "sh", "-c", &script]);
        assert_eq!(answer.expect(128 + number).err, "");
    }
}

#[test]
fn failures_of_run_itself_have_exit_codes_of_their_own() {
    let place = Place::new();
    let text = place.path().join("text");
    fs::write(&text, "no program").expect("a file");
    let text = text.to_str().expect("UTF-8");
    for (command, code) in
        [("procledger-no-such-program", 127), ("/no/such/folder/x", 127), (text, 126), ("/", 126)]
    {
        let answer = run(&place, &["run", "--task", "t", "--", command]).expect(code);
        assert!(answer.complaint().contains(command), "{answer:?}");
    }
}

/// `No such file or directory` alone was printed about a script whose interpreter is missing, and
/// about a quoted command line.
#[test]
fn an_existing_program_was_reported_as_not_found() {
    let place = Place::new();
    let file = |name: &str| place.path().join(name);
    write_program(&file("no-interpreter"), "#!/no/such/interpreter -u\nprint()\n");
    write_program(&file("from-windows"), "#!/bin/sh\r\necho\r\n");
    fs::write(file("text"), "echo").expect("a file");
    let folder = place.path().to_str().expect("UTF-8");
    let missing =
        "the file is there, but `/no/such/interpreter`, which its `#!` line names, is not";
    for (args, code, advice) in [
        (&["--", "./no-interpreter"][..], 127, missing),
        (&["--cwd", folder, "--", "./no-interpreter"], 127, missing),
        (
            &["--", "./from-windows"],
            127,
            "its lines end with CR LF, so that `/bin/sh` is not found",
        ),
        (&["--", "no-interpreter"], 127, "it is in no folder of $PATH: write `./no-interpreter`"),
        (&["--", "procledger-no-such-program"], 127, "it is in no folder of $PATH\n"),
        (&["--", "./missing"], 127, "No such file or directory (os error 2)\n"),
        (&["--", "echo hi"], 127, "write each argument as a word of its own, or `sh -c`"),
        (
            &["--", "./no-interpreter -v"],
            127,
            "write each argument as a word of its own, or `sh -c`",
        ),
        (&["--", "NAME=1", "env"], 127, "`--env NAME=VALUE`, before the `--`, sets a variable"),
        (&["--", "./text"], 126, "run `chmod +x ./text`, or name its interpreter before it\n"),
        (&["--", "/"], 126, "it is a folder\n"),
    ] {
        let mut command = procledger(&place);
        let answer = answer(command.current_dir(folder).arg("run").args(args)).expect(code);
        answer.complaint();
        assert!(answer.err.contains(advice), "{answer:?}");
    }
}

/// File names need not be UTF-8, neither in variables nor in arguments.
#[test]
fn a_variable_that_is_not_utf8_is_passed_on() {
    let place = Place::new();
    let bytes = OsStr::from_bytes(b"NAME=caf\xe9=\xff");
    let mut command = procledger(&place);
    command.args(["run", "--task", "t", "--env"]).arg(bytes);
    command.args(["--", "sh", "-c", "printf %s \"$NAME\" | od -An -tx1"]);
    assert_eq!(answer(&mut command).expect(0).out.trim(), "63 61 66 e9 3d ff");
    let mut command = procledger(&place);
    command.args(["run", "--task"]).arg(OsStr::from_bytes(b"caf\xe9")).args(["--", "true"]);
    let answer = answer(&mut command).expect(2);
    assert!(answer.complaint().contains("'caf\u{fffd}' is not valid UTF-8"), "{answer:?}");
}

/// As execvp(3) does, and with it env(1), nohup(1) and timeout(1).
#[test]
fn a_script_without_an_interpreter_is_run_by_the_shell() {
    let place = Place::new();
    let script = place.script("script", "");
    fs::write(&script, "echo $# $1 $0; exit 4\n").expect("a script");
    let script = script.to_str().expect("UTF-8");
    let plain = answer(Command::new("env").args([script, "a b"]).stdout(Stdio::piped())).expect(4);
    for containment in ["session", "keeper"] {
        let args = ["run", "--task", "t", "--containment", containment, "--", script, "a b"];
        assert_eq!(run(&place, &args).expect(4).out, plain.out);
    }
    // Also where it is searched for, after a folder whose name is too long.
    let path = format!("/{}:{}", "x".repeat(5000), place.path().display());
    let mut command = procledger(&place);
    let answer = answer(command.env("PATH", path).args(["run", "--task", "t", "--", "script"]));
    assert!(answer.expect(4).out.starts_with("0 "));
}

/// One more receives fork events where the kernel permits it and the program runs in session mode.
#[test]
fn run_has_two_threads_while_its_program_runs() {
    let place = Place::new();
    for containment in containments() {
        let options = ["--containment", containment];
        let running = Running::start(&place, containment, &options, "echo up; exec sleep 100");
        let folder = format!("/proc/{}/task", running.child.id());
        let threads = || {
            let all = fs::read_dir(&folder).expect("it runs").flatten();
            let names =
                all.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
            names.filter(|name| name != "procledger-fork\n").count()
        };
        // Others come and go: one that deletes old history, or makes a child.
        until("there are two threads", || threads() == 2);
        running.signal(Signal::TERM);
        running.finish().expect(143);
    }
}

#[test]
fn uncommon_and_real_time_signals_are_forwarded() {
    let place = Place::new();
    // The C library's own are 32 and 33. SIGTSTP does not stop a program in a session of its own.
    let numbers = [libc::SIGALRM, libc::SIGPWR, libc::SIGVTALRM, libc::SIGPROF, libc::SIGXCPU];
    let more = [libc::SIGIO, libc::SIGSTKFLT, libc::SIGWINCH, libc::SIGURG, libc::SIGCONT, 34, 64];
    for number in numbers.into_iter().chain(more) {
        let script = format!(
            "trap 'echo got {number}; exit 42' {number}; echo up; while :; do sleep 0.01; done"
        );
        let mut command = procledger(&place);
        command.args(["run", "--task", "all", "--", "bash", "-c", &script, place.marker()]);
        let running = Running::spawn(&mut command);
        let kill = Command::new("bash")
            .args(["-c", &format!("kill -{number} {}", running.child.id())])
            .status()
            .expect("bash");
        assert!(kill.success(), "{number}");
        assert_eq!(running.finish().expect(42).out, format!("got {number}\n"));
    }
}

#[test]
fn an_unusable_ledger_exits_with_125_and_the_program_never_runs() {
    let place = Place::new();
    let proof = place.path().join("ran");
    let proof = proof.to_str().expect("UTF-8");
    fs::write(place.path().join("text"), "this is no ledger at all, only text").expect("a file");
    for (ledger, named) in [("missing/ledger.db", "missing"), ("text", "text")] {
        let ledger = place.path().join(ledger);
        let args = ["run", "--task", "t", "--", "touch", proof];
        let answer = answer(on_ledger(&place, &ledger).args(args)).expect(125);
        let named = place.path().join(named);
        assert!(answer.complaint().contains(named.to_str().expect("UTF-8")), "{answer:?}");
    }
    assert!(!PathBuf::from(proof).exists(), "the program ran without a ledger");
}

#[test]
fn a_removed_working_directory_exits_with_125() {
    let place = Place::new();
    let folder = place.path().join("gone");
    fs::create_dir(&folder).expect("a folder");
    let script = "rmdir ../gone && exec \"$0\" run --task t -- true";
    let mut shell = Command::new("sh");
    crate::cli::command::clean(&mut shell, &place);
    shell.env("PROCLEDGER_DB", place.ledger()).current_dir(&folder);
    let answer = answer(shell.args(["-c", script, crate::cli::command::PROCLEDGER])).expect(125);
    assert!(answer.complaint().contains("working directory"), "{answer:?}");
}

#[test]
fn a_task_that_already_runs_exits_with_75() {
    let place = Place::new();
    let first = Running::start(&place, "only-once", &[], "echo up; exec sleep 300");
    let second = run(&place, &["run", "--task", "only-once", "--", "true"]).expect(75);
    assert!(second.complaint().contains("only-once"), "{second:?}");
    assert!(second.complaint().contains("procledger kill"), "{second:?}");
    first.signal(Signal::TERM);
    first.finish().expect(128 + 15);
    run(&place, &["run", "--task", "only-once", "--", "true"]).expect(0);
}

#[test]
fn signals_are_forwarded_to_the_program() {
    let place = Place::new();
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 42' {name}; echo up; while :; do sleep 0.01; done"
        );
        let running = Running::start(&place, "signals", &[], &script);
        running.signal(signal);
        let answer = running.finish().expect(42);
        assert_eq!(answer.out, format!("got {name}\n"));
    }
}

#[test]
fn signals_ignored_by_nohup_stay_ignored() {
    let place = Place::new();
    let mut shell = Command::new("sh");
    crate::cli::command::clean(&mut shell, &place);
    shell.env("PROCLEDGER_DB", place.ledger()).args([
        "-c",
        "trap '' HUP; exec \"$0\" run --task t -- sh -c 'echo up; while [ ! -e go ]; do sleep 0.05; done; exit 3' \"$1\"",
        crate::cli::command::PROCLEDGER,
        place.marker(),
    ]);
    let running = Running::spawn(shell.current_dir(place.path()));
    running.signal(Signal::HUP);
    fs::write(place.path().join("go"), "").expect("a file");
    running.finish().expect(3);
}

#[test]
fn the_program_inherits_the_standard_streams() {
    let place = Place::new();
    let mut child = procledger(&place)
        .args(["run", "--task", "cat", "--", "sh", "-c", "cat; printf 'to err' >&2"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("procledger");
    let bytes = "line\nno newline at the end \u{1b}[31m";
    child.stdin.take().expect("piped").write_all(bytes.as_bytes()).expect("a reader");
    let answer = finish(child).expect(0);
    assert_eq!(answer.out, bytes);
    assert_eq!(answer.err, "to err");
}

#[test]
fn without_a_terminal_the_program_leads_its_own_session() {
    let place = Place::new();
    let script = "read -r stat < /proc/self/stat; echo $$ ${stat##*) }";
    let answer = run(&place, &["run", "--task", "session", "--", "sh", "-c", script]).expect(0);
    let words: Vec<&str> = answer.out.split_whitespace().collect();
    let (pid, group, session) = (words[0], words[3], words[4]);
    assert_eq!((group, session), (pid, pid), "{answer:?}");
}

#[test]
fn the_program_inherits_no_descriptor_of_run() {
    let place = Place::new();
    // Those of the test runner's own parents.
    let list = |command: &mut Command| answer(command.stdin(Stdio::null())).expect(0).out;
    let plain = list(Command::new("ls").arg("/proc/self/fd").stdout(Stdio::piped()));
    let args = ["run", "--task", "fds", "--", "ls", "/proc/self/fd"];
    assert_eq!(list(procledger(&place).args(args)), plain);
}

#[test]
fn an_owner_that_is_killed_leaves_a_tree_that_reap_ends() {
    let place = Place::new();
    let script = "sh -c 'echo $$; sleep 300; :' inner & trap '' TERM; wait; sleep 300";
    let running = Running::start(&place, "tree", &[], script);
    let inner: u32 = running.said.parse().expect("a pid");
    running.crash();
    assert!(is_alive(inner), "only the owner was killed");
    let report = run(&place, &["reap", "--json"]).expect(0).json();
    assert!(report["endings"].as_array().expect("endings").len() >= 3, "{report:#}");
    assert!(!is_alive(inner));
    assert_eq!(place.alive(), [0_u32; 0], "the whole tree is dead");
    let leaks = run(&place, &["report", "--format", "json"]).expect(0).json();
    for leak in leaks.as_array().expect("leaks") {
        assert_eq!(leak["task_id"], "tree");
        assert_eq!(leak["kind"], "orphan");
    }
}

#[test]
fn the_next_run_reaps_before_it_starts_anything() {
    let place = Place::new();
    let running = Running::start(&place, "first", &[], "echo $$; exec sleep 300");
    let orphan: u32 = running.said.parse().expect("a pid");
    running.crash();
    // A zombie that has not been reaped yet is dead.
    let script = format!(
        "case $(grep ^State: /proc/{orphan}/status 2>/dev/null) in *Z*|'') echo clean;; *) echo alive;; esac"
    );
    let second = run(&place, &["run", "--task", "second", "--", "sh", "-c", &script]).expect(0);
    assert_eq!(second.out, "clean\n");
}

#[test]
fn strays_of_the_program_are_ended_with_it() {
    let place = Place::new();
    let script = "sleep 300 >/dev/null 2>&1 & echo $!; exit 5";
    let answer = run(&place, &["run", "--task", "stray", "--", "sh", "-c", script, place.marker()]);
    let answer = answer.expect(5);
    let stray: u32 = answer.out.trim().parse().expect("a pid");
    until("the stray is dead", || !is_alive(stray));
    let leaks = run(&place, &["report", "--format", "json"]).expect(0).json();
    assert_eq!(leaks[0]["kind"], "stray", "{leaks:#}");
}

#[test]
fn keep_strays_leaves_strays_running() {
    let place = Place::new();
    let script = "sleep 300 >/dev/null 2>&1 & echo $!";
    let args =
        ["run", "--task", "stray", "--keep-strays", "--", "sh", "-c", script, place.marker()];
    let answer = run(&place, &args).expect(0);
    let stray: u32 = answer.out.trim().parse().expect("a pid");
    assert!(is_alive(stray));
}

#[test]
fn max_runtime_ends_the_program() {
    let place = Place::new();
    let args = ["run", "--task", "long", "--max-runtime", "200ms", "--", "sleep", "300"];
    run(&place, &args).expect(124);
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    assert_eq!(rows[0]["end_reason"], "max_runtime", "{rows:#}");
    assert_eq!(rows[0]["max_runtime_ms"], 200);
    // Whatever the program makes of it.
    let script = "trap 'exit 0' TERM; while :; do sleep 0.01; done";
    let args = ["run", "--task", "long", "--max-runtime", "200ms", "--", "sh", "-c", script];
    run(&place, &args).expect(124);
}

#[test]
fn a_program_that_kill_ended_with_0_exits_with_its_signal() {
    let place = Place::new();
    let script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let running = Running::start(&place, "t", &["--grace", "20s"], script);
    run(&place, &["kill", "t"]).expect(0);
    running.finish().expect(128 + 15);
    // How it reacts to a signal from a user is its own decision.
    let running = Running::start(&place, "t", &[], script);
    running.signal(Signal::TERM);
    running.finish().expect(0);
}

#[test]
fn grace_is_the_time_between_term_and_kill() {
    let place = Place::new();
    // Obeys SIGTERM, but slowly.
    let script = "trap 'sleep 0.4; echo tidy; exit 9' TERM; echo up; while :; do sleep 0.01; done";
    let patient = Running::start(&place, "slow", &["--grace", "20s"], script);
    run(&place, &["kill", "slow"]).expect(0);
    assert_eq!(patient.finish().expect(9).out, "tidy\n");
    let script = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    let hasty = Running::start(&place, "stubborn", &["--grace", "1ms"], script);
    run(&place, &["kill", "stubborn"]).expect(0);
    hasty.finish().expect(128 + 9);
}

/// The default is 5 s; the profile of the ecosystem-manager keeps the 100 ms that its owner
/// prescribes.
#[test]
fn a_flush_of_a_second_is_not_cut_off() {
    let place = Place::new();
    // It starts no process meanwhile: that one would get SIGTERM as well.
    let script = "trap 'n=0; while [ $n -lt 500000 ]; do n=$((n+1)); done; echo tidy; exit 9' TERM; \
                  echo up; while :; do sleep 0.01; done";
    let patient = Running::start(&place, "slow", &[], script);
    let began = Instant::now();
    run(&place, &["kill", "slow"]).expect(0);
    assert_eq!(patient.finish().expect(9).out, "tidy\n", "after {:?}", began.elapsed());
    let export = place.path().join("running.json");
    let export = export.to_str().expect("UTF-8");
    let profile = ["--profile", "ecosystem-manager", "--export", export];
    let prescribed = Running::start(&place, "former", &profile, "echo up; exec sleep 300");
    run(&place, &["kill", "former"]).expect(0);
    prescribed.finish().expect(128 + 15);
    let rows =
        place.sqlite3("SELECT task_id, grace_ms FROM process WHERE root IS NULL ORDER BY id");
    assert_eq!(rows, "slow|5000\nformer|100");
}

/// The grace is an upper limit: `run` does not wait for all of it.
#[test]
fn a_program_that_ends_at_sigterm_is_not_delayed_by_the_grace() {
    let place = Place::new();
    let running = Running::start(&place, "obedient", &[], "echo up; exec sleep 300");
    let began = Instant::now();
    let killed = run(&place, &["kill", "obedient"]).expect(0);
    assert!(killed.out.contains("ended by TERM"), "{killed:?}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    running.finish().expect(128 + 15);
}

#[test]
fn a_survive_task_outlives_its_owner_and_is_adopted_by_the_next() {
    let place = Place::new();
    let running = Running::start(&place, "daemon", &["--survive"], "echo $$; exec sleep 300");
    let daemon: u32 = running.said.parse().expect("a pid");
    running.crash();
    run(&place, &["reap"]).expect(0);
    assert!(is_alive(daemon), "marked survive, and ended all the same");
    run(&place, &["run", "--task", "other", "--", "true"]).expect(0);
    assert!(is_alive(daemon));
    let rows = run(&place, &["ps", "--json"]).expect(0).json();
    assert_eq!(rows[0]["survive"], true, "{rows:#}");
    run(&place, &["kill", "daemon"]).expect(0);
    assert!(!is_alive(daemon));
}

#[test]
fn run_leaves_no_instance_lock_behind() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let names: Vec<_> = fs::read_dir(place.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.contains("-instance-"))
        .collect();
    assert_eq!(names, [""; 0], "locks of an instance that shut down");
}

#[test]
fn sqlite3_can_query_the_history() {
    need!("sqlite3");
    let place = Place::new();
    run(&place, &["run", "--task", "q", "--", "sh", "-c", "exit 3"]).expect(3);
    assert_eq!(place.sqlite3("SELECT task_id, exit_code, end_reason FROM history"), "q|3|exited");
}

#[test]
fn a_program_that_kills_itself_by_sigkill_is_reported_by_signal() {
    let place = Place::new();
    let answer = run(&place, &["run", "--task", "k", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(answer.status.signal(), None, "`run` itself was not killed");
    answer.expect(137);
}
