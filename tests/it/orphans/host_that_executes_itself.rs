//! A host executes itself, as servers do for a graceful restart, or another program: pid, start
//! tick and pidfd stay, but everything else is lost. Its former instance was taken for alive as
//! long as the new image lived: its rows stayed `running`, its tasks could neither be started again
//! nor terminated, and in session mode their trees lived on.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Tracker};

use crate::{
    containment::task_cgroups::can_use_cgroups,
    support::{
        Host, PidfdWatch, Place, alone, canary, eventually, in_namespace_as_a_user, long, parent,
        pids, stays, until, zombies_of,
    },
};

const SESSION: &str = "containment=session";
const KEEPER: &str = "containment=keeper keeper";
const CGROUP: &str = "containment=cgroup";

fn row(place: &Place, task: &str) -> String {
    place.sqlite3(&format!(
        "SELECT state, ifnull(end_reason, ''), ifnull(exit_code, ''), ifnull(exit_signal, ''), ifnull(end_rule, '')
         FROM process WHERE task_id = '{task}' AND root IS NULL ORDER BY id LIMIT 1"
    ))
}

const BY_EXEC: &str = "its instance was ended by an exec of its program";

fn its_tree_is_ended_and_the_task_can_start_again(options: &str) {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{options} grace=2000"));
    let _canary = canary();
    let root = host.spawn("task", "sleep 3600 & wait");
    let child = eventually("it has a child", || {
        pids().into_iter().find(|&pid| parent(pid) == Some(root.pid())).and_then(PidfdWatch::find)
    });
    let before = host.pid();
    host.execute_itself();
    assert_eq!(host.pid(), before);
    assert!(root.is_dead() && child.is_dead(), "{options}: what the former image left is ended");
    let found = row(&place, "task");
    if options == KEEPER {
        // Its keeper may have ended it first.
        assert!(found.starts_with("ended|"), "{found}");
    } else {
        assert_eq!(found, format!("ended|orphan||15|{BY_EXEC}"), "{options}");
    }
    let again = host.spawn("task", "exec sleep 3600");
    assert!(!again.is_dead());
    assert_eq!(host.ask("terminate task"), "1");
    assert!(again.is_dead());
    until("no zombie is left", || zombies_of(host.pid()).is_empty());
    host.stop();
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn tasks_stayed_running_after_an_exec_in_a_session() {
    its_tree_is_ended_and_the_task_can_start_again(SESSION);
}

#[test]
fn tasks_stayed_running_after_an_exec_under_keepers_and_left_zombies() {
    its_tree_is_ended_and_the_task_can_start_again(KEEPER);
}

#[test]
fn tasks_stayed_running_after_an_exec_in_cgroups() {
    if can_use_cgroups() {
        its_tree_is_ended_and_the_task_can_start_again(CGROUP);
    }
}

#[test]
fn tasks_stayed_running_after_an_exec_for_an_ordinary_user() {
    if in_namespace_as_a_user(
        "orphans::host_that_executes_itself::tasks_stayed_running_after_an_exec_for_an_ordinary_user",
    ) {
        its_tree_is_ended_and_the_task_can_start_again(SESSION);
    }
}

/// The children of the former image are the new one's: a child that ended in between still has a
/// status.
#[test]
fn exit_codes_of_processes_that_ended_before_are_recorded() {
    let modes = [SESSION, CGROUP];
    for mode in modes.into_iter().filter(|mode| *mode != CGROUP || can_use_cgroups()) {
        let place = Place::new();
        let mut host = Host::start(&place, &format!("{mode} no-monitor"));
        let coded = host.spawn("coded", "exit 7");
        let killed = host.spawn("killed", "kill -KILL $$");
        until("both have ended", || coded.is_dead() && killed.is_dead());
        assert_eq!(zombies_of(host.pid()).len(), 2, "nothing has settled them");
        host.execute_itself();
        assert_eq!(row(&place, "coded"), "ended|exited|7||", "{mode}");
        assert_eq!(row(&place, "killed"), "ended|exited||9|", "{mode}");
        assert_eq!(zombies_of(host.pid()), [0_u32; 0], "{mode}");
        assert_eq!(place.sqlite3("SELECT count(*) FROM leak"), "0", "what had ended is no leak");
        host.stop();
    }
}

#[test]
fn a_task_that_may_outlive_its_owner_is_adopted_and_its_status_is_recorded() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{SESSION} program=x"));
    let daemon = host.spawn_as("survive", "daemon", "exec sleep 3600");
    host.execute_itself();
    assert!(!daemon.is_dead());
    assert_eq!(host.ask("adopted"), "1");
    daemon.kill();
    until("its end is recorded", || host.ask("running") == "0");
    assert_eq!(row(&place, "daemon"), "ended|exited||9|");
    until("its zombie is gone", || zombies_of(host.pid()).is_empty());
    host.stop();
}

