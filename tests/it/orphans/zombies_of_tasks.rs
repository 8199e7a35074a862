//! A host that is the first process of its PID namespace, or a subreaper, adopts the orphans of its
//! tasks, and nothing reaped them: 20 of 20 zombies stayed, until `pids.max` or the pids were used
//! up.

use std::{fs, process::Command};

use procledger::{ContainmentMode, Tracker};

use crate::{
    containment::task_cgroups::can_use_cgroups,
    support::{
        Host, PidfdWatch, Place, eventually, in_namespace, in_namespace_as_a_user, namespaced,
        namespaces, parent, pids, state, stays, until, zombies_of,
    },
};

const SESSION: &str = "containment=session";
const CGROUP: &str = "containment=cgroup";

/// Leaves 20 processes that die by themselves, none of which its root waits for.
const LEAVES_20: &str = "i=0; while [ $i -lt 20 ]; do (sleep 0.05 &); i=$((i+1)); done";

fn modes() -> Vec<&'static str> {
    if can_use_cgroups() { vec![SESSION, CGROUP] } else { vec![SESSION] }
}

#[test]
fn zombies_stayed_while_their_task_ran() {
    for mode in modes() {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("{mode} subreaper"));
        let root = host.spawn("task", &format!("{LEAVES_20}; exec sleep 3600"));
        // All of them become children of the host, and then none is left.
        let children = || pids().iter().filter(|&&pid| parent(pid) == Some(host.pid())).count();
        until("they are adopted", || children() > 1);
        until("all are reaped", || children() == 1);
        assert!(!root.is_dead(), "{mode}");
        host.stop();
    }
}

#[test]
fn zombies_of_strays_that_died_before_or_after_their_root_stayed() {
    for mode in modes() {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("{mode} subreaper"));
        for number in 0..5 {
            // Some die at once, some are strays that are ended.
            host.spawn(&format!("task-{number}"), "(true &); (true &); (sleep 3600 &); sleep 0.02");
        }
        until("all have ended", || host.ask("running") == "0");
        until("no zombie is left", || zombies_of(host.pid()).is_empty());
        assert_eq!(place.sqlite3("SELECT count(*) >= 5 FROM leak"), "1", "the strays");
        host.stop();
    }
}

#[test]
fn without_a_monitor_the_health_pass_reaps_zombies() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{SESSION} subreaper no-monitor"));
    host.spawn("task", &format!("{LEAVES_20}; exec sleep 3600"));
    until("they are zombies", || zombies_of(host.pid()).len() == 20);
    host.ask("health");
    assert_eq!(zombies_of(host.pid()), [0_u32; 0]);
    host.stop();
}

/// A daemon has a session of its own; only its row in the ledger links its zombie to a task.
#[test]
fn a_recorded_daemon_stayed_a_zombie() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{SESSION} subreaper"));
    let folder = place.path().display();
    // Its parent lives until it is recorded: then nothing else links it to its task.
    let daemon = format!(
        "(setsid sh -c 'echo $$ > {folder}/daemon; exec sleep 3600' & \
          while [ ! -e {folder}/go ]; do sleep 0.05; done) &"
    );
    host.spawn("task", &format!("{daemon} exec sleep 3600"));
    let daemon = place.watch("daemon");
    until("it is recorded", || {
        host.ask("health");
        let row =
            format!("SELECT count(*) FROM running WHERE descendant AND pid = {}", daemon.pid());
        place.sqlite3(&row) == "1"
    });
    fs::write(place.path().join("go"), "").expect("the sign");
    until("it is adopted", || parent(daemon.pid()) == Some(host.pid()));
    daemon.kill();
    until("its zombie is gone", || state(daemon.pid()).is_none());
    host.stop();
}

#[test]
fn a_kept_stray_is_reaped_when_it_ends_later() {
    for mode in modes() {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("{mode} subreaper"));
        let path = place.path().join("left");
        let script =
            format!("(sh -c 'echo $$ > {}; exec sleep 3600' &) ; sleep 0.1", path.display());
        host.spawn_as("keep", "task", &script);
        let left = place.watch("left");
        until("the task has ended", || host.ask("running") == "0");
        assert!(!left.is_dead(), "{mode}");
        left.kill();
        host.ask("health");
        until("its zombie is gone", || state(left.pid()).is_none());
        host.stop();
    }
}

