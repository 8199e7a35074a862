//! Futures: dropping one loses nothing, none takes a thread, and no blocking call runs on the
//! runtime.

use std::{
    fs,
    future::Future,
    time::{Duration, Instant},
};

use procledger::{AsyncTracker, ExitStatus, Job, Outcome, Stdio, Tracker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    runtime::{Builder, Runtime},
    time::timeout,
};

use crate::{
    containment::keepers::{daemon, kept},
    support::{PATIENCE, PidfdWatch, Place, alone, until},
};

/// A runtime with one thread, where any blocking call would be noticed.
fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn tracker(place: &Place) -> AsyncTracker {
    Tracker::builder(place.ledger()).open().expect("a ledger").into_async()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    one_thread().block_on(async { timeout(PATIENCE, future).await.expect("in time") })
}

/// Polls a future for a moment and drops it.
async fn give_up<T>(future: impl Future<Output = T>) {
    assert!(timeout(Duration::from_millis(20), future).await.is_err(), "it was to be cut short");
}

#[test]
fn a_wait_resolves_once_the_end_is_in_the_ledger() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let mut process = tracker.spawn(place.job("task", "exit 3")).await.expect("spawned");
        assert_eq!(process.task_id().as_str(), "task");
        assert_eq!(process.wait().await.expect("waited"), ExitStatus::Exited(3));
        let row = "SELECT state, end_reason, exit_code FROM process";
        assert_eq!(place.sqlite3(row), "ended|exited|3");
        assert_eq!(process.wait().await.expect("again"), ExitStatus::Exited(3));
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_dropped_wait_consumes_nothing() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let job = place.job("task", "until [ -e go ]; do sleep 0.01; done; exit 5");
        let mut process = tracker.spawn(job).await.expect("spawned");
        for _ in 0..3 {
            give_up(process.wait()).await;
        }
        fs::write(place.path().join("go"), "").expect("a file");
        assert_eq!(process.wait().await.expect("waited"), ExitStatus::Exited(5));
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn no_status_is_lost_by_repeatedly_dropped_waits() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        for code in 0..60 {
            let job = place.job("task", &format!("exit {code}"));
            let mut process = tracker.spawn(job).await.expect("spawned");
            let mut patience = Duration::from_micros(50) * code;
            let status = loop {
                match timeout(patience, process.wait()).await {
                    Ok(status) => break status.expect("waited"),
                    Err(_) => patience += Duration::from_micros(100),
                }
            };
            assert_eq!(status.code(), i32::try_from(code).ok());
        }
        let wrong =
            "SELECT count(*) FROM process WHERE end_reason <> 'exited' OR exit_code IS NULL";
        assert_eq!(place.sqlite3(wrong), "0");
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn output_read_by_a_dropped_future_is_returned_by_the_next() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let script = "echo first; echo oops >&2; until [ -e go ]; do sleep 0.01; done; echo last";
        let job = place.job("task", script).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = tracker.spawn(job).await.expect("spawned");
        give_up(process.wait_with_output()).await;
        give_up(process.wait_with_output()).await;
        fs::write(place.path().join("go"), "").expect("a file");
        let output = process.wait_with_output().await.expect("read");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nlast\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "oops\n");
        assert!(output.exit.success());
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn large_output_on_both_pipes_is_read_completely() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let script = "head -c 3000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait";
        let job = place.job("task", script).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tracker.spawn(job).await.expect("spawned").wait_with_output().await;
        let output = output.expect("read");
        assert_eq!((output.stdout.len(), output.stderr.len()), (3_000_000, 2_000_000));
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_delay_the_wait() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        // The process that it leaves keeps running, so that only the bound on draining ends the
        // wait.
        let job = place.job("task", "echo done; setsid sleep 3600 & exit 0").keep_strays(true);
        let mut process = tracker.spawn(job.stdout(Stdio::piped())).await.expect("spawned");
        let output = process.wait_with_output().await.expect("read");
        assert_eq!(output.stdout, b"done\n");
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn pipes_are_those_of_tokio() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let job = Job::new("task", "cat").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = tracker.spawn(job).await.expect("spawned");
        let (mut stdin, mut stdout) = (process.stdin.take().expect("piped"), process.stdout.take());
        stdin.write_all(b"there and back").await.expect("written");
        let mut text = [0; 14];
        stdout.as_mut().expect("piped").read_exact(&mut text).await.expect("read");
        assert_eq!(&text, b"there and back");
        drop(stdin);
        assert!(process.wait().await.expect("waited").success());
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_failed_read_ends_the_whole_tree_before_the_error_is_returned() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let script = "setsid sleep 3600 & echo $! > daemon; sleep 3600 & echo $! > child; wait";
        let job = place.job("reads", script).stdout(Stdio::piped());
        let mut process = tracker.spawn(job).await.expect("spawned");
        let tree =
            [PidfdWatch::on(process.pid().get()), place.watch("daemon"), place.watch("child")];
        // A terminal whose other side is closed: read(2) fails with EIO.
        process.stdout = Some(broken());
        let error = process.wait_with_output().await.expect_err("it cannot be read");
        assert!(
            tree.iter().all(PidfdWatch::is_dead),
            "the whole tree is dead when the error is here"
        );
        assert_eq!(error.raw_os_error(), Some(5), "the error is that of the read: {error}");
        let row = "SELECT state, end_reason FROM process WHERE root IS NULL";
        assert_eq!(place.sqlite3(row), "ended|terminated");
        tracker.shutdown().await.expect("an orderly end");
    });
}

