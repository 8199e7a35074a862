//! Invariant 10: where the row cannot be written, the program never runs and the caller gets the
//! error.

use std::time::{Duration, Instant};

use procledger::{Job, Stdio};

use crate::{
    spawn::gate_host::{Given, WriteLock, children, descriptors, in_another_process},
    support::{Place, until},
};

/// The busy timeout is 5 s; the rest is for a slow machine.
const BOUND: Duration = Duration::from_secs(15);

#[test]
fn invariant_10_a_program_without_a_row_never_runs() {
    let place = Place::new();
    in_another_process(&place, "fail-closed", Duration::from_secs(90));
    assert_eq!(
        place.sqlite3("SELECT task_id, exit_code FROM process ORDER BY id"),
        "before|0\nafter-0|0\nrefused-0|0\nrefused-1|0\nrefused-2|0"
    );
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn body(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let ran = given.folder.join("ran");
    let job = |task: &str| {
        Job::new(task, "sh")
            .args(["-c", r#"echo "$$" >>"$1""#, &given.marker])
            .arg(&ran)
            .stdin(Stdio::null())
    };
    let run = |task: &str| {
        let status = tracker.spawn(job(task)).and_then(|mut one| one.wait()).expect("it runs");
        assert_eq!(status.to_string(), procledger::ExitStatus::Exited(0).to_string());
    };
    run("before");
    let before = descriptors();
    let ran_before = std::fs::read_to_string(&ran).expect("it ran");

    let held = WriteLock::take(&given.ledger(), &given.marker);
    let began = Instant::now();
    // Three at once: they are refused together.
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (tracker, job) = (&tracker, &job);
            scope.spawn(move || {
                let error = tracker.spawn(job(&format!("refused-{number}"))).expect_err("held");
                assert!(error.is_busy(), "{error:?}");
            });
        }
    });
    let took = began.elapsed();
    assert!(took < BOUND, "the caller waited for {took:?}");
    held.release();

    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), ran_before, "a program ran");
    until("no child is left", || children().is_empty());
    until("no descriptor is left", || descriptors().len() <= before.len());
    run("after-0");
    for number in 0..3 {
        run(&format!("refused-{number}"));
    }
    tracker.shutdown().expect("an orderly end");
}
