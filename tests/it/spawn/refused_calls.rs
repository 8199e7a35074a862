//! A seccomp profile, or a kernel that has run out of a resource, refuses one system call that
//! tracking needs.

use std::{thread, time::Duration};

use procledger::{Job, Stdio, Tracker};

use crate::{
    spawn::clone2_fallback::refuse,
    support::{PidfdWatch, Place, procledger, until},
};

/// Runs on a thread for which the call fails.
fn without<T: Send>(call: libc::c_long, errno: i32, act: impl FnOnce() -> T + Send) -> T {
    let run = || {
        refuse(call, errno);
        act()
    };
    thread::scope(|scope| scope.spawn(run).join().expect("it comes back"))
}

fn tracker(place: &Place) -> Tracker {
    let builder = Tracker::builder(place.ledger()).monitor(false);
    builder.open().expect("a ledger")
}

#[test]
fn where_no_process_can_be_created_the_caller_gets_an_error_and_no_row_is_left() {
    let place = Place::new();
    let tracker = tracker(&place);
    for errno in [libc::EAGAIN, libc::ENOMEM] {
        // clone3 as the kernel refuses it, and clone(2) in case it is tried next.
        let error = without(libc::SYS_clone3, errno, || {
            refuse(libc::SYS_clone, errno);
            tracker.spawn(place.job("task", ": > ran")).expect_err("no process")
        });
        assert_eq!(error.raw_os_error(), Some(errno), "{error:?}");
        assert!(error.is_busy() || error.is_not_started(), "{error:?}");
        assert!(error.to_string().contains("/bin/sh"), "{error}");
    }
    assert!(!place.path().join("ran").exists());
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    tracker.spawn(place.job("task", "exec sleep 3600")).expect("it can be made again");
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn where_no_descriptor_is_left_the_caller_gets_an_error_and_no_row_is_left() {
    let place = Place::new();
    let tracker = tracker(&place);
    let job = || place.job("task", ": > ran").stdout(Stdio::piped());
    let error =
        without(libc::SYS_pipe2, libc::ENFILE, || tracker.spawn(job()).expect_err("no pipe"));
    assert_eq!(error.raw_os_error(), Some(libc::ENFILE), "{error:?}");
    assert!(error.is_busy(), "{error:?}");
    assert_eq!(place.sqlite3("SELECT count(*) FROM running"), "0");
    assert!(!place.path().join("ran").exists());
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn without_pidfds_no_ledger_is_opened_and_doctor_reports_what_is_needed() {
    let place = Place::new();
    for errno in [libc::ENOSYS, libc::EPERM] {
        let (error, doctor) = without(libc::SYS_pidfd_open, errno, || {
            let open = Tracker::builder(place.ledger()).open();
            (open.expect_err("no pidfd"), procledger(&place.ledger(), &["doctor"]))
        });
        assert_eq!(error.raw_os_error(), Some(errno), "{error:?}");
        assert!(error.to_string().contains("pidfd"), "{error}");
        let text = String::from_utf8_lossy(&doctor.stdout);
        assert!(!doctor.status.success() && text.contains("problem  pidfd: "), "{text}");
        let cause = std::io::Error::from_raw_os_error(errno).to_string();
        assert!(text.contains(&cause), "{text}");
    }
    Tracker::builder(place.ledger()).open().expect("nothing is in the way any more");
}

#[test]
fn a_process_that_cannot_be_signalled_is_a_survivor_and_is_ended_later() {
    let place = Place::new();
    let tracker = tracker(&place);
    for (number, errno) in [libc::ENOSYS, libc::EPERM].into_iter().enumerate() {
        let task = format!("task-{number}");
        let left = tracker.spawn(place.job(&task, "exec sleep 3600")).expect("spawned");
        let left = PidfdWatch::on(left.pid().get());
        let refused = without(libc::SYS_pidfd_send_signal, errno, || tracker.terminate(&task));
        let report = refused.expect("tried");
        // ENOSYS: the identity cannot be verified, and it gets no signal. EPERM: it exists, and
        // root's cgroup ends it.
        if !left.is_dead() {
            assert!(!report.suspects.is_empty() || report.survived() == 1, "{report:?}");
            let again = tracker.health_pass().expect("a pass");
            assert_eq!(again.ended(), 1, "{again:?}");
        }
        assert!(left.is_dead());
        let row = format!("SELECT end_reason FROM history WHERE task_id = '{task}'");
        assert_eq!(place.sqlite3(&row), "terminated");
    }
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn without_waitid_an_end_is_recorded_and_at_most_its_code_is_lost() {
    let place = Place::new();
    let tracker = tracker(&place);
    for errno in [libc::ENOSYS, libc::EPERM] {
        let mut process = tracker.spawn(place.job("task", "exit 7")).expect("spawned");
        let status =
            without(libc::SYS_waitid, errno, || process.wait_timeout(Duration::from_secs(20)));
        assert!(matches!(status, Ok(Some(_))), "{status:?}");
        until("its end is recorded", || {
            tracker.health_pass().expect("a pass");
            place.sqlite3("SELECT count(*) FROM running") == "0"
        });
    }
    tracker.shutdown().expect("an orderly end");
}

/// A program that cannot run for lack of memory, as execve(2) reports it.
#[test]
fn a_program_for_which_the_kernel_has_no_memory_is_not_started() {
    let place = Place::new();
    let tracker = tracker(&place);
    let error = without(libc::SYS_execve, libc::ENOMEM, || {
        tracker.spawn(Job::new("task", "/bin/true")).expect_err("no memory")
    });
    assert!(error.is_not_started(), "{error:?}");
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    assert_eq!(place.sqlite3("SELECT end_reason FROM history"), "failed");
    tracker.shutdown().expect("an orderly end");
}
