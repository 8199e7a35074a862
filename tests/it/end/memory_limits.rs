//! `max_rss`: shared pages count once, and a tree that grows is ended within seconds.

use std::{
    fs,
    time::{Duration, Instant},
};

use procledger::{ContainmentMode, Job, Stdio, Tracker};

use crate::{
    containment::keepers::KEEPER,
    handle::as_a_host::end_the_first_thread,
    support::{
        Host, PATIENCE, PidfdWatch, Place, at_once, children, in_namespace_as_a_user, is_alive,
        root, threads, until,
    },
};

const MIB: u64 = 1 << 20;
/// How much the program allocates, and how many processes share it.
const SHARED: usize = 40 << 20;
const CHILDREN: usize = 5;
/// A limit is checked every second, and a health pass runs every thirty; the rest is for a busy
/// machine.
const SOON: Duration = Duration::from_secs(12);

/// Not a scenario: a program with memory, by the mode in its environment. `private` and `shared`
/// fork children that share it, and write to their own copies of it once the file `grow` exists;
/// `hidden` cannot be inspected; of `leaderless` the first thread has ended.
#[test]
#[expect(unsafe_code, reason = "the scenario is a fork")]
fn as_a_program_with_memory() {
    use std::ffi::c_void;
    let Some(mode) = std::env::var_os("PROCLEDGER_IT_MEMORY") else { return };
    if mode == "hidden" {
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .expect("hidden");
    }
    let kind = if mode == "shared" { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let flags = kind | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of its own.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), SHARED, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    let write = |memory: *mut c_void, byte| {
        // SAFETY: all of it is mapped and writable.
        unsafe { std::ptr::write_bytes(memory.cast::<u8>(), byte, SHARED) };
    };
    write(memory, 1);
    if mode == "leaderless" {
        end_the_first_thread();
    }
    if mode == "private" || mode == "shared" {
        for _ in 0..CHILDREN {
            // SAFETY: the child uses no lock that another thread may have held.
            if unsafe { nix::unistd::fork() }.expect("a child").is_child() {
                if mode == "shared" {
                    // A fork copies no page tables of a shared mapping.
                    write(memory, 1);
                }
                break;
            }
        }
    }
    let mut grown = false;
    loop {
        if !grown && fs::exists("grow").unwrap_or(false) {
            // A shared mapping has one copy; these processes get one each.
            let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping of its own.
            let private_memory =
                unsafe { libc::mmap(std::ptr::null_mut(), SHARED, protection, private, -1, 0) };
            assert_ne!(private_memory, libc::MAP_FAILED);
            write(private_memory, 2);
            grown = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn program(place: &Place, task: &str, mode: &str) -> Job {
    Job::new(task, std::env::current_exe().expect("this binary"))
        .args(["--exact", "end::memory_limits::as_a_program_with_memory", "--nocapture"])
        .arg("--test-threads=1")
        .env("PROCLEDGER_IT_MEMORY", mode)
        .env("PROCLEDGER_IT_MARKER", place.marker())
        .current_dir(place.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
}

/// 240 MB by the sum of resident memory, 40 MB in fact.
fn shared_pages_count_once(containment: ContainmentMode, mode: &str) {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
    let tracker = tracker.open().expect("a ledger");
    let job = program(&place, "pool", mode).max_rss(120 * MIB);
    let pool = tracker.spawn(job).expect("spawned").pid().get();
    let watched = PidfdWatch::on(pool);
    until("it has its children", || children(pool).len() == CHILDREN);
    // More than one scan of all processes, and health passes as well.
    let until_then = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until_then {
        tracker.health_pass().expect("a pass");
        assert!(!watched.is_dead(), "{containment:?}, {mode}: {}", rule(&place));
        std::thread::sleep(Duration::from_millis(300));
    }
    let peak = place.sqlite3("SELECT peak_rss_bytes FROM process WHERE root IS NULL");
    assert!(peak.parse::<u64>().expect("bytes") > 200 * MIB, "the sum of the parts is {peak}");
    // Now each has 40 MB of its own.
    fs::write(place.path().join("grow"), "").expect("a file");
    let grew = Instant::now();
    until("it is ended", || watched.is_dead());
    assert!(grew.elapsed() < SOON, "{containment:?}: {:?}", grew.elapsed());
    until("the end is recorded", || rule(&place).starts_with("its tree used "));
    let rule = rule(&place);
    let figures: Vec<u64> =
        rule.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [used, resident, limit] = figures[..] else { panic!("both figures and the limit: {rule}") };
    assert!(used > limit && used < resident && limit == 120 * MIB, "{rule}");
    tracker.shutdown().expect("an orderly end");
}

fn rule(place: &Place) -> String {
    let rule = "SELECT end_rule FROM history WHERE NOT descendant AND end_reason = 'max_rss'";
    place.sqlite3(rule)
}

#[test]
fn pages_shared_by_forks_count_once_in_a_session() {
    shared_pages_count_once(ContainmentMode::Session, "private");
}

#[test]
fn pages_shared_by_forks_count_once_under_a_keeper() {
    shared_pages_count_once(ContainmentMode::Keeper, "private");
}

#[test]
fn a_shared_mapping_counts_once_in_a_cgroup() {
    if root() {
        shared_pages_count_once(ContainmentMode::Cgroup, "shared");
    }
}

#[test]
fn a_shared_mapping_counts_once_in_a_session() {
    shared_pages_count_once(ContainmentMode::Session, "shared");
}

/// It was checked only every thirty seconds: 600 MB for 8 s under a limit of 100 MB were not
/// noticed.
fn growth_is_noticed(containment: ContainmentMode, script: &str) {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
    let tracker = tracker.open().expect("a ledger");
    let job = place.job("grows", script).max_rss(40_000_000);
    let watched = PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get());
    let modest = place.job("modest", "exec sleep 3600").max_rss(40_000_000);
    let modest = tracker.spawn(modest).expect("spawned");
    place.wait_for("growing");
    let grew = Instant::now();
    until("it is ended", || watched.is_dead());
    assert!(grew.elapsed() < SOON, "{containment:?}: noticed after {:?}", grew.elapsed());
    until("the end is recorded", || rule(&place).starts_with("its tree used "));
    // Only `head` ends by itself, at once. It may have been recorded before that.
    let others = "SELECT end_reason FROM history
                  WHERE task_id = 'grows' AND end_reason <> 'max_rss'";
    let others = place.sqlite3(others);
    assert!(["", "gone"].contains(&others.as_str()), "{containment:?}: {others}");
    let live = "SELECT command FROM process WHERE task_id = 'grows' AND state <> 'ended'";
    assert_eq!(place.sqlite3(live), "", "{containment:?}");
    assert!(is_alive(modest.pid().get()));
    tracker.shutdown().expect("an orderly end");
}

/// The memory is not the root's.
const GROWS: &str = "(head -c 50000000 /dev/zero; echo > growing; sleep 3600) | tail -c 50000000";
/// The growing process has lost its parent, and left the session.
const DAEMON_GROWS: &str = "(setsid /bin/sh -c '(head -c 50000000 /dev/zero; echo > growing; \
                            sleep 3600) | tail -c 50000000' & exit 0); exec sleep 3600";

#[test]
fn a_tree_that_grows_between_two_health_passes_is_ended_within_seconds() {
    let cgroup = root().then_some(ContainmentMode::Cgroup);
    let modes = [ContainmentMode::Session, ContainmentMode::Keeper].into_iter().chain(cgroup);
    at_once(modes, |mode| growth_is_noticed(mode, GROWS));
}

#[test]
fn a_daemon_that_grows_between_two_health_passes_is_ended_with_its_tree() {
    let cgroup = root().then_some(ContainmentMode::Cgroup);
    let modes = [ContainmentMode::Session, ContainmentMode::Keeper].into_iter().chain(cgroup);
    at_once(modes, |mode| growth_is_noticed(mode, DAEMON_GROWS));
}

/// The kernel shows a process by its first thread, which has no memory once it has ended.
#[test]
fn a_program_whose_first_thread_had_ended_had_no_limit() {
    at_once([ContainmentMode::Session, ContainmentMode::Keeper], |containment| {
        let place = Place::new();
        let tracker = Tracker::builder(place.ledger()).containment(containment).keeper(KEEPER);
        let tracker = tracker.open().expect("a ledger");
        let spawn = |task: &str, limit| {
            let job = program(&place, task, "leaderless").max_rss(limit);
            PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get())
        };
        let (small, roomy) = (spawn("small", 30 * MIB), spawn("roomy", 400 * MIB));
        until("its first thread ends", || crate::support::state(roomy.pid()) == Some('Z'));
        let began = Instant::now();
        until("it is ended", || small.is_dead());
        assert!(began.elapsed() < SOON, "{containment:?}: {:?}", began.elapsed());
        until("the end is recorded", || rule(&place).starts_with("its tree used "));
        assert!(!roomy.is_dead());
        tracker.shutdown().expect("an orderly end");
    });
}

/// Its own user may not read its `smaps_rollup`: its anonymous memory counts.
#[test]
fn a_program_that_hides_its_memory_from_an_ordinary_user_has_a_limit() {
    if !in_namespace_as_a_user(
        "end::memory_limits::a_program_that_hides_its_memory_from_an_ordinary_user_has_a_limit",
    ) {
        return;
    }
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).containment(ContainmentMode::Session);
    let tracker = tracker.open().expect("a ledger");
    let spawn = |task: &str, limit| {
        let job = program(&place, task, "hidden").max_rss(limit);
        PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get())
    };
    let (small, roomy) = (spawn("small", 30 * MIB), spawn("roomy", 400 * MIB));
    until("it is over its limit", || small.is_dead());
    let unreadable = fs::read_to_string(format!("/proc/{}/smaps_rollup", roomy.pid()));
    assert!(unreadable.is_err(), "this test needs a program that cannot be looked into");
    assert!(!roomy.is_dead());
    until("the end is recorded", || rule(&place).starts_with("its tree used "));
    tracker.shutdown().expect("an orderly end");
}