#[test]
fn each_exec_ends_the_orphans_of_the_former_image() {
    let place = Place::new();
    let mut host = Host::start(&place, SESSION);
    let mut roots = Vec::new();
    for number in 0..3 {
        roots.push(host.spawn("task", &format!("sleep 3600 & wait {number}; sleep 3600 & wait")));
        host.execute_itself();
        assert!(roots.iter().all(PidfdWatch::is_dead), "after exec {number}");
    }
    assert_eq!(place.sqlite3("SELECT count(*) FROM instance WHERE stopped_at IS NULL"), "1");
    host.stop();
}

#[test]
fn every_ledger_of_a_host_with_several_is_cleaned_up() {
    let place = Place::new();
    let second = Place::new();
    let ledger = second.ledger();
    let mut host = Host::start(&place, &format!("{SESSION} also={}", ledger.display()));
    let first = host.spawn("first", "exec sleep 3600");
    let also = host.spawn_as("also", "second", "exec sleep 3600");
    host.execute_itself();
    assert!(first.is_dead() && also.is_dead());
    for place in [&place, &second] {
        assert_eq!(place.sqlite3("SELECT end_rule FROM process"), BY_EXEC);
    }
    host.stop();
}

#[test]
fn a_lock_file_removed_before_the_exec_does_not_hide_orphans() {
    let place = Place::new();
    let mut host = Host::start(&place, SESSION);
    let root = host.spawn("task", "exec sleep 3600");
    let lock = place.path().join(place.sqlite3("SELECT lock_name FROM instance"));
    fs::remove_file(lock).expect("a lock file");
    assert_eq!(host.ask("reap"), "0", "the image that lost its lock file is no former one");
    assert!(!root.is_dead());
    host.execute_itself();
    assert!(root.is_dead());
    host.stop();
}

#[test]
fn a_forked_child_that_holds_the_lock_does_not_hide_orphans() {
    let place = Place::new();
    let mut host = Host::start(&place, SESSION);
    let root = host.spawn("task", "exec sleep 3600");
    let forked = host.spawn_as("fork-and-hold", "", "");
    host.execute_itself();
    assert!(root.is_dead() && !forked.is_dead());
    assert_eq!(row(&place, "task"), format!("ended|orphan||15|{BY_EXEC}"));
    forked.kill();
    host.stop();
}

/// A child at its gate dies with the image that created it, whether or not its row was committed,
/// and running programs are ended.
#[test]
fn an_exec_during_spawns_leaves_no_program_without_an_owner() {
    let _alone = alone();
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{SESSION} no-monitor"));
    for round in 0..if long() { 300 } else { 20 } {
        assert_eq!(host.ask("keep-spawning"), "spawning");
        thread::sleep(Duration::from_millis(3 + round % 7));
        host.execute_itself();
        // A program without a row never runs: a child at its gate dies at once, or notices within a
        // second that its host is another program by now.
        let is_left = |pid: &u32| *pid != host.pid();
        let left = || place.alive().into_iter().filter(is_left).count();
        let began = Instant::now();
        until("nothing is left", || left() == 0);
        assert!(began.elapsed() < Duration::from_secs(10), "round {round}: {:?}", began.elapsed());
    }
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
    let spawned = place.sqlite3("SELECT count(*) > 20 FROM process WHERE end_reason = 'orphan'");
    assert_eq!(spawned, "1", "an exec struck while programs were started");
    eprintln!("zombies that no row knows: {}", zombies_of(host.pid()).len());
    host.stop();
}

fn becomes_another_program(place: &Place, options: &str) -> (Host, PidfdWatch) {
    let mut host = Host::start(place, options);
    let root = host.spawn("task", "sleep 3600 & wait");
    assert_eq!(host.ask("become sleep 3600"), "becoming");
    until("it is the other program", || {
        fs::read_to_string(format!("/proc/{}/comm", host.pid())).is_ok_and(|comm| comm == "sleep\n")
    });
    (host, root)
}

