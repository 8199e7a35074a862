//! A container with an init restarts: the rows of its host stayed `running` forever, since they
//! belong to a PID namespace that no process can inspect.

use std::{fs, path::Path, process::Command};

use procledger::Tracker;

use crate::support::{
    Host, PidfdWatch, Place, eventually, namespaced, namespaces, need, parent, pids, root, skipped,
    stays, until,
};

/// Whether this test sees all PID namespaces, and can create some.
fn sees_all() -> bool {
    let initial =
        fs::read_link("/proc/self/ns/pid").is_ok_and(|it| it == Path::new("pid:[4026531836]"));
    if !initial {
        skipped("this is not the initial PID namespace");
    }
    initial && namespaces()
}

/// Only root can inspect the namespaces of others, and unrelated programs of this machine may have
/// some.
fn as_root() -> bool {
    root() && sees_all()
}

/// A host in a PID namespace of its own, which lives as long as `init` does; the host is its child.
fn in_a_container(place: &Place, init: &str) -> Host {
    let mut command = namespaced("/bin/sh");
    command.args(["-c", init, place.marker()]).arg(std::env::current_exe().expect("this binary"));
    let host = Host::launch_by(command, place, &place.ledger(), "containment=session");
    let first = host.answer();
    assert!(first.starts_with("open "), "{first}");
    host
}

/// As tini does: the container ends with its program.
const INIT: &str = "\"$@\"; exit $?";
/// An init that continues without it.
const INIT_THAT_STAYS: &str = "\"$@\"; sleep 3600; exit 0";

/// A process that runs `sleep NUMBER` in the container, as this namespace sees it.
fn sleeper(place: &Place, number: &str) -> PidfdWatch {
    PidfdWatch::on(eventually("it sleeps", || {
        place.alive().into_iter().find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|it| it == format!("sleep\0{number}\0").as_bytes())
        })
    }))
}

/// Ends its first process, and with it all others. The host's input stays open until then: it must
/// not shut down in order.
fn end_container(host: Host, task: &PidfdWatch) {
    PidfdWatch::on(host.pid()).kill();
    until("its container is gone", || task.is_dead());
    host.crash();
}

fn states(place: &Place) -> String {
    place.sqlite3("SELECT DISTINCT state, ifnull(end_reason, '') FROM process")
}

/// The first process of a namespace ends a moment after all others.
fn closed_as_gone(place: &Place) {
    until("its rows are closed", || {
        let reap = place.procledger(&["reap"]);
        // Its host may still look alive, or the namespace exist.
        assert!(matches!(reap.status.code(), Some(0 | 3)), "{reap:?}");
        states(place) == "ended|gone"
    });
}

/// `code`: 0, or 3 where something is left unknown.
#[track_caller]
fn reap(place: &Place, code: i32) {
    let reap = place.procledger(&["reap"]);
    assert_eq!(reap.status.code(), Some(code), "{reap:?}");
}

#[test]
fn rows_of_a_container_with_an_init_stayed_running_forever() {
    if !as_root() {
        return;
    }
    let place = Place::new();
    // And again, after each restart.
    for restart in 0..3 {
        let mut host = in_a_container(&place, INIT);
        host.send(&format!("spawn task-{restart} sleep 36{restart}1 & exec sleep 36{restart}0"));
        host.answer();
        let task = sleeper(&place, &format!("36{restart}0"));
        reap(&place, 0);
        assert!(!task.is_dead(), "its host lives");
        end_container(host, &task);
        closed_as_gone(&place);
    }
    assert_eq!(place.sqlite3("SELECT count(*) FROM leak"), "0", "nothing of it leaked");
}

#[test]
fn rows_of_a_container_without_an_init_are_closed_too() {
    if !as_root() {
        return;
    }
    let place = Place::new();
    let command = namespaced(std::env::current_exe().expect("this binary"));
    let mut host = Host::launch_by(command, &place, &place.ledger(), "containment=session");
    assert!(host.answer().starts_with("open "));
    host.ask("spawn task exec sleep 3600");
    let task = sleeper(&place, "3600");
    end_container(host, &task);
    closed_as_gone(&place);
}

/// The first process of the host's namespace outlived it, and so did the task.
fn crash_of_the_host_alone(place: &Place) -> (Host, PidfdWatch) {
    let mut host = in_a_container(place, INIT_THAT_STAYS);
    host.ask("spawn task exec sleep 3599");
    let task = sleeper(place, "3599");
    let init =
        eventually("its init", || pids().into_iter().find(|&pid| parent(pid) == Some(host.pid())));
    let inside = eventually("the host itself", || {
        let names = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        pids()
            .into_iter()
            .find(|pid| parent(*pid) == Some(init) && !names(pid).starts_with("sleep"))
    });
    PidfdWatch::on(inside).kill();
    (host, task)
}

