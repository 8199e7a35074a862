//! `procledger watch`: the processes of an owner are ended as soon as it dies.

use std::{
    io::{BufRead, BufReader},
    os::fd::AsFd,
    process::{Child, ChildStdout},
    sync::mpsc::{Receiver, channel},
    thread,
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{Answer, Running, finish, procledger, run},
    support::{Host, PATIENCE, Place, is_alive, pidfd, until},
};

struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    /// Returns once it has opened the ledger as an instance.
    fn start(place: &Place) -> Self {
        let mut child = procledger(place).arg("watch").spawn().expect("procledger");
        let out: ChildStdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let pid = child.id();
        until("watch is an instance", || {
            let open = rusqlite::Connection::open(place.ledger());
            open.is_ok_and(|ledger| {
                let count = "SELECT count(*) FROM pass JOIN instance ON instance.id = pass.instance WHERE instance.pid = ?1";
                ledger.query_row(count, [pid], |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0)
            })
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("watch prints what it ended")
    }

    fn stop(self, signal: Signal) -> Answer {
        let fd = pidfd(self.child.id()).expect("it is ours and not waited for");
        pidfd_send_signal(fd.as_fd(), signal).expect("a signal");
        finish(self.child)
    }
}

#[test]
fn orphans_of_a_killed_host_are_ended_at_once() {
    let place = Place::new();
    let mut host = Host::start(&place, "program=api");
    let first = host.spawn("first", "sleep 300; :");
    let watch = Watch::start(&place);
    // Started after the watch: it detects those as well.
    let mut later = Host::start(&place, "program=later");
    let second = later.spawn("second", "trap '' TERM; sleep 300; :");
    for (host, root, task) in [(host, first, "first"), (later, second, "second")] {
        host.crash();
        until("its tree is dead", || root.is_dead());
        // The shell and its sleep, one line each.
        for line in [watch.line(), watch.line()] {
            assert!(line.contains(task) && line.contains("its instance is dead"), "{line}");
        }
    }
    until("nothing of them is left", || place.alive() == [watch.child.id()]);
    watch.stop(Signal::TERM).expect(0);
}

#[test]
fn orphans_that_exist_before_the_watch_are_ended_when_it_starts() {
    let place = Place::new();
    let running = Running::start(&place, "before", &[], "echo $$; exec sleep 300");
    let pid: u32 = running.said.parse().expect("a pid");
    running.crash();
    let watch = Watch::start(&place);
    assert!(!is_alive(pid));
    assert!(watch.line().contains("before pid"));
    watch.stop(Signal::INT).expect(0);
}

#[test]
fn it_leaves_processes_of_live_owners_running() {
    let place = Place::new();
    let watch = Watch::start(&place);
    let running = Running::start(&place, "mine", &[], "echo $$; exec sleep 300");
    let other = Running::start(&place, "other", &[], "echo $$; exec sleep 300");
    let (mine, others) = (running.said.parse().expect("a pid"), other.said.parse().expect("a pid"));
    other.crash();
    assert!(watch.line().contains("other pid"));
    assert!(!is_alive(others) && is_alive(mine));
    watch.stop(Signal::HUP).expect(0);
    assert!(is_alive(mine), "the end of a watch ends nothing");
    run(&place, &["kill", "mine"]).expect(0);
}