/// Its first host is gone, and the next one has adopted it before that one has a monitor.
#[test]
fn an_adopted_program_keeps_its_limit() {
    let place = Place::new();
    let open = || {
        let tracker = Tracker::builder(place.ledger()).containment(ContainmentMode::Session);
        tracker.program("adopts").open().expect("a ledger")
    };
    let tracker = open();
    let script = "until [ -e go ]; do sleep 0.05; done; (head -c 50000000 /dev/zero; \
                  sleep 3600) | tail -c 50000000";
    let job = place.job("adopted", script).survive(true).max_rss(40_000_000);
    let watched = PidfdWatch::on(tracker.spawn(job).expect("spawned").pid().get());
    tracker.shutdown().expect("an orderly end");
    let tracker = open();
    assert_eq!(tracker.startup_report().adopted, 1);
    fs::write(place.path().join("go"), "").expect("a file");
    let grew = Instant::now();
    until("it is ended", || watched.is_dead());
    assert!(grew.elapsed() < SOON, "{:?}", grew.elapsed());
    until("the end is recorded", || rule(&place).starts_with("its tree used "));
    tracker.shutdown().expect("an orderly end");
}

/// Without a memory limit there is nothing to check.
#[test]
fn the_memory_thread_runs_only_while_there_are_memory_limits() {
    let place = Place::new();
    let mut host = Host::start(&place, "containment=session");
    let looks =
        |host: &Host| threads(host.pid()).iter().filter(|name| *name == "procledger-memo").count();
    host.spawn("plain", "exec sleep 3600");
    assert_eq!(looks(&host), 0);
    for round in 0..2 {
        assert!(host.ask(&format!("rss r{round} 4000000000 exec sleep 3600")).starts_with("pid "));
        assert!(host.ask(&format!("rss s{round} 4000000000 exec sleep 3600")).starts_with("pid "));
        until("it looks", || looks(&host) == 1);
        host.ask(&format!("terminate r{round}"));
        host.ask(&format!("terminate s{round}"));
        let began = Instant::now();
        until("it has gone", || looks(&host) == 0);
        assert!(began.elapsed() < PATIENCE / 2);
    }
    host.stop();
}
