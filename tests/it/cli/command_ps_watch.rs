//! `ps --watch` on a real terminal: drawn in place, and the terminal is restored, however the
//! command ends.

use rustix::process::Signal;

use crate::{
    cli::command::{Running, answer, procledger, run},
    cli::pty::Pty,
    support::{Guard, Place, eventually, need, pidfd, state, until},
};

const UP: &str = "echo $$; exec sleep 300";
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const FRAME: &str = "\x1b[?2026h\x1b[H";

/// A terminal with the list on it, polled ten times a second.
fn watched(place: &Place) -> (Pty, Guard, String) {
    let pty = Pty::new();
    let before = pty.modes();
    let child = pty.spawn(procledger(place).args(["ps", "--watch", "--interval", "100ms"]));
    pty.wait_for(FRAME, 2);
    (pty, child, before)
}

#[track_caller]
fn gives_the_terminal_back(pty: &Pty, child: &mut Guard, before: &str) {
    let status = eventually("it ends", || child.0.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0), "{}", pty.seen());
    pty.wait_for(LEAVE, 1);
    let seen = pty.seen();
    assert!(seen.ends_with(LEAVE), "something was shown afterwards: {seen:?}");
    for (set, unset) in [("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h")] {
        assert_eq!(seen.matches(set).count(), seen.matches(unset).count(), "{unset:?}");
    }
    assert_eq!(pty.modes(), before);
}

#[test]
fn the_list_follows_running_processes_and_q_restores_the_terminal() {
    let place = Place::new();
    let first = Running::start(&place, "first", &[], UP);
    let (mut pty, mut child, before) = watched(&place);
    assert!(pty.seen().starts_with(ENTER), "{:?}", pty.seen());
    assert!(!pty.modes().contains("ECHO "), "what is typed would be shown: {}", pty.modes());
    pty.wait_for("first", 1);
    let _second = Running::start(&place, "second", &[], "echo up; while :; do :; done");
    pty.wait_for("second", 2);
    until("a share of the processor is shown", || {
        let seen = pty.seen();
        let last = seen.rsplit(FRAME).next().unwrap_or_default().to_owned();
        let row = last.lines().find(|line| line.starts_with("second"));
        row.is_some_and(|row| row.contains('%') && !row.contains(" 0.0%"))
    });
    first.crash();
    pty.wait_for("2 tasks", 1);
    pty.type_in("xyz");
    pty.type_in("q");
    gives_the_terminal_back(&pty, &mut child, &before);
    let seen = pty.seen();
    // The screen is never cleared as a whole, which would flicker.
    assert!(!seen.contains("\x1b[2J"), "{seen:?}");
    assert_eq!(seen.matches("\x1b[?2026h").count(), seen.matches("\x1b[?2026l").count());
}

#[test]
fn ctrl_c_and_a_signal_leave_the_terminal_as_it_was() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let (mut pty, mut child, before) = watched(&place);
    pty.type_in("\x03");
    gives_the_terminal_back(&pty, &mut child, &before);
    for signal in [Signal::TERM, Signal::HUP] {
        let (pty, mut child, before) = watched(&place);
        let fd = pidfd(child.pid()).expect("it runs");
        rustix::process::pidfd_send_signal(&fd, signal).expect("a signal");
        gives_the_terminal_back(&pty, &mut child, &before);
    }
}

#[test]
fn a_frame_fits_the_terminal_after_each_resize() {
    let place = Place::new();
    let long = format!("echo up; : {}; exec sleep 300", "x".repeat(200));
    let tasks: Vec<Running> = (0..6)
        .map(|index| {
            Running::start(&place, &format!("a-task-with-a-long-name-{index}"), &[], &long)
        })
        .collect();
    let (mut pty, mut child, before) = watched(&place);
    for (lines, columns) in [(4_u16, 40_u16), (24, 80), (8, 120)] {
        let frames = pty.seen().matches(FRAME).count();
        pty.resize(lines, columns);
        // One frame may have been on its way; the one after it has the new size.
        pty.wait_for(FRAME, frames + 3);
        let seen = pty.seen();
        let frame = seen.split(FRAME).filter(|frame| frame.contains("\x1b[?2026l")).last();
        let frame = frame.expect("a whole frame").split("\x1b[J").next().expect("its lines");
        let shown: Vec<String> = frame.split("\r\n").map(plain).collect();
        assert!(shown.len() <= usize::from(lines), "{lines} lines: {shown:#?}");
        // With forty columns the figures alone are wider: the terminal truncates them.
        let widest = shown.iter().map(|line| line.chars().count()).max().expect("lines");
        assert!(columns < 80 || widest <= usize::from(columns), "{columns} columns: {shown:#?}");
        assert_eq!(shown.iter().any(|line| line.contains("more")), lines < 8, "{shown:#?}");
    }
    pty.type_in("q");
    gives_the_terminal_back(&pty, &mut child, &before);
    drop(tasks);
}

/// The output without the sequences that color and clear.
fn plain(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part
            .trim_start_matches(|char: char| !char.is_ascii_alphabetic())
            .get(1..)
            .unwrap_or_default()
    })
}

#[test]
fn ctrl_z_returns_the_terminal_to_the_shell_and_fg_takes_it_back() {
    need!("bash");
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let mut pty = Pty::new();
    let mut bash = pty.bash(&place);
    pty.type_in("$P ps --watch --interval 100ms\n");
    pty.wait_for(FRAME, 2);
    let watcher = pty.foreground();
    pty.type_in("\x1a");
    pty.wait_for(LEAVE, 1);
    pty.wait_for("prompt> ", 2);
    assert_eq!(state(watcher), Some('T'), "it is stopped");
    pty.type_in("fg\n");
    pty.wait_for(ENTER, 2);
    let frames = pty.seen().matches(FRAME).count();
    pty.wait_for(FRAME, frames + 2);
    pty.type_in("q");
    pty.wait_for(LEAVE, 2);
    pty.type_in("echo code=$?; exit\n");
    pty.wait_for("code=0", 1);
    eventually("the shell ends", || bash.0.try_wait().expect("a child"));
}

#[test]
fn without_a_terminal_it_is_refused_in_one_line() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let refused = run(&place, &["ps", "--watch"]).expect(2);
    assert!(refused.complaint().contains("terminal"), "{refused:?}");
    for args in [
        &["ps", "--watch", "--json"][..],
        &["ps", "--watch", "--all"],
        &["ps", "--watch", "--interval", "1ms"],
        &["ps", "--watch", "--interval", "2"],
        &["ps", "--interval", "2s"],
    ] {
        answer(procledger(&place).args(args)).expect(2);
    }
}

#[test]
fn an_unreadable_ledger_is_reported_before_anything_is_drawn() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let pty = Pty::new();
    let missing = place.path().join("missing.db");
    let mut command = procledger(&place);
    let mut child = pty.spawn(command.args(["ps", "--watch", "--db"]).arg(&missing));
    let status = eventually("it ends", || child.0.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(1));
    pty.wait_for("no ledger at", 1);
    assert!(!pty.seen().contains(ENTER), "it must not vanish with the screen: {:?}", pty.seen());
}
