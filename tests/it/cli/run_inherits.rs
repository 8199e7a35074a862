//! `procledger run` hands on to its program what it has inherited, as env(1) does: signals that are ignored or blocked.

use std::process::Command;

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{Answer, PROCLEDGER, Running, answer, clean, containments},
    support::{Place, need, pidfd},
};

/// What the caller of the command ignores and blocks, as arguments of env(1).
const UNUSUAL: [&str; 2] =
    ["--ignore-signal=HUP,INT,USR1,PIPE,CHLD,RTMIN+3", "--block-signal=TERM,USR2,RTMIN+4"];
const STATUS: [&str; 3] = ["grep", "-E", "^Sig(Blk|Ign):"];

/// Runs a program with these signals, below `run` if there are options for it.
fn program(place: &Place, options: Option<&[&str]>, program: &[&str]) -> Command {
    let mut command = Command::new("env");
    clean(&mut command, place);
    command.env("PROCLEDGER_DB", place.ledger()).args(UNUSUAL);
    if let Some(options) = options {
        command.args([PROCLEDGER, "run", "--task", "t"]).args(options).arg("--");
    }
    command.args(program);
    command
}

fn signals(place: &Place, options: Option<&[&str]>) -> Answer {
    let status = [&STATUS[..], &["/proc/self/status"]].concat();
    answer(&mut program(place, options, &status)).expect(0)
}

#[test]
fn ignored_and_blocked_signals_are_handed_on() {
    let place = Place::new();
    let plain = signals(&place, None).out;
    assert!(!plain.contains("Blk:\t0000000000000000"), "{plain}");
    let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    for containment in containments() {
        let options = ["--containment", containment];
        assert_eq!(signals(&place, Some(&options)).out, plain, "{containment}");
        let options = ["--containment", containment, "--clean"];
        assert_eq!(signals(&place, Some(&options)).out, none, "{containment}");
    }
}

/// A caller that ignores SIGCHLD has its children reaped by the kernel, and `run` inherits that.
#[test]
fn the_exit_code_is_known_although_sigchld_is_ignored() {
    let place = Place::new();
    for containment in containments() {
        let options = ["--containment", containment];
        answer(&mut program(&place, Some(&options), &["sh", "-c", "exit 7"])).expect(7);
    }
}

#[test]
fn nohup_protects_the_program_from_sighup() {
    need!("nohup");
    let place = Place::new();
    let script = "echo up; while [ ! -e go ]; do sleep 0.01; done; exit 5";
    let mut command = Command::new("nohup");
    clean(&mut command, &place);
    command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    command.args([PROCLEDGER, "run", "--task", "t", "--", "sh", "-c"]);
    command.args(["echo $$ > pid; eval \"$0\"", script]);
    let running = Running::spawn(&mut command);
    let program = place.eye("pid");
    for pid in [running.child.id(), program.pid()] {
        pidfd_send_signal(pidfd(pid).expect("alive"), Signal::HUP).expect("sent");
    }
    std::fs::write(place.path().join("go"), "").expect("written");
    running.finish().expect(5);
}
