//! Trees over a limit are ended together, in the background, and once: neither they nor anything
//! else waits for the grace period of another tree.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use procledger::{ContainmentMode, Job, Tracker};

use crate::{
    containment::keepers::KEEPER,
    support::{Host, PidfdWatch, Place, alone, long, until},
};

/// Ignores SIGTERM, and so do its children.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 1; done";
/// How late an unrelated wait or limit may be on a busy machine; a grace period is far longer.
const LATE: Duration = Duration::from_millis(700);
const GRACE: Duration = Duration::from_secs(3);

fn containments() -> Vec<ContainmentMode> {
    let root = rustix::process::geteuid().is_root();
    let cgroup = root.then_some(ContainmentMode::Cgroup);
    [ContainmentMode::Session, ContainmentMode::Keeper].into_iter().chain(cgroup).collect()
}

/// Five trees were ended one after another, since each rule was handled separately: 16 s with a
/// grace period of 3 s.
#[test]
fn five_trees_over_their_limits_are_ended_within_one_grace() {
    let _alone = alone();
    for containment in containments() {
        let place = Place::new();
        let tracker = Tracker::builder(place.ledger()).monitor(false).keeper(KEEPER);
        let tracker = tracker.containment(containment).open().expect("a ledger");
        let grace = Duration::from_millis(1500);
        let all_watched: Vec<PidfdWatch> = (1..=5_u64)
            .map(|number| {
                // Some exceed their time limit, some their memory limit.
                let job = place.job(&format!("task-{number}"), STUBBORN).grace(grace);
                let job = match number % 2 {
                    0 => job.max_runtime(Duration::from_millis(100 * number)),
                    _ => job.max_rss(number),
                };
                PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get())
            })
            .collect();
        std::thread::sleep(Duration::from_millis(700));
        let began = Instant::now();
        let report = tracker.health_pass().expect("a pass");
        let took = began.elapsed();
        assert!(all_watched.iter().all(PidfdWatch::is_dead), "{containment:?}: {report:?}");
        // One after another they take at least five grace periods.
        assert!(
            took < grace.saturating_mul(5).saturating_sub(Duration::from_millis(500)),
            "{containment:?}: {took:?} for five trees"
        );
        assert!(report.ended() >= 5, "{containment:?}: {report:?}");
        let reasons = "SELECT end_reason, count(DISTINCT end_rule) FROM history
                       WHERE NOT descendant GROUP BY 1 ORDER BY 1";
        assert_eq!(place.sqlite3(reasons), "max_rss|3\nmax_runtime|2", "{containment:?}");
        let recorded = "SELECT found >= 5 AND ended >= 5 FROM pass WHERE kind = 'health'";
        assert_eq!(place.sqlite3(recorded), "1", "the pass has what it did");
        tracker.shutdown().expect("an orderly end");
    }
}

/// What is measured while other trees are in their grace period.
fn nothing_else_is_late(place: &Place, tracker: &Tracker, name: &str) {
    for round in 0..3 {
        let mut short = tracker
            .spawn(place.job(&format!("short-{round}"), "sleep 0.2; exit 3"))
            .expect("spawned");
        let limit = Duration::from_millis(400);
        let job = place.job(&format!("brief-{round}"), "exec sleep 3600").max_runtime(limit);
        let (began, brief) = (Instant::now(), tracker.spawn(job).expect("spawned"));
        let brief = PidfdWatch::on(brief.pid().get());
        let status = short.wait().expect("waited");
        let waited = began.elapsed();
        assert_eq!(status.code(), Some(3));
        assert!(waited < Duration::from_millis(200) + LATE, "{name}: a wait took {waited:?}");
        until("its limit is enforced", || brief.is_dead());
        let ran = began.elapsed();
        assert!(ran < limit + LATE, "{name}: a limit of {limit:?} was enforced after {ran:?}");
    }
}

/// The health pass ended them on the monitor's thread: a concurrent wait was a second late, another
/// limit half a minute.
#[test]
fn a_wait_and_a_limit_of_other_tasks_are_not_delayed_by_a_grace() {
    let _alone = alone();
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).health_interval(Duration::from_millis(200));
    let tracker = tracker.open().expect("a ledger");
    for number in 1..=3 {
        let job = place.job(&format!("over-{number}"), STUBBORN).grace(GRACE).max_rss(number);
        tracker.spawn(job).expect("spawned");
    }
    // Late in its first grace period, and in those of the others.
    std::thread::sleep(Duration::from_millis(500));
    nothing_else_is_late(&place, &tracker, "three trees over their memory");
    tracker.shutdown().expect("an orderly end");
}