#[test]
fn orphans_of_a_host_that_became_another_program_are_ended_by_any_other_instance() {
    let modes = [SESSION, CGROUP];
    for mode in modes.into_iter().filter(|mode| *mode != CGROUP || can_use_cgroups()) {
        let place = Place::new();
        let (host, root) = becomes_another_program(&place, mode);
        let dry = place.procledger(&["reap", "--dry-run"]);
        assert!(String::from_utf8_lossy(&dry.stdout).contains("task"), "{dry:?}");
        assert!(!root.is_dead());
        let reap = place.procledger(&["reap"]);
        assert_eq!(reap.status.code(), Some(0), "{reap:?}");
        assert!(root.is_dead(), "{mode}");
        assert!(!PidfdWatch::on(host.pid()).is_dead(), "the program that it became is no task");
        assert_eq!(row(&place, "task"), format!("ended|orphan|||{BY_EXEC}"), "{mode}");
    }
}

/// Its keepers see their sockets close, and wait for no ledger.
#[test]
fn keepers_end_the_trees_of_a_host_that_became_another_program() {
    let place = Place::new();
    let (_host, root) = becomes_another_program(&place, KEEPER);
    until("its keeper has ended it", || root.is_dead());
    until("its row is closed", || {
        place.procledger(&["reap"]);
        row(&place, "task").starts_with("ended|")
    });
}

#[test]
fn a_watch_ends_at_once_the_orphans_of_a_host_that_became_another_program() {
    let place = Place::new();
    let watching = Tracker::builder(place.ledger()).open().expect("opened");
    let (stop, stopper) = std::io::pipe().expect("a pipe");
    thread::scope(|scope| {
        let watch = scope.spawn(|| watching.watch(stop.into(), |_| {}));
        let (_host, root) = becomes_another_program(&place, SESSION);
        // Longer than a notification takes, shorter than the polling interval.
        let began = Instant::now();
        until("its tree is ended", || root.is_dead());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        drop(stopper);
        watch.join().expect("no panic").expect("an orderly end");
    });
}

/// A watch was faster than the new image: the processes that it has ended are zombies of the host,
/// and nothing reaped them.
#[test]
fn a_process_ended_by_a_watch_does_not_stay_a_zombie_of_the_new_image() {
    let place = Place::new();
    let mut host = Host::start(&place, &format!("{SESSION} no-monitor no-reap"));
    host.ask("reap");
    let root = host.spawn("task", "exec sleep 3600");
    let ended = host.spawn("ended", "exit 7");
    until("one has ended", || ended.is_dead());
    // The new image opens the ledger without a pass: another instance runs one.
    host.execute_itself();
    assert!(!root.is_dead());
    let reap = place.procledger(&["reap"]);
    assert_eq!(reap.status.code(), Some(0), "{reap:?}");
    assert!(root.is_dead());
    assert_eq!(zombies_of(host.pid()).len(), 2);
    host.ask("reap");
    assert_eq!(zombies_of(host.pid()), [0_u32; 0]);
    host.stop();
}

/// A free lock alone ends nothing: a backup that was restored in its place is free, and the host
/// lives.
#[test]
fn a_lock_file_replaced_by_a_copy_does_not_make_its_host_count_as_dead() {
    let place = Place::new();
    let mut host = Host::start(&place, SESSION);
    let root = host.spawn("task", "exec sleep 3600");
    let lock = place.path().join(place.sqlite3("SELECT lock_name FROM instance"));
    let copy = place.path().join("copy");
    fs::copy(&lock, &copy).expect("copied");
    fs::rename(&copy, &lock).expect("replaced");
    let reap = place.procledger(&["reap"]);
    assert_eq!(reap.status.code(), Some(3), "{reap:?}");
    stays("the task runs", || !root.is_dead());
    assert_eq!(place.sqlite3("SELECT state FROM process"), "running");
    assert!(host.ask("health") == "0" && !root.is_dead());
    host.stop();
    assert!(root.is_dead());
}

#[test]
fn two_trackers_of_one_process_on_one_ledger_do_not_count_each_other_as_dead() {
    let place = Place::new();
    let open = || {
        let builder = Tracker::builder(place.ledger()).containment(ContainmentMode::Session);
        builder.open().expect("opened")
    };
    let (one, two) = (open(), open());
    let process = one.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let root = PidfdWatch::on(process.pid().get());
    for tracker in [&two, &one, &two] {
        assert_eq!(tracker.reap_orphans().expect("a pass").endings.len(), 0);
        assert!(!root.is_dead());
    }
    let locks = place.sqlite3("SELECT lock_name FROM instance");
    locks.lines().for_each(|name| fs::remove_file(place.path().join(name)).expect("removed"));
    assert_eq!(two.reap_orphans().expect("a pass").endings.len(), 0, "nor without lock files");
    assert!(!root.is_dead());
    one.shutdown().expect("an orderly end");
    assert!(root.is_dead());
    let third = open();
    assert_eq!(third.startup_report().endings.len(), 0);
    drop((two, third));
}
