//! The time from a death until it is detected, and until it is in the ledger.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::event::epoll;

use super::{
    fixture::Fixture,
    namespace::raise_descriptors,
    samples::{Samples, in_turns},
    score::{Board, Line},
    sleepers::{Program, Sleepers},
};

const SLEEP: [&str; 2] = ["/bin/sleep", "600"];
const TRACKED: usize = 9_900;

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let rounds = board.scale().pick(200, 1000);
    few(board, rounds);
    many(board, rounds / 2);
}

fn few(board: &mut Board, rounds: usize) {
    let fixture = Fixture::with(|builder| builder);
    let mut raw = Program::new(&SLEEP);
    let ledger = super::bare::open(&fixture.path());
    let mut written = Samples::default();
    let (known, limit) = in_turns(
        rounds,
        |round| {
            let (known, row) = die(&fixture, &ledger, round);
            written.add(row);
            known
        },
        |_| epolled(&mut raw, 0),
    );
    board.add(
        Line::new("death until `wait` returns", &known)
            .beside("death until epoll reports it", limit.median())
            .at_most(3.0)
            .p99_at_most(2.0, &limit),
    );
    board.add(
        Line::new("death until its row is ended", &written)
            .beside("death until epoll reports it", limit.median())
            .within(5e6),
    );
}

/// Kills a program of ours; measures until `wait` returns, and until another connection sees its
/// row ended.
fn die(fixture: &Fixture, ledger: &rusqlite::Connection, round: usize) -> (Duration, Duration) {
    let task = format!("death-{round}");
    let mut process = fixture.spawn(&task, &SLEEP);
    let signaller = process.signaller();
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            process.wait().expect("it ends");
            sender.send(Instant::now()).expect("a listener");
        });
        // By then the other thread sleeps in its wait.
        thread::sleep(Duration::from_millis(2));
        let start = Instant::now();
        signaller.signal(9).expect("it lives");
        let known = receiver.recv().expect("an answer").saturating_duration_since(start);
        let mut query = ledger
            .prepare_cached("SELECT 1 FROM process WHERE task_id = ?1 AND state <> 'ended'")
            .expect("a query");
        while query.exists([&task]).expect("an answer") {
            thread::yield_now();
        }
        (known, start.elapsed())
    })
}

/// The limit: SIGKILL until a thread that sleeps in epoll, watching this process among others, has
/// woken.
fn epolled(raw: &mut Program, _others: usize) -> Duration {
    let child = raw.vfork();
    let pidfd = child.pidfd();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    epoll::add(&epoll, &pidfd, epoll::EventData::new_u64(1), epoll::EventFlags::IN).expect("added");
    let took = thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut events = Vec::with_capacity(8);
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)
                .expect("an event");
            Instant::now()
        });
        thread::sleep(Duration::from_millis(2));
        let start = Instant::now();
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).expect("sent");
        waiter.join().expect("no panic").saturating_duration_since(start)
    });
    child.wait();
    took
}

/// The same while ten thousand are watched: the cost of epoll does not depend on their number.
fn many(board: &mut Board, rounds: usize) {
    let sleepers = Sleepers::new(TRACKED);
    let fixture = Fixture::with(|builder| builder.health_interval(Duration::from_hours(1)));
    for pid in &sleepers.pids {
        fixture.tracker.register(format!("sleepers-{pid}"), *pid).expect("it is there");
    }
    let ledger = super::bare::open(&fixture.path());
    let unwatched = fixture.tracker.unwatched();
    let mut raw = Program::new(&SLEEP);
    let (known, limit) =
        in_turns(rounds, |round| die(&fixture, &ledger, round).0, |_| epolled(&mut raw, TRACKED));
    board.add(
        Line::new("death until `wait` returns, 10,000 watched", &known)
            .beside("death until epoll reports it", limit.median())
            .within(1e6)
            .and("all by pidfd", unwatched == 0),
    );
    std::mem::forget(fixture.tracker);
}
