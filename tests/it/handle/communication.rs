//! A program's input is fed while its output is read, within limits, and neither direction blocks
//! the other.

use std::{io::Write, time::Duration};

use procledger::{AsyncTracker, EndReason, ExitStatus, Job, Stdio, Tracker};

use crate::{
    spawn::attributes::trackers,
    support::{PidfdWatch, Place, until},
};

/// Larger than a pipe, which holds 64 KiB.
const LARGE: usize = 5 << 20;

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| b'a' + u8::try_from(at % 23).expect("a letter")).collect()
}

fn piped(job: Job) -> Job {
    job.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// The trackers for futures.
fn asynchronous() -> impl Iterator<Item = (Place, AsyncTracker)> {
    trackers().into_iter().map(|(place, tracker, _)| (place, tracker.into_async()))
}

#[test]
fn large_input_and_output_pass_at_the_same_time() {
    for (place, tracker, containment) in trackers() {
        let job = piped(place.job("task", "tee /dev/stderr"));
        let mut process = tracker.spawn(job).expect("spawned");
        let output = process.communicate(large()).read().expect("read").expect("no limit");
        assert_eq!(output.exit, ExitStatus::Exited(0), "{containment}");
        assert!(output.stdout == large() && output.stderr == large(), "{containment}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn large_input_and_output_pass_at_the_same_time_in_a_future() {
    for (place, tracker) in asynchronous() {
        let job = piped(place.job("task", "tee /dev/stderr"));
        let mut process = tracker.spawn(job).await.expect("spawned");
        let output = process.communicate(large()).read().await.expect("read").expect("no limit");
        assert_eq!(output.exit, ExitStatus::Exited(0));
        assert!(output.stdout == large() && output.stderr == large());
        tracker.shutdown().await.expect("an orderly end");
    }
}

/// Programs that read none or a part of their input, or close it and continue.
const READS_NO_MORE: [(&str, &str); 3] = [
    ("exit 3", ""),
    ("head -c 3; exit 3", "abc"),
    ("exec <&-; sleep 0.2; echo late; exit 3", "late\n"),
];

#[test]
fn a_program_that_does_not_read_its_input_is_not_an_error() {
    for (place, tracker, containment) in trackers() {
        for (script, expected) in READS_NO_MORE {
            let mut process = tracker.spawn(piped(place.job("task", script))).expect("spawned");
            let output = process.communicate(large()).read().expect("read").expect("no limit");
            assert_eq!(output.exit, ExitStatus::Exited(3), "{containment}: {script}");
            assert_eq!(output.stdout, expected.as_bytes(), "{containment}: {script}");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_program_that_does_not_read_its_input_is_not_an_error_in_a_future() {
    for (place, tracker) in asynchronous() {
        for (script, expected) in READS_NO_MORE {
            let job = piped(place.job("task", script));
            let mut process = tracker.spawn(job).await.expect("spawned");
            let output = process.communicate(large()).read().await.expect("read");
            let output = output.expect("no limit");
            assert_eq!(output.exit, ExitStatus::Exited(3), "{script}");
            assert_eq!(output.stdout, expected.as_bytes(), "{script}");
        }
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn a_program_that_closes_its_output_still_gets_all_its_input() {
    for (place, tracker, _) in trackers() {
        let job = piped(place.job("task", "exec >&- 2>&-; cat > all"));
        let mut process = tracker.spawn(job).expect("spawned");
        let output = process.communicate(large()).read().expect("read").expect("no limit");
        assert!(output.exit.success() && output.stdout.is_empty());
        assert!(std::fs::read(place.path().join("all")).expect("a file") == large());
    }
}

/// Prints a part at once, and the rest when it is allowed to.
const IN_PARTS: &str = "echo one; echo err >&2; until [ -e go ]; do sleep 0.01; done; echo two";

#[test]
fn a_read_that_reaches_its_time_limit_is_continued_by_the_next() {
    for (place, tracker, containment) in trackers() {
        let mut process = tracker.spawn(piped(place.job("task", IN_PARTS))).expect("spawned");
        let mut communicator = process.communicate("x").limit_time(Duration::from_millis(20));
        until("the first part is read", || {
            assert_eq!(communicator.read().expect("read"), None, "{containment}");
            communicator.stdout() == b"one\n" && communicator.stderr() == b"err\n"
        });
        std::fs::write(place.path().join("go"), "").expect("a file");
        let mut all = None;
        until("the rest is read", || {
            all = communicator.read().expect("read");
            all.is_some()
        });
        let output = all.expect("read");
        assert_eq!((output.stdout, output.stderr), (b"one\ntwo\n".to_vec(), b"err\n".to_vec()));
        assert!(output.exit.success());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_future_that_reaches_its_time_limit_is_continued_by_the_next() {
    for (place, tracker) in asynchronous() {
        let job = piped(place.job("task", IN_PARTS));
        let mut process = tracker.spawn(job).await.expect("spawned");
        let limit = Duration::from_millis(20);
        let mut communicator = process.communicate("x").limit_time(limit);
        while communicator.stdout() != b"one\n" || communicator.stderr() != b"err\n" {
            assert_eq!(communicator.read().await.expect("read"), None);
        }
        // A dropped future has lost nothing either: another one continues.
        assert!(tokio::time::timeout(limit, communicator.read()).await.is_ok());
        std::fs::write(place.path().join("go"), "").expect("a file");
        let output = process.wait_with_output().await.expect("read");
        assert_eq!((output.stdout, output.stderr), (b"one\ntwo\n".to_vec(), b"err\n".to_vec()));
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn a_read_that_reaches_its_byte_limit_is_continued_by_the_next() {
    for (place, tracker, containment) in trackers() {
        // Without an end, and faster than it is read.
        let mut process = tracker.spawn(piped(place.job("yes", "exec yes"))).expect("spawned");
        let watched = PidfdWatch::on(process.pid().get());
        let mut communicator = process.communicate([]).limit_size(100_001);
        for times in 1..4 {
            assert_eq!(communicator.read().expect("read"), None, "{containment}");
            assert_eq!(communicator.stdout().len(), times * 100_001);
        }
        drop(communicator);
        process.terminate().expect("ended");
        assert!(watched.is_dead());

        let job = piped(place.job("both", "printf 12345; printf 67890 >&2"));
        let mut process = tracker.spawn(job).expect("spawned");
        let mut communicator = process.communicate([]).limit_size(3);
        let (mut reads, mut seen) = (0, 0);
        let output = loop {
            if let Some(output) = communicator.read().expect("read") {
                break output;
            }
            let now = communicator.stdout().len() + communicator.stderr().len();
            assert_eq!(now - seen, 3, "{containment}");
            (reads, seen) = (reads + 1, now);
        };
        assert_eq!((reads, output.stdout, output.stderr), (3, b"12345".into(), b"67890".into()));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_future_that_reaches_its_byte_limit_is_continued_by_the_next() {
    for (place, tracker) in asynchronous() {
        let mut process =
            tracker.spawn(piped(place.job("yes", "exec yes"))).await.expect("spawned");
        let mut communicator = process.communicate([]).limit_size(100_001);
        for times in 1..4 {
            assert_eq!(communicator.read().await.expect("read"), None);
            assert_eq!(communicator.stdout().len(), times * 100_001);
        }
        process.terminate().await.expect("ended");
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn input_without_a_pipe_is_refused_and_the_program_runs_on() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let error = process.communicate("x").read().expect_err("no pipe");
    assert!(error.is_invalid_input() && error.to_string().contains("Stdio::piped()"), "{error}");
    assert_eq!(process.try_wait().expect("a look"), None);
}

#[test]
fn input_bytes_are_passed_by_every_kind_of_wait_and_to_each_clone() {
    for (place, tracker, containment) in trackers() {
        let job = place.job("task", "cat > $0.in; cat; [ -f /dev/stdin ]").stdin_bytes(large());
        for job in [job.clone(), job] {
            let mut process = tracker.spawn(job).expect("spawned");
            assert!(process.wait().expect("ended").success(), "{containment}");
            let file = place.path().join(format!("{}.in", place.marker()));
            assert!(std::fs::read(&file).expect("a file") == large(), "{containment}");
            std::fs::remove_file(file).expect("removed");
        }
        // A program that does not read them, and one that would change them.
        let unread = place.job("unread", "exit 3").stdin_bytes(large());
        assert_eq!(tracker.status(unread).expect("ended"), ExitStatus::Exited(3));
        let writes = place.job("writes", "echo other 2>/dev/null 1<>/dev/stdin; cat");
        let writes = writes.stdin_bytes("bytes").stdout(Stdio::piped());
        assert_eq!(tracker.output(writes).expect("ended").stdout, b"bytes");
    }
}

#[test]
fn standard_error_can_be_merged_into_standard_output() {
    for (place, tracker, containment) in trackers() {
        let script = "for x in 1 2 3; do echo out $x; echo err $x >&2; done";
        let expected = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n";
        let job = place.job("piped", script).stdout(Stdio::piped()).stderr(Stdio::merge());
        let process = tracker.spawn(job).expect("spawned");
        assert!(process.stderr.is_none());
        let output = process.wait_with_output().expect("ended");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{containment}");
        assert!(output.stderr.is_empty());

        let file = std::fs::File::create(place.path().join("log")).expect("a file");
        let job = place.job("file", script).stdout(file).stderr(Stdio::merge());
        assert!(tracker.status(job).expect("ended").success());
        let log = std::fs::read_to_string(place.path().join("log")).expect("a file");
        assert_eq!(log, expected, "{containment}");

        let job = place.job("null", "[ /proc/self/fd/2 -ef /dev/null ]").stderr(Stdio::merge());
        assert!(tracker.status(job).expect("ended").success(), "{containment}");

        for job in [
            place.job("wrong", ": > ran").stdout(Stdio::merge()),
            place.job("wrong", ": > ran").stdin(Stdio::merge()),
        ] {
            let error = tracker.spawn(job).expect_err("refused");
            assert!(error.is_invalid_input() && error.to_string().contains("merged"), "{error}");
        }
        assert!(!place.path().join("ran").exists());
    }
}

#[test]
fn output_is_captured_by_default() {
    for (place, tracker, containment) in trackers() {
        let job =
            || Job::new("task", "/bin/sh").args(["-c", "cat; echo out; echo err >&2; exit 4"]);
        let output = tracker.output(job()).expect("ended");
        assert_eq!((output.exit.code(), output.exit.reason), (Some(4), EndReason::Exited));
        let both = (output.stdout.as_slice(), output.stderr.as_slice());
        assert_eq!(both, (&b"out\n"[..], &b"err\n"[..]), "{containment}: no input");
        let file = std::fs::File::create(place.path().join("err")).expect("a file");
        let output = tracker.output(job().stderr(file).stdin_bytes("in ")).expect("ended");
        let both = (output.stdout.as_slice(), output.stderr.as_slice());
        assert_eq!(both, (&b"in out\n"[..], &b""[..]), "{containment}");
        assert_eq!(std::fs::read(place.path().join("err")).expect("a file"), b"err\n");
        let slow = place.job("slow", "echo begun; exec sleep 3600").stdout(Stdio::piped());
        let output = tracker.output(slow.max_runtime(Duration::from_millis(200))).expect("ended");
        assert_eq!(output.exit.reason, EndReason::MaxRuntime, "{containment}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn dropping_a_call_for_output_ends_its_program() {
    for (place, tracker) in asynchronous() {
        let output = tracker.output(place.job("first", "cat; echo out; exit 4")).await;
        let output = output.expect("ended");
        assert_eq!((output.exit.code(), output.stdout.len()), (Some(4), 0), "its stdout is null");
        let status = tracker.status(place.job("second", "exit 5")).await.expect("ended");
        assert_eq!(status, ExitStatus::Exited(5));

        let job = || place.job("dropped", "echo $$ > pid; exec sleep 3600");
        for with_output in [true, false] {
            let running = async {
                if with_output {
                    tracker.output(job()).await.map(drop)
                } else {
                    tracker.status(job()).await.map(drop)
                }
            };
            let path = place.path().join("pid");
            let is_written = async {
                while !std::fs::read(&path).is_ok_and(|pid| pid.ends_with(b"\n")) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                ended = running => panic!("it has ended: {ended:?}"),
                () = is_written => {}
            }
            let watched = place.watch("pid");
            until("its program is ended", || watched.is_dead());
            std::fs::remove_file(path).expect("removed");
            let row = "SELECT count(*) FROM process WHERE task_id = 'dropped' AND state <> 'ended'";
            until("its end is recorded", || place.sqlite3(row) == "0");
        }
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn the_caller_can_write_to_a_pipe_before_communicate() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let mut process = tracker.spawn(piped(place.job("task", "cat"))).expect("spawned");
    process.stdin.as_mut().expect("piped").write_all(b"first ").expect("written");
    let output = process.communicate("second").read().expect("read").expect("no limit");
    assert_eq!(output.stdout, b"first second");
}