/// A `kill` blocks other passes; the monitor waited for its turn.
#[test]
fn a_wait_and_a_limit_of_other_tasks_are_not_delayed_by_a_kill() {
    let _alone = alone();
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).health_interval(Duration::from_millis(200));
    let tracker = tracker.open().expect("a ledger");
    tracker.spawn(place.job("killed", STUBBORN).grace(GRACE)).expect("spawned");
    let theirs = tracker.clone();
    let kill = std::thread::spawn(move || theirs.kill(&["killed"], "a test"));
    std::thread::sleep(Duration::from_millis(400));
    nothing_else_is_late(&place, &tracker, "a kill");
    kill.join().expect("no panic").expect("killed");
    tracker.shutdown().expect("an orderly end");
}

/// One exceeded limit started up to 32 threads, and was logged up to 35 times.
#[test]
fn an_exceeded_limit_is_logged_once_and_needs_no_thread_of_its_own() {
    let _alone = alone();
    let place = Place::new();
    let log = place.path().join("log");
    let fifo = place.path().join("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let options = format!("grace=3000 containment=session log={}", log.display());
    let mut host = Host::start(&place, &options);
    let folder = place.path().display();
    // Records the time of SIGTERM, and does not end.
    let script = |number: usize| {
        format!(
            "trap 'date +%s%N > {folder}/asked-{number}' TERM; exec 3<>{folder}/never; \
             while :; do read x <&3; done"
        )
    };
    // The first limit expires after all have been started.
    let (trees, first, apart) = if long() { (400, 8000, 2) } else { (60, 1500, 10) };
    let mut due = Vec::new();
    for number in 0..trees {
        let limit = Duration::from_millis(first + apart * number as u64);
        let verb = format!("within t{number} {} {}", limit.as_millis(), script(number));
        assert!(host.ask(&verb).starts_with("pid "));
        due.push(SystemTime::now() + limit);
    }
    let asked = |number: usize| fs::read_to_string(place.path().join(format!("asked-{number}")));
    let mut most = 0;
    until("all are asked to end", || {
        most = most.max(threads(host.pid(), &["procledger-ends", "procledger-limi"]));
        (0..trees).all(|number| asked(number).is_ok_and(|text| !text.trim().is_empty()))
    });
    assert!((1..=4).contains(&most), "{most} threads for {trees} trees");
    let mut latest = Duration::ZERO;
    for (number, due) in due.into_iter().enumerate() {
        let nanoseconds: u64 = asked(number).expect("asked").trim().parse().expect("a time");
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        let late = at.duration_since(due).unwrap_or_default();
        latest = latest.max(late);
    }
    // Less than a grace period, however slow the machine is: hundreds of shells answer at the same
    // time.
    assert!(latest < Duration::from_millis(2500), "a tree was asked {latest:?} late");
    println!("{trees} trees were asked to end, {latest:?} late at most, by {most} threads at most");
    until("all are dead", || {
        place.sqlite3("SELECT count(*) FROM running WHERE NOT descendant") == "0"
    });
    let text = fs::read_to_string(&log).expect("a log");
    for number in 0..trees {
        let line = format!("for task t{number}: ran for ");
        assert_eq!(text.matches(&line).count(), 1, "task {number} is logged once");
    }
    let ended = "SELECT count(*) FROM history WHERE end_reason = 'max_runtime' AND NOT descendant";
    assert_eq!(place.sqlite3(ended), trees.to_string());
    until("the thread is gone", || threads(host.pid(), &["procledger-ends"]) == 0);
    host.stop();
}

/// A shutdown that begins in a grace period waits for it, and each tree keeps its own reason.
#[test]
fn a_shutdown_waits_for_trees_that_are_being_ended_for_a_limit() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let stubborn = |task: &str| place.job(task, STUBBORN).grace(Duration::from_millis(600));
    let over = stubborn("over").max_runtime(Duration::from_millis(300));
    let over = PidfdWatch::on(tracker.spawn(over).expect("spawned").pid().get());
    let other: Job = stubborn("other");
    let other = PidfdWatch::on(tracker.spawn(other).expect("spawned").pid().get());
    std::thread::sleep(Duration::from_millis(500));
    tracker.shutdown().expect("an orderly end");
    assert!(over.is_dead() && other.is_dead());
    let reasons = "SELECT task_id, end_reason FROM history WHERE NOT descendant ORDER BY 1";
    assert_eq!(place.sqlite3(reasons), "other|shutdown\nover|max_runtime");
}

/// Counts the threads of a process with these names.
fn threads(pid: u32, names: &[&str]) -> usize {
    crate::support::threads(pid).iter().filter(|name| names.contains(&name.as_str())).count()
}