fn broken() -> pipe::Receiver {
    let ends = nix::pty::openpty(None, None).expect("a terminal");
    drop(ends.slave);
    let flags = rustix::fs::fcntl_getfl(&ends.master).expect("flags");
    let flags = flags | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&ends.master, flags).expect("set");
    pipe::Receiver::from_owned_fd_unchecked(ends.master).expect("a descriptor")
}

#[test]
fn a_dropped_terminate_future_is_still_carried_out() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let script = "trap '' TERM; echo $$ > up; while :; do sleep 1; done";
        let stubborn = |task: &str| place.job(task, script).grace(Duration::from_millis(300));
        let _one = tracker.spawn(stubborn("one")).await.expect("spawned");
        let one = place.watch("up");
        give_up(tracker.terminate("one")).await;
        fs::remove_file(place.path().join("up")).expect("removed");
        let mut two = tracker.spawn(stubborn("two")).await.expect("spawned");
        let other = place.watch("up");
        give_up(two.terminate()).await;
        until("both are dead", || one.is_dead() && other.is_dead());
        assert_eq!(two.wait().await.expect("waited"), ExitStatus::Signaled(9));
        until("both are recorded", || {
            let ended = "end_reason = 'terminated' AND NOT descendant";
            place.sqlite3(&format!("SELECT count(*) FROM history WHERE {ended}")) == "2"
        });
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn terminate_returns_the_outcome_of_each_member() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let job = place.job("task", "sleep 3600 & echo $! > child; wait");
        let mut process = tracker.spawn(job).await.expect("spawned");
        let child = place.watch("child");
        let report = process.terminate().await.expect("ended");
        assert_eq!(report.count(Outcome::Term), 2, "{report:?}");
        assert!(child.is_dead());
        let error = tracker.terminate("task").await.expect_err("it has ended");
        assert!(error.is_not_found(), "{error}");
        tracker.shutdown().await.expect("an orderly end");
        assert!(tracker.spawn(place.job("late", "exit 0")).await.expect_err("closed").is_closed());
    });
}

/// The keeper is the program's parent: the status comes from its report, not from a wait of the
/// host.
#[test]
fn under_a_keeper_a_wait_returns_the_status_and_the_whole_tree_is_ended() {
    let place = Place::new();
    block_on(async {
        let tracker = kept(&place).open().expect("a ledger").into_async();
        let mut process = tracker.spawn(place.job("ends", "exit 3")).await.expect("spawned");
        assert_eq!(process.wait().await.expect("waited"), ExitStatus::Exited(3));
        let job = place.job("shouts", "echo out; echo err >&2; exit 4");
        let mut process = tracker
            .spawn(job.stdout(Stdio::piped()).stderr(Stdio::piped()))
            .await
            .expect("spawned");
        let output = process.wait_with_output().await.expect("read");
        assert_eq!(
            (output.stdout.as_slice(), output.stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
        let mut process = tracker.spawn(place.job("daemon", &script)).await.expect("spawned");
        let daemon = place.watch("daemon.pid");
        give_up(process.wait()).await;
        assert_eq!(place.sqlite3("SELECT DISTINCT containment FROM process"), "keeper");
        process.terminate().await.expect("ended");
        assert!(daemon.is_dead());
        tracker.shutdown().await.expect("an orderly end");
    });
}

#[test]
fn a_dropped_shutdown_future_is_still_carried_out() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let process = tracker.spawn(place.job("task", "exec sleep 3600")).await.expect("spawned");
        let watched = PidfdWatch::on(process.pid().get());
        let mut shutdown = Box::pin(tracker.shutdown());
        // Polled once, then dropped.
        let _ = poll_once(shutdown.as_mut()).await;
        drop(shutdown);
        until("it is dead", || watched.is_dead());
        until("it is recorded", || {
            place.sqlite3("SELECT stopped_how FROM instance WHERE stopped_at IS NOT NULL")
                == "clean"
        });
    });
}

