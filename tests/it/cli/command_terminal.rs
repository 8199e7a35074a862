//! The command on a real terminal: Ctrl-C, Ctrl-Z and the foreground as from a shell, and tables
//! that fit.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
};

use crate::{
    cli::command::{PROCLEDGER, Running, answer, clean, procledger, run},
    cli::pty::Pty,
    support::{Guard, Place, eventually, need, state, until},
};

/// Prints its pid and the terminal's foreground group, and then stays.
const REPORTER: &str = r#"read -r stat < /proc/self/stat; set -- ${stat##*) }
echo "pid=$$ group=$3 session=$4 foreground=$6;"
exec sleep 300"#;

#[track_caller]
fn ended(child: &mut Guard) -> ExitStatus {
    eventually("it ends", || child.0.try_wait().expect("a child"))
}

/// The number after `name=` in the terminal's output.
#[track_caller]
fn number(text: &str, name: &str) -> u32 {
    let rest = text.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("{name}: {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
}

#[test]
fn the_program_keeps_the_session_and_has_the_foreground() {
    let place = Place::new();
    let mut pty = Pty::new();
    let mut command = procledger(&place);
    command.args(["run", "--task", "fg", "--", "sh", "-c", REPORTER, place.marker()]);
    let mut child = pty.spawn(&mut command);
    pty.wait_for(";", 1);
    let seen = pty.seen();
    let pid = number(&seen, "pid");
    assert_eq!(number(&seen, "session"), child.pid(), "the session is that of `run`");
    assert_eq!(number(&seen, "group"), pid, "its own process group");
    assert_eq!(number(&seen, "foreground"), pid, "from its first instruction on");
    assert_eq!(pty.foreground(), pid);
    pty.type_in("\x03");
    assert_eq!(ended(&mut child).signal(), Some(2));
    assert_ne!(state(pid), Some('S'));
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    assert_eq!(rows[0]["exit_signal"], 2, "{rows:#}");
    assert_eq!(rows[0]["end_reason"], "exited", "{rows:#}");
}

#[test]
fn ctrl_c_reaches_the_program_once_and_run_exits_as_it_did() {
    let place = Place::new();
    let mut pty = Pty::new();
    let script = "n=0; trap 'n=$((n+1)); echo int $n' INT; echo up; \
                  while [ ! -e done ]; do sleep 0.05; done; exit 12";
    let mut command = procledger(&place);
    command.current_dir(place.path()).args(["run", "--task", "trap", "--", "sh", "-c", script]);
    let mut child = pty.spawn(command.arg(place.marker()));
    pty.wait_for("up", 1);
    pty.type_in("\x03");
    pty.wait_for("int 1", 1);
    std::fs::write(place.path().join("done"), "").expect("a file");
    assert_eq!(ended(&mut child).code(), Some(12), "{}", pty.seen());
    assert!(!pty.seen().contains("int 2"), "the terminal and `run` both sent it: {}", pty.seen());
}

#[test]
fn the_program_reads_what_is_typed() {
    let place = Place::new();
    let mut pty = Pty::new();
    let script = "echo up; read -r line; echo heard $line; exit 4";
    let mut command = procledger(&place);
    let mut child = pty.spawn(command.args(["run", "--task", "read", "--", "sh", "-c", script]));
    pty.wait_for("up", 1);
    pty.type_in("hello\n");
    assert_eq!(ended(&mut child).code(), Some(4));
    pty.wait_for("heard hello", 1);
}

#[test]
fn the_terminal_is_given_back_when_the_program_ends() {
    let place = Place::new();
    let mut pty = Pty::new();
    let script = "trap '' HUP; echo up; read -r line; exit 0";
    let mut shell = Command::new("sh");
    clean(&mut shell, &place);
    // A shell without job control: only `run` can take the terminal back.
    shell.env("PROCLEDGER_DB", place.ledger()).args([
        "-c",
        "\"$0\" run --task back -- sh -c \"$1\"; echo code=$?; exec sleep 300",
        PROCLEDGER,
        script,
        place.marker(),
    ]);
    let child = pty.spawn(&mut shell);
    pty.wait_for("up", 1);
    assert_ne!(pty.foreground(), child.pid());
    pty.type_in("\n");
    pty.wait_for("code=0", 1);
    assert_eq!(pty.foreground(), child.pid(), "the terminal was not given back");
}

#[test]
fn ctrl_z_returns_to_the_shell_and_fg_continues_the_program() {
    need!("bash");
    let place = Place::new();
    let mut pty = Pty::new();
    let mut bash = pty.bash(&place);
    let script = place.script("job", "echo here=$$ is; read -r line; echo heard $line; exit 6");
    let script = script.to_str().expect("UTF-8");
    pty.type_in(&format!("$P run --task z -- {script}\n"));
    pty.wait_for(" is", 1);
    let program = number(&pty.seen(), "here");
    assert_eq!(pty.foreground(), program);
    pty.type_in("\x1a");
    pty.wait_for("prompt> ", 2);
    assert_eq!(state(program), Some('T'), "the program is stopped");
    assert_eq!(pty.foreground(), bash.pid(), "the shell has the terminal");
    // The shell responds, and reports the job as stopped.
    pty.type_in("jobs; echo still$((1+1))here\n");
    pty.wait_for("still2here", 1);
    assert!(pty.seen().contains("Stopped"), "{}", pty.seen());
    pty.type_in("fg\n");
    until("the program has the terminal again", || pty.foreground() == program);
    until("the program goes on", || state(program) != Some('T'));
    pty.type_in("again\n");
    pty.wait_for("heard again", 1);
    pty.wait_for("prompt> ", 4);
    pty.type_in("echo code=$?; exit\n");
    pty.wait_for("code=6", 1);
    assert_eq!(ended(&mut bash).signal(), None);
}

#[test]
fn a_program_before_a_pipe_leaves_the_foreground_to_the_pipeline() {
    need!("bash");
    let place = Place::new();
    let pty = Pty::new();
    let mut shell = Command::new("bash");
    clean(&mut shell, &place);
    shell.env("PROCLEDGER_DB", place.ledger()).args([
        "-c",
        "\"$0\" run --task piped -- sh -c 'read -r s < /proc/self/stat; set -- ${s##*) }; echo session=$4 foreground=$6' | cat",
        PROCLEDGER,
    ]);
    let mut child = pty.spawn(&mut shell);
    assert_eq!(ended(&mut child).code(), Some(0));
    pty.wait_for("session=", 1);
    assert_eq!(number(&pty.seen(), "session"), child.pid(), "the session of the terminal");
}

#[test]
fn a_table_fits_the_terminal_unless_wide_output_is_requested() {
    let place = Place::new();
    let long = format!("up; : {}", "x".repeat(300));
    let script = format!("echo {long}; exec sleep 300");
    let _running = Running::start(&place, "wide", &[], &script);
    let shown = |args: &[&str]| {
        let pty = Pty::new();
        let mut child = pty.spawn(procledger(&place).args(args));
        assert_eq!(ended(&mut child).code(), Some(0));
        pty.wait_for("COMMAND", 1);
        pty.wait_for("wide", 1);
        pty.seen()
    };
    let cut = shown(&["ps"]);
    assert!(cut.lines().all(|line| line.trim_end().chars().count() <= 80), "{cut}");
    assert_eq!(cut.lines().count(), 2, "{cut}");
    assert!(shown(&["ps", "--wide"]).contains(&long));
    assert!(run(&place, &["ps"]).expect(0).out.contains(&long), "whole in a pipe");
}

/// Long names, long states and long commands: each row still fits one line of 80 columns.
#[test]
fn every_list_fits_eighty_columns() {
    let place = Place::new();
    let task = "a-task-with-a-name-that-is-much-too-long-for-any-column";
    let long = format!("echo up; : {}; sleep 300 & exec sleep 300", "x".repeat(200));
    for (index, end) in ["exit 3", "kill -KILL $$"].into_iter().enumerate() {
        let script = format!(": {}; {end}", "y".repeat(200));
        let name = format!("{task}-{index}");
        run(&place, &["run", "--task", &name, "--", "sh", "-c", &script]);
    }
    Running::start(&place, task, &[], &long).crash();
    run(&place, &["reap"]).expect(0);
    let _running = Running::start(&place, task, &[], &long);
    for (args, lines) in [(&["ps"][..], 2), (&["ps", "--all"], 6), (&["tree", task], 4)] {
        let pty = Pty::new();
        let mut child = pty.spawn(procledger(&place).args(args).env("NO_COLOR", "1"));
        assert_eq!(ended(&mut child).code(), Some(0));
        until("all is shown", || pty.seen().lines().count() >= lines);
        let seen = pty.seen();
        // The heading of a tree is a sentence.
        let rows = seen.lines().filter(|line| !line.contains(" of CPU, containment "));
        for row in rows {
            assert!(row.trim_end().chars().count() <= 80, "{args:?}: {row:?} of\n{seen}");
        }
    }
}

#[test]
fn colors_are_used_on_terminals_and_as_the_environment_requests() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let shown = |no_color: &str| {
        let pty = Pty::new();
        let mut child = pty.spawn(procledger(&place).arg("doctor").env("NO_COLOR", no_color));
        assert_eq!(ended(&mut child).code(), Some(0), "{}", pty.seen());
        pty.wait_for("last pass", 1);
        pty.seen()
    };
    assert!(shown("").contains("\x1b[32mok"));
    assert!(!shown("1").contains('\x1b'));
    assert!(!run(&place, &["doctor"]).expect(0).out.contains('\x1b'), "none in a pipe");
    let piped = |force: &str, no_color: &str| {
        let mut command = procledger(&place);
        command.args(["ps", "--all"]).env("CLICOLOR_FORCE", force).env("NO_COLOR", no_color);
        answer(&mut command).expect(0).out.contains("\x1b[1mTASK")
    };
    assert!(piped("1", "") && !piped("0", "") && !piped("1", "1"), "NO_COLOR has the last word");
}