#[test]
fn a_container_that_outlives_its_host_is_left_unchanged() {
    if !as_root() {
        return;
    }
    let place = Place::new();
    let (host, task) = crash_of_the_host_alone(&place);
    reap(&place, 3);
    stays("the task runs", || !task.is_dead());
    assert_eq!(states(&place), "running|");
    let dry = place.procledger(&["reap", "--dry-run"]);
    assert!(
        String::from_utf8_lossy(&dry.stdout).contains("its PID namespace still exists"),
        "{dry:?}"
    );
    end_container(host, &task);
    closed_as_gone(&place);
}

/// Two containers may share a ledger: neither can know whether processes of the other one live.
#[test]
fn another_container_with_the_same_ledger_closes_no_row() {
    if !as_root() {
        return;
    }
    let place = Place::new();
    let (first, task) = crash_of_the_host_alone(&place);
    let mut second = in_a_container(&place, INIT);
    assert_eq!(second.ask("reap"), "0");
    assert!(!task.is_dead());
    assert_eq!(states(&place), "running|");
    end_container(first, &task);
    assert_eq!(second.ask("reap"), "0");
    assert_eq!(states(&place), "running|", "it cannot be seen from there");
    closed_as_gone(&place);
    second.ask("spawn other exec sleep 3598");
    let other = sleeper(&place, "3598");
    reap(&place, 0);
    assert!(!other.is_dead(), "the second one lives");
    second.crash();
}

/// Where the first process of a container has the ledger open as well, its lock proves that the
/// whole container is gone.
#[test]
fn a_free_lock_of_the_first_process_proves_that_its_container_is_gone() {
    if !as_root() {
        return;
    }
    let place = Place::new();
    let procledger = env!("CARGO_BIN_EXE_procledger");
    let mut command = namespaced(procledger);
    command.arg("--db").arg(place.ledger()).env("PROCLEDGER_CONTAINMENT", "session");
    command.args(["run", "--task", "container", "--"]);
    command.arg(std::env::current_exe().expect("this binary"));
    let mut host = Host::launch_by(command, &place, &place.ledger(), "containment=session");
    assert!(host.answer().starts_with("open "));
    host.ask("spawn task exec sleep 3597");
    let task = sleeper(&place, "3597");
    let second = in_a_container(&place, INIT);
    assert!(!task.is_dead());
    assert!(!states(&place).contains("ended"), "both live");
    end_container(host, &task);
    second.stop();
    // The rows of the host, and those of its first process.
    until("the next one closes them", || {
        in_a_container(&place, INIT).stop();
        states(&place) == "ended|gone"
    });
}

/// A user cannot see the namespaces of other users' processes: with hidden processes nothing is
/// certain.
#[test]
fn under_hidepid_no_row_is_closed() {
    if !as_root() {
        return;
    }
    need!("setpriv", "mount");
    let place = Place::new();
    let user = 61234;
    std::os::unix::fs::chown(place.path(), Some(user), Some(user)).expect("given");
    let setpriv = ["--reuid=61234", "--regid=61234", "--clear-groups"];
    let mut command = namespaced("/bin/sh");
    command.args(["-c", INIT, place.marker(), "setpriv"]).args(setpriv);
    command.arg(std::env::current_exe().expect("this binary"));
    let mut host = Host::launch_by(command, &place, &place.ledger(), "containment=session");
    assert!(host.answer().starts_with("open "));
    host.ask("spawn task exec sleep 3596");
    let task = sleeper(&place, "3596");
    end_container(host, &task);
    for hidepid in ["1", "2"] {
        let mut hidden = Command::new("unshare");
        let script = format!(
            "mount -t proc -o hidepid={hidepid} proc /proc && exec setpriv {} {} --db {} reap",
            setpriv.join(" "),
            env!("CARGO_BIN_EXE_procledger"),
            place.ledger().display()
        );
        let output = hidden.args(["--mount", "/bin/sh", "-c", &script]).output().expect("unshare");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(states(&place), "running|", "hidepid={hidepid}");
    }
    // The command would become the user; a tracker of root can inspect every namespace.
    until("root closes it", || {
        drop(Tracker::builder(place.ledger()).open().expect("opened"));
        states(&place) == "ended|gone"
    });
}
