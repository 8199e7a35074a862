//! A task runs `procledger run` on the same ledger, and both end together. The row of the inner
//! task stayed `running` until another instance opened the ledger.

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{PROCLEDGER, Running, containments, run},
    containment::task_cgroups::can_use_cgroups,
    support::{Place, at_once, pidfd, until},
};

/// Starts a task whose program is an owner of its own; returns the outer owner once the inner
/// program runs, with the PID of the inner owner.
fn start(place: &Place, containment: &str, options: &[&str]) -> Running {
    let inner = format!(
        "exec '{PROCLEDGER}' run --task inner --containment {containment} -- \
           sh -c 'echo $PPID; exec sleep 300' {}",
        place.marker()
    );
    let options = [&["--containment", containment][..], options].concat();
    Running::start(place, "outer", &options, &inner)
}

/// Every row has ended, each process has one row in each task, and the row of the inner task says
/// why it ended.
#[track_caller]
fn all_ended(place: &Place, reason: &str, how: &str) {
    let left =
        "SELECT id, task_id, root, state, owner, last_error FROM process WHERE state <> 'ended'";
    assert_eq!(place.sqlite3(left), "", "{how}");
    let twice =
        "SELECT task_id, pid FROM process GROUP BY task_id, pid, start_tick HAVING count(*) > 1";
    assert_eq!(place.sqlite3(twice), "", "{how}");
    let inner = "SELECT end_reason FROM process WHERE task_id = 'inner' AND root IS NULL";
    let recorded = place.sqlite3(inner);
    // An owner that still had the time to record the end of its program did so.
    assert!([reason, "exited"].contains(&recorded.as_str()), "{how}: {recorded}");
    assert_ne!(run(place, &["wait", "inner", "--timeout", "60s"]).code(), 0, "{how}");
    assert_eq!(place.alive(), [0_u32; 0], "{how}");
}

#[test]
fn the_row_of_an_inner_task_stayed_running_after_a_kill_of_the_outer_one() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let outer = start(&place, containment, &[]);
        let killed = run(&place, &["kill", "--now", "outer"]);
        let mut reason = "killed";
        if killed.code() != 0 {
            // A busy machine: it could not examine the whole tree, and says that the next pass
            // tries again.
            killed.expect(3);
            until("the next pass ends the rest", || run(&place, &["reap"]).code() == 0);
            reason = "orphan";
        }
        outer.finish();
        all_ended(&place, reason, containment);
    });
}

#[test]
fn the_row_of_an_inner_task_stayed_running_after_a_limit_of_the_outer_one() {
    at_once(containments(), |containment| {
        let place = Place::new();
        let outer = start(&place, containment, &["--max-runtime", "1s", "--grace", "1ms"]);
        outer.finish().expect(124);
        all_ended(&place, "orphan", containment);
    });
}

#[test]
fn the_row_of_an_inner_task_stayed_running_after_its_outer_owner_was_reaped() {
    // A keeper ends the tree by itself.
    let without_keeper = containments().into_iter().filter(|name| *name != "keeper");
    at_once(without_keeper, |containment| {
        let place = Place::new();
        start(&place, containment, &["--grace", "1ms"]).crash();
        run(&place, &["reap"]).expect(0);
        all_ended(&place, "orphan", containment);
    });
}

/// In a session the inner program is known to its own owner alone, and is an orphan of it.
#[test]
fn the_row_of_an_inner_task_stayed_running_after_its_own_owner_was_killed() {
    if !can_use_cgroups() {
        return;
    }
    let place = Place::new();
    let outer = start(&place, "cgroup", &["--grace", "1ms"]);
    let inner = pidfd(outer.said.parse().expect("a pid")).expect("it runs");
    pidfd_send_signal(&inner, Signal::KILL).expect("killed");
    outer.finish().expect(128 + 9);
    all_ended(&place, "orphan", "cgroup");
}
