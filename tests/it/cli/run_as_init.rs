//! `procledger run` as the first process of a PID namespace, or as a subreaper, is an init: it
//! reaps all processes that it adopts, forwards signals, and ends with its program.

use std::{fs, os::unix::process::CommandExt, path::Path, process::Command};

use rustix::process::{getpid, set_child_subreaper};

use crate::{
    cli::command::{Answer, PROCLEDGER, answer, clean, containments, run},
    support::{Place, namespaced, namespaces},
};

/// A shell that starts 20 processes, which it leaves to `run`: they belong to no task.
const UNRELATED: &str = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); \
    (sh -c 'echo $$ >> unrelated; exec sleep 0.3' &); done; exec \"$@\"";

/// A program that ends with 42 once none of them is left, not even as a zombie.
const WAITS: &str = "while :; do left=$((20 - $(wc -l < unrelated))); \
    for pid in $(cat unrelated); do [ ! -e /proc/$pid ] || left=$((left+1)); done; \
    [ $left != 0 ] || exit 42; sleep 0.05; done";

/// Those that can be used in the namespace: there an ordinary user is root of a user namespace, to
/// which root's files belong to an unknown user.
fn containments_inside() -> Vec<&'static str> {
    let is_root = rustix::process::geteuid().is_root();
    containments().into_iter().filter(|mode| is_root || *mode == "session").collect()
}

/// The first process is `first`, which executes `run` with these arguments.
fn as_first_process(place: &Place, first: &[&str], args: &[&str]) -> Answer {
    let mut command = namespaced(first.first().unwrap_or(&PROCLEDGER));
    clean(&mut command, place);
    command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    if !first.is_empty() {
        command.args(&first[1..]).arg(PROCLEDGER);
    }
    answer(command.arg("run").args(args))
}

#[test]
fn as_the_first_process_it_reaps_processes_that_belong_to_no_task() {
    if !namespaces() {
        return;
    }
    for containment in containments_inside() {
        let place = Place::new();
        let args = ["--containment", containment, "--", "sh", "-c", WAITS];
        as_first_process(&place, &["sh", "-c", UNRELATED, "sh"], &args).expect(42);
    }
}

#[test]
#[expect(unsafe_code, reason = "only the process itself can become a subreaper")]
fn as_a_subreaper_it_reaps_processes_that_belong_to_no_task() {
    for containment in containments() {
        let place = Place::new();
        let mut command = Command::new("sh");
        clean(&mut command, &place);
        command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
        command.args(["-c", UNRELATED, "sh", PROCLEDGER, "run", "--containment", containment]);
        command.args(["--", "sh", "-c", WAITS]);
        // SAFETY: getpid(2) and prctl(2) are async-signal-safe, and nothing else happens there.
        unsafe { command.pre_exec(|| Ok(set_child_subreaper(Some(getpid()))?)) };
        answer(&mut command).expect(42);
    }
}

/// The kernel discards signals without a handler that are sent to the first process.
#[test]
fn as_the_first_process_it_forwards_signals() {
    if !namespaces() {
        return;
    }
    let place = Place::new();
    for signal in ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "ALRM", "CONT", "WINCH", "RTMIN"] {
        let script =
            format!("trap 'exit 42' {signal}; kill -{signal} 1; while :; do sleep 0.01; done");
        as_first_process(&place, &[], &["--", "bash", "-c", &script]).expect(42);
    }
}

#[test]
fn as_the_first_process_it_ends_with_its_program_and_leaves_nothing() {
    if !namespaces() {
        return;
    }
    let leaves = "setsid sleep 3600 & (sleep 3600 &); (trap '' TERM; while :; do sleep 1; done) &";
    for containment in containments_inside() {
        let place = Place::new();
        for (ending, code) in [("exit 3", 3), ("kill -KILL $$", 137), ("kill -INT $$", 130)] {
            let script = format!("{leaves} {ending}");
            let args = ["--containment", containment, "--grace", "50ms", "--", "sh", "-c", &script];
            as_first_process(&place, &[], &args).expect(code);
        }
        let leaks = run(&place, &["report", "--format", "json"]).expect(0).json();
        assert!(leaks.as_array().expect("leaks").len() >= 9, "{containment}: {leaks}");
        assert_eq!(place.alive(), [0_u32; 0]);
    }
}

/// The words of an instruction in the example image.
fn instruction(file: &str, name: &str) -> Vec<String> {
    let line = file.lines().find_map(|line| line.strip_prefix(name));
    let words = line.unwrap_or_else(|| panic!("no {name}")).trim();
    serde_json::from_str(words).unwrap_or_else(|error| panic!("{name} {words}: {error}"))
}

#[test]
fn the_example_image_starts_its_program() {
    if !namespaces() {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/Containerfile");
    let file = fs::read_to_string(file).expect("the example");
    assert!(file.contains("\nENV PROCLEDGER_DB="), "{file}");
    let entrypoint = instruction(&file, "ENTRYPOINT");
    assert_eq!(entrypoint[..2], ["procledger", "run"], "{entrypoint:?}");
    let (place, command) = (Place::new(), instruction(&file, "CMD"));
    let args = |program: &[&str]| -> Vec<String> {
        entrypoint[2..].iter().cloned().chain(program.iter().map(ToString::to_string)).collect()
    };
    let started = |args: Vec<String>| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        as_first_process(&place, &[], &args)
    };
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    assert!(started(args(&command)).expect(0).out.starts_with("name a program"));
    // A container that is started again has the same ledger.
    let script = "echo $PPID; (sleep 3600 &); exit 7";
    assert_eq!(started(args(&["sh", "-c", script])).expect(7).out, "1\n");
}
