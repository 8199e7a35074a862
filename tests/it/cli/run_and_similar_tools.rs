//! `run` compared with tini, dumb-init, env, nohup, setsid, nice and timeout: each case runs with
//! the other tool, then with `run`. Where they differ, [docs/callers.md](../../../docs/callers.md)
//! says why.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::{
        command::{Answer, PROCLEDGER, Running, answer, clean, finish},
        pty::Pty,
    },
    support::{Place, need, pidfd, until},
};

const RUN: &[&str] = &[PROCLEDGER, "run", "--task", "t", "--"];
const INITS: [&[&str]; 2] = [&["tini", "-s", "--"], &["dumb-init", "--"]];
const PREFIXES: [&[&str]; 5] =
    [&["env"], &["nohup"], &["setsid", "-w"], &["nice"], &["timeout", "60"]];

fn command(place: &Place, prefix: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(prefix[0]);
    clean(&mut command, place);
    command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    command.args(&prefix[1..]).args(program);
    command
}

fn play(place: &Place, prefix: &[&str], program: &[&str]) -> Answer {
    answer(&mut command(place, prefix, program))
}

#[test]
fn the_exit_code_is_that_of_the_program() {
    need!("tini", "dumb-init", "nohup", "setsid", "nice", "timeout");
    let place = Place::new();
    for prefix in INITS.into_iter().chain(PREFIXES).chain([RUN]) {
        for code in [0, 1, 7, 126, 255] {
            let script = format!("echo out; echo err >&2; exit {code}");
            let ours = play(&place, prefix, &["sh", "-c", &script]).expect(code);
            assert_eq!(ours.out, "out\n", "{prefix:?}");
            assert!(ours.err.ends_with("err\n"), "{prefix:?}: {}", ours.err);
        }
    }
}

#[test]
fn a_death_by_a_signal_exits_with_128_plus_its_number() {
    need!("tini", "dumb-init");
    let place = Place::new();
    for prefix in INITS.into_iter().chain([RUN]) {
        for signal in [1, 6, 9, 10, 15] {
            let script = format!("kill -{signal} $$");
            play(&place, prefix, &["sh", "-c", &script]).expect(128 + signal);
        }
    }
}

#[test]
fn a_program_that_cannot_run_exits_with_126_or_127() {
    need!("tini", "nohup", "setsid", "nice", "timeout");
    let place = Place::new();
    let inits = [INITS[0], RUN];
    for prefix in inits.into_iter().chain(PREFIXES) {
        play(&place, prefix, &["/no/such/program"]).expect(127);
        play(&place, prefix, &["/etc/passwd"]).expect(126);
    }
}

#[test]
fn signals_reach_the_program() {
    need!("tini", "dumb-init");
    let signals = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("TERM", Signal::TERM),
        ("CONT", Signal::CONT),
        ("WINCH", Signal::WINCH),
        ("ALRM", Signal::ALARM),
    ];
    for prefix in INITS.into_iter().chain([RUN]) {
        for (name, signal) in signals {
            let place = Place::new();
            let script = format!("trap 'exit 42' {name}; echo up; while :; do sleep 0.01; done");
            let running = Running::spawn(&mut command(&place, prefix, &["sh", "-c", &script]));
            let pid = pidfd(running.child.id()).expect("alive");
            pidfd_send_signal(pid, signal).expect("sent");
            running.finish().expect(42);
        }
    }
}