/// The result of one poll.
async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(cx) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn a_dropped_handle_kills_nothing_unless_configured_to() {
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let kept = tracker.spawn(place.job("kept", "exec sleep 3600")).await.expect("spawned");
        let ended = tracker.spawn(place.job("ended", "exec sleep 3600")).await.expect("spawned");
        let all_watched = [PidfdWatch::on(kept.pid().get()), PidfdWatch::on(ended.pid().get())];
        drop(kept);
        drop(ended.terminate_on_drop(true));
        until("it is dead", || all_watched[1].is_dead());
        until("it is recorded", || {
            place.sqlite3("SELECT end_reason FROM history WHERE task_id = 'ended'") == "terminated"
        });
        assert!(!all_watched[0].is_dead(), "the tracker still has it");
        assert_eq!(tracker.tracker().executing_count(), 1);
        tracker.shutdown().await.expect("an orderly end");
        assert!(all_watched[0].is_dead());
    });
}

/// Two hundred waits, all pending: threads of the runtime are identified by their name.
#[test]
fn no_wait_uses_a_thread() {
    let _alone = alone();
    let place = Place::new();
    let name = format!("plw{:x}", std::process::id() & 0xffff);
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(&name)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let tracker = tracker(&place);
        let before = threads(|_| true);
        let mut waits = tokio::task::JoinSet::new();
        for task in 0..200 {
            let job = place.job(&format!("task-{task}"), "read line").stdin(Stdio::piped());
            let mut process = tracker.spawn(job).await.expect("spawned");
            let stdin = process.stdin.take();
            waits.spawn(async move {
                let status = process.wait().await;
                (stdin, status)
            });
        }
        assert_eq!(tracker.tracker().executing_count(), 200);
        // All of them have been polled once they have had their turn.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let more = threads(|_| true).saturating_sub(before);
        assert!(more < 100, "{more} more threads, other tests' included, for 200 waits");
        let of_the_runtime = threads(|comm| comm == name);
        assert!(of_the_runtime <= 2 + 8, "{of_the_runtime} threads of the runtime for 200 waits");
        tracker.shutdown().await.expect("an orderly end");
        let mut ended = 0;
        while let Some(wait) = waits.join_next().await {
            let (_, status) = wait.expect("no panic");
            assert_eq!(status.expect("waited"), ExitStatus::Signaled(15));
            ended += 1;
        }
        assert_eq!(ended, 200);
    });
}

fn threads(wanted: impl Fn(&str) -> bool) -> usize {
    let all = crate::support::threads(std::process::id());
    all.iter().filter(|name| wanted(name)).count()
}

/// Without a watcher, the waiter settles the end itself, and not on the runtime's thread.
#[test]
fn without_a_monitor_a_wait_records_the_end() {
    let place = Place::new();
    block_on(async {
        let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
        let tracker = tracker.into_async();
        let mut process = tracker.spawn(place.job("task", "exit 4")).await.expect("spawned");
        assert_eq!(process.wait().await.expect("waited"), ExitStatus::Exited(4));
        assert_eq!(place.sqlite3("SELECT end_reason, exit_code FROM process"), "exited|4");
        tracker.shutdown().await.expect("an orderly end");
    });
}

/// The one thread of the runtime continues with other work during the grace period of a stubborn
/// tree.
#[test]
fn the_runtime_continues_while_a_tree_is_being_ended() {
    let _alone = alone();
    let place = Place::new();
    block_on(async {
        let tracker = tracker(&place);
        let script = "trap '' TERM; echo $$ > up; while :; do sleep 1; done";
        let job = place.job("stubborn", script).grace(Duration::from_millis(500));
        let _process = tracker.spawn(job).await.expect("spawned");
        place.wait_for("up");
        let theirs = tracker.clone();
        let end = tokio::spawn(async move { theirs.terminate("stubborn").await });
        let (began, mut turns) = (Instant::now(), 0);
        while !end.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            turns += 1;
        }
        assert!(began.elapsed() >= Duration::from_millis(500), "the grace was kept");
        assert!(turns > 20, "{turns} turns in {:?}", began.elapsed());
        end.await.expect("no panic").expect("ended");
        tracker.shutdown().await.expect("an orderly end");
    });
}