/// The library must never reap what the host waits for itself: its own children, the orphans of
/// these, and processes that it has registered.
#[test]
fn zombies_that_belong_to_no_task_are_left_to_the_host() {
    for mode in modes() {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("{mode} subreaper"));
        host.spawn("task", &format!("{LEAVES_20}; exec sleep 3600"));
        let child = host.spawn_as("child", "own", "exit 3");
        let leader = host.spawn_as("child", "leader", "exec setsid sh -c 'exit 4'");
        let registered = host.spawn_as("child", "registered", "exec sleep 3600");
        host.ask(&format!("register registered {}", registered.pid()));
        // A grandchild that the host adopts, and waits for by its pid.
        let path = place.path().join("grandchild");
        host.ask(&format!("child parent (sh -c 'echo $$ > {}; exit 5' &)", path.display()));
        let grandchild = eventually("it writes its number", || {
            fs::read_to_string(&path).ok()?.trim().parse::<u32>().ok()
        });
        registered.kill();
        until("the registered one's end is recorded", || host.ask("running") == "1");
        until("the task's are reaped", || {
            zombies_of(host.pid()).iter().all(|zombie| {
                [child.pid(), leader.pid(), registered.pid(), grandchild].contains(zombie)
                    || parent(*zombie).is_none()
                    || fs::read_to_string(format!("/proc/{zombie}/comm"))
                        .is_ok_and(|it| it == "sh\n")
            })
        });
        let are_zombies = || {
            let all = [child.pid(), leader.pid(), registered.pid(), grandchild];
            all.into_iter().all(|pid| state(pid) == Some('Z'))
        };
        until("they have ended", are_zombies);
        host.ask("health");
        stays("they wait for the host", are_zombies);
        assert_eq!(host.ask("child-wait own"), "Ok(Some(3))", "{mode}");
        assert_eq!(host.ask("child-wait leader"), "Ok(Some(4))", "{mode}");
        assert_eq!(host.ask("child-wait registered"), "Ok(None)", "{mode}");
        let status = host.ask(&format!("reap-pid {grandchild}"));
        assert!(status.contains("Exited") && status.contains("5)"), "{mode}: {status}");
        host.stop();
    }
}

/// A child that the host started by itself, in its own session, is not a task's zombie; a host of
/// another ledger runs beside it.
#[test]
fn a_hosts_own_child_is_left_for_it_to_reap_beside_another_host() {
    let place = Place::new();
    let mut outer = Host::start(&place, SESSION);
    let inner = place.path().join("inner.db");
    let root = outer.spawn("task", "exec sleep 3600");
    assert!(!root.is_dead());
    let mut host = Host::start_on(&place, &inner, &format!("{SESSION} subreaper"));
    let child = host.spawn_as("child", "own", "exit 3");
    host.spawn("task", "exec sleep 3600");
    until("it is a zombie", || state(child.pid()) == Some('Z'));
    stays("it waits for the host", || state(child.pid()) == Some('Z'));
    assert_eq!(host.ask("child-wait own"), "Ok(Some(3))");
    host.stop();
    outer.stop();
}

fn as_the_first_process() {
    let place = Place::new();
    assert_eq!(std::process::id(), 1, "the test is the first process");
    let open = Tracker::builder(place.ledger()).containment(ContainmentMode::Session);
    let tracker = open.open().expect("opened");
    let script = format!("{LEAVES_20}; exec sleep 3600");
    let task = tracker.spawn(place.job("task", &script)).expect("spawned");
    let children = || pids().iter().filter(|&&pid| parent(pid) == Some(1)).count();
    until("they are adopted", || children() > 1);
    until("all are reaped", || children() == 1);
    tracker.terminate("task").expect("ended");
    assert!(PidfdWatch::find(task.pid().get()).is_none(), "the root too");
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn zombies_stayed_under_the_first_process_of_a_namespace() {
    if in_namespace(
        "orphans::zombies_of_tasks::zombies_stayed_under_the_first_process_of_a_namespace",
    ) {
        as_the_first_process();
    }
}

#[test]
fn zombies_stayed_under_the_first_process_of_an_ordinary_user() {
    if in_namespace_as_a_user(
        "orphans::zombies_of_tasks::zombies_stayed_under_the_first_process_of_an_ordinary_user",
    ) {
        as_the_first_process();
    }
}

#[test]
fn zombies_stayed_under_run_as_the_first_process() {
    if !namespaces() {
        return;
    }
    let place = Place::new();
    // The program itself counts what its first process has not reaped.
    let count = "n=0; for s in /proc/[0-9]*/stat; do case \"$(cat $s 2>/dev/null)\" in *') Z 1 '*) n=$((n+1));; esac; done";
    let script = format!(
        "{LEAVES_20}; for t in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.2; {count}; \
         [ $n = 0 ] && exit 0; done; exit $n"
    );
    let mut run: Command = namespaced(env!("CARGO_BIN_EXE_procledger"));
    run.arg("--db").arg(place.ledger()).env("PROCLEDGER_CONTAINMENT", "session");
    run.args(["run", "--task", "task", "--", "/bin/sh", "-c", &script, place.marker()]);
    let output = run.output().expect("unshare is installed");
    assert_eq!(output.status.code(), Some(0), "zombies were left: {output:?}");
}
