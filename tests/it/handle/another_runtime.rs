//! A handle is bound to no runtime: it can be waited for in another one than the one that created
//! it.

use std::{fs, time::Duration};

use procledger::{AsyncProcess, ContainmentMode, ExitStatus, Stdio, Tracker};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    containment::keepers::KEEPER,
    support::{PATIENCE, Place},
};

const UNTIL_GO: &str =
    "echo first; echo oops >&2; until [ -e go ]; do sleep 0.01; done; echo last; exit 5";

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn many_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A program that was spawned, and waited for in vain, in a runtime.
fn begun_in(runtime: &Runtime, place: &Place, tracker: &Tracker) -> AsyncProcess {
    let tracker = tracker.clone().into_async();
    let job = place.job("task", UNTIL_GO).stdout(Stdio::piped()).stderr(Stdio::piped());
    runtime.block_on(async {
        let mut process = tracker.spawn(job).await.expect("spawned");
        assert!(timeout(Duration::from_millis(50), process.wait()).await.is_err());
        assert!(timeout(Duration::from_millis(50), process.wait_with_output()).await.is_err());
        process
    })
}

fn go(place: &Place) {
    fs::write(place.path().join("go"), "").expect("a file");
}

/// The registration stayed with the first runtime: an error, or a wait without an end.
#[test]
fn a_wait_continues_in_another_runtime_after_the_first_has_ended() {
    for containment in [ContainmentMode::Session, ContainmentMode::Keeper] {
        for (first, second) in [(one_thread(), many_threads()), (many_threads(), one_thread())] {
            let place = Place::new();
            let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
            let tracker = tracker.open().expect("a ledger");
            let mut process = begun_in(&first, &place, &tracker);
            drop(first);
            second.block_on(async {
                assert!(timeout(Duration::from_millis(50), process.wait()).await.is_err());
                go(&place);
                let status = timeout(PATIENCE, process.wait()).await.expect("in time");
                assert_eq!(status.expect("waited"), ExitStatus::Exited(5));
            });
            tracker.shutdown().expect("an orderly end");
        }
    }
}

/// The first runtime still exists, but nothing drives it.
#[test]
fn output_can_be_read_in_another_runtime_while_the_first_is_idle() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let first = one_thread();
    let mut process = begun_in(&first, &place, &tracker);
    go(&place);
    let output = many_threads().block_on(async {
        timeout(PATIENCE, process.wait_with_output()).await.expect("in time").expect("read")
    });
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nlast\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "oops\n");
    assert_eq!(output.exit, ExitStatus::Exited(5));
    tracker.shutdown().expect("an orderly end");
    drop(first);
}

#[test]
fn output_can_be_read_after_the_first_runtime_has_ended() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let first = many_threads();
    let mut process = begun_in(&first, &place, &tracker);
    first.shutdown_timeout(Duration::from_secs(5));
    go(&place);
    let output = one_thread().block_on(async {
        timeout(PATIENCE, process.wait_with_output()).await.expect("in time").expect("read")
    });
    assert_eq!(output.stdout, b"first\nlast\n");
    tracker.shutdown().expect("an orderly end");
}

/// Back and forth: as with one runtime per request.
#[test]
fn a_handle_can_be_passed_between_runtimes_again_and_again() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let (one, other) = (one_thread(), many_threads());
    let mut process = begun_in(&one, &place, &tracker);
    for turn in 0..20 {
        let runtime = if turn % 2 == 0 { &other } else { &one };
        let waited =
            runtime.block_on(async { timeout(Duration::from_millis(5), process.wait()).await });
        assert!(waited.is_err(), "it still runs");
    }
    go(&place);
    let status = one.block_on(async { timeout(PATIENCE, process.wait()).await });
    assert_eq!(status.expect("in time").expect("waited"), ExitStatus::Exited(5));
    tracker.shutdown().expect("an orderly end");
}