#[test]
fn input_reaches_the_program() {
    need!("tini", "dumb-init", "timeout");
    let place = Place::new();
    for prefix in INITS.into_iter().chain(PREFIXES).chain([RUN]) {
        let mut command = command(&place, prefix, &["cat"]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("started");
        child.stdin.take().expect("piped").write_all(b"a line\n").expect("written");
        assert_eq!(finish(child).expect(0).out, "a line\n", "{prefix:?}");
    }
}

#[test]
fn an_exceeded_time_limit_exits_with_124() {
    need!("timeout");
    let place = Place::new();
    let limited =
        [PROCLEDGER, "run", "--task", "t", "--max-runtime", "200ms", "--grace", "100ms", "--"];
    for prefix in [&["timeout", "0.2"][..], &limited] {
        play(&place, prefix, &["sleep", "3600"]).expect(124);
        play(&place, prefix, &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done"])
            .expect(124);
    }
    // Here they differ: one code for all that passed their limit.
    let stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"];
    play(&place, &["timeout", "-k", "0.1", "0.2"], &stubborn).expect(-1);
    play(&place, &limited, &stubborn).expect(124);
}

/// Options of tini and dumb-init, and those of `run` for the same.
#[test]
fn a_forwarded_signal_can_be_replaced_or_dropped() {
    need!("dumb-init");
    let place = Place::new();
    let rewriting: [[&[&str]; 2]; 2] = [
        [&["dumb-init", "--rewrite", "15:3", "--"], &["dumb-init", "--rewrite", "15:0", "--"]],
        [
            &[PROCLEDGER, "run", "--rewrite", "TERM:QUIT", "--"],
            &[PROCLEDGER, "run", "--rewrite", "SIGTERM:0", "--rewrite", "2:HUP", "--"],
        ],
    ];
    for [another, none] in rewriting {
        let script = "trap 'exit 41' TERM; trap 'exit 42' QUIT; trap 'exit 43' USR1; echo up; \
                      while :; do sleep 0.01; done";
        let running = Running::spawn(&mut command(&place, another, &["sh", "-c", script]));
        running.signal(Signal::TERM);
        running.finish().expect(42);
        let running = Running::spawn(&mut command(&place, none, &["sh", "-c", script]));
        // A second one that was forwarded would end the task at once.
        running.signal(Signal::TERM);
        running.signal(Signal::TERM);
        running.signal(Signal::USR1);
        running.finish().expect(43);
    }
}

#[test]
fn a_signal_reaches_the_program_alone_or_its_whole_tree() {
    need!("tini", "dumb-init");
    let script = "(trap 'echo child >> log; exit' USR1; : > ready; while :; do sleep 0.01; done) & \
                  child=$!; trap 'eval \"$0\"; wait; echo root >> log; exit 42' USR1; \
                  while [ ! -e ready ]; do sleep 0.05; done; echo up; while :; do sleep 0.05; done";
    let alone: [&[&str]; 3] = [INITS[0], &["dumb-init", "--single-child", "--"], RUN];
    let all: [&[&str]; 3] = [
        &["tini", "-s", "-g", "--"],
        &["dumb-init", "--"],
        &[PROCLEDGER, "run", "--task", "t", "--signal-tree", "--"],
    ];
    let kill = "sleep 0.2; kill $child";
    for (prefixes, at_the_signal, log) in [(alone, kill, "root\n"), (all, ":", "child\nroot\n")] {
        for prefix in prefixes {
            let place = Place::new();
            let running =
                Running::spawn(&mut command(&place, prefix, &["sh", "-c", script, at_the_signal]));
            running.signal(Signal::USR1);
            running.finish().expect(42);
            let text = std::fs::read_to_string(place.path().join("log")).expect("a log");
            assert_eq!(text, log, "{prefix:?}");
        }
    }
}

#[test]
fn an_exit_code_counts_as_success_on_request() {
    need!("tini");
    let place = Place::new();
    let accepting: [&[&str]; 2] = [
        &["tini", "-s", "-e", "7", "-e", "143", "--"],
        &[PROCLEDGER, "run", "--success-exit", "7", "--success-exit", "143", "--"],
    ];
    for prefix in accepting {
        for (script, code) in [("exit 7", 0), ("exit 8", 8), ("kill -TERM $$", 0)] {
            play(&place, prefix, &["sh", "-c", script]).expect(code);
        }
        let running =
            Running::spawn(&mut command(&place, prefix, &["sh", "-c", "echo up; exec sleep 3600"]));
        running.signal(Signal::TERM);
        running.finish().expect(0);
    }
    // What something else ended is never a success.
    let limit =
        ["run", "--success-exit", "124", "--success-exit", "143", "--max-runtime", "200ms", "--"];
    let limited = [&[PROCLEDGER], &limit[..]].concat();
    play(&place, &limited, &["sleep", "3600"]).expect(124);
}

/// The signal goes to tini itself, which forwards it; `run` ends the tree.
#[test]
fn the_death_of_the_parent_ends_the_program() {
    need!("tini");
    let prefixes: [&[&str]; 2] = [
        &["tini", "-s", "-p", "SIGTERM", "--"],
        &[PROCLEDGER, "run", "--task", "t", "--die-with-parent", "--"],
    ];
    for prefix in prefixes {
        let place = Place::new();
        // A shell whose helper was ended as well says so, here to a pipe without a reader.
        let script = "exec 2> /dev/null; trap 'echo ended > log; exit' TERM; echo up; while :; do sleep 0.01; done";
        let parent = ["sh", "-c", "\"$@\" & wait", "sh"];
        let program = [&parent[1..], prefix, &["sh", "-c", script]].concat();
        let running = Running::spawn(&mut command(&place, &parent[..1], &program));
        running.crash();
        until("it is ended", || place.path().join("log").exists());
    }
}

#[test]
fn variables_and_directory_can_be_set_for_the_program() {
    need!("env");
    let place = Place::new();
    std::fs::create_dir(place.path().join("below")).expect("a folder");
    let setting: [&[&str]; 2] = [
        &["env", "-C", "below", "NAME=a b", "EMPTY="],
        &[PROCLEDGER, "run", "--cwd", "below", "--env", "NAME=a b", "--env", "EMPTY=", "--"],
    ];
    for prefix in setting {
        let script = "echo \"$NAME|${EMPTY-unset}|${PWD##*/}\"";
        assert_eq!(play(&place, prefix, &["sh", "-c", script]).expect(0).out, "a b||below\n");
    }
}

#[test]
fn the_program_leads_a_session() {
    need!("setsid");
    let place = Place::new();
    for prefix in [&["setsid", "-w"][..], RUN] {
        let script = "cut -d' ' -f1,6 /proc/$$/stat";
        let answer = play(&place, prefix, &["sh", "-c", script]).expect(0);
        let (pid, session) = answer.out.trim().split_once(' ').expect("two numbers");
        assert_eq!(pid, session, "{prefix:?}");
    }
}

#[test]
fn the_signal_at_a_time_limit_can_be_chosen_and_reaches_descendants() {
    need!("timeout");
    let limited: [&[&str]; 2] = [
        &["timeout", "-s", "USR1", "3"],
        &[PROCLEDGER, "run", "--stop-signal", "USR1", "--max-runtime", "3s", "--"],
    ];
    let stay = "while :; do sleep 0.01; done";
    let child = format!("trap \"echo child >> log; exit\" USR1; {stay}");
    let script = format!("trap 'wait; echo root >> log; exit' USR1; sh -c '{child}' & {stay}");
    let script = script.as_str();
    std::thread::scope(|scope| {
        for prefix in limited {
            scope.spawn(move || {
                let place = Place::new();
                play(&place, prefix, &["sh", "-c", script]).expect(124);
                let log = std::fs::read_to_string(place.path().join("log")).expect("a log");
                assert_eq!(log, "child\nroot\n", "{prefix:?}");
            });
        }
    });
}

/// Here they differ: a prefix changes no stream, and has one code for all wrong options.
#[test]
fn no_stream_is_redirected_and_an_invalid_limit_is_a_usage_error() {
    need!("nohup", "timeout", "bash");
    for (prefix, file) in [("nohup", true), (&*format!("{PROCLEDGER} run --"), false)] {
        let (place, mut pty) = (Place::new(), Pty::new());
        let mut command = Command::new("bash");
        clean(&mut command, &place);
        command.args(["--norc", "--noprofile", "-i"]).env("PS1", "prompt> ");
        command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
        let _shell = pty.spawn(&mut command);
        pty.wait_for("prompt> ", 1);
        pty.type_in(&format!("{prefix} sh -c 'echo it$((1+1))writes'\n"));
        pty.wait_for("prompt> ", 2);
        assert_eq!(pty.seen().contains("it2writes"), !file, "{prefix}: {}", pty.seen());
        assert_eq!(place.path().join("nohup.out").exists(), file, "{prefix}");
    }
    let place = Place::new();
    play(&place, &["timeout", "soon"], &["true"]).expect(125);
    play(&place, &[PROCLEDGER, "run", "--max-runtime", "soon", "--"], &["true"]).expect(2);
    // Without a limit there, a limit that would end the program at once here.
    play(&place, &["timeout", "0"], &["true"]).expect(0);
    play(&place, &[PROCLEDGER, "run", "--max-runtime", "0s", "--"], &["true"]).expect(2);
}
