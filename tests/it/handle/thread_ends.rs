//! PDEATHSIG, which guards a child at the gate, fires when the *thread* that created the child
//! ends: it must be cleared before the program runs.

use std::{thread, time::Duration};

use procledger::{Job, Stdio};

use crate::{
    spawn::gate_host::{Given, in_another_process},
    support::{Place, is_alive},
};

const PROGRAMS: usize = 50;

#[test]
fn programs_outlive_the_thread_that_spawned_them() {
    let place = Place::new();
    in_another_process(&place, "thread-ends", Duration::from_mins(1));
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn body(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let mut processes: Vec<_> = (0..PROGRAMS)
        .map(|number| {
            let tracker = tracker.clone();
            let job = Job::new(format!("task-{number}"), "sh")
                .args(["-c", "exec sleep 600", &given.marker])
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            let spawned = thread::spawn(move || tracker.spawn(job).expect("spawned"));
            spawned.join().expect("joined")
        })
        .collect();
    // join(2) returns a moment before the kernel's thread is gone.
    crate::support::until("the spawning threads are gone", || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("tasks");
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|name| !name.starts_with("procledger"))
            .count()
            <= 2
    });
    for process in &mut processes {
        assert_eq!(process.try_wait().expect("a look"), None, "{} is dead", process.pid());
        assert!(is_alive(process.pid().get()));
    }
    assert_eq!(tracker.shutdown().expect("an orderly end").ended(), PROGRAMS as u64);
}
