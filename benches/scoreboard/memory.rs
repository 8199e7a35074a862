//! The memory of a tracked process in the host, and the size of its row on disk.

use super::{
    bare,
    fixture::Fixture,
    namespace::raise_descriptors,
    score::{Board, Line, Unit},
    sleepers::Sleepers,
};

const PROCESSES: usize = 10_000;
/// Up to this number the host warms up: caches, the allocator's first pages.
const BEFORE: usize = 1000;

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let sleepers = Sleepers::new(PROCESSES);
    let fixture = Fixture::quiet();
    let register = |pids: &[u32]| {
        for pid in pids {
            fixture.tracker.register(format!("task-{pid}"), *pid).expect("it is there");
        }
    };
    register(&sleepers.pids[..BEFORE]);
    let (rss, used) = (resident(), used_bytes(&fixture));
    register(&sleepers.pids[BEFORE..]);
    let count = (PROCESSES - BEFORE) as f64;
    let each = (resident() - rss) / count;
    board.add(Line::of("memory of a tracked process", each, Unit::Bytes).within(1024.0));
    board.add(
        Line::of("disk for a running row", (used_bytes(&fixture) - used) / count, Unit::Bytes)
            .within(400.0),
    );
    drop(sleepers);
    let reader = bare::open(&fixture.path());
    // The sleepers have been killed, but their processes may not have exited yet.
    let rows = loop {
        fixture.tracker.health_pass().expect("a pass");
        let counts = "SELECT count(*) FILTER (WHERE state = 'ended'), count(*) FROM process";
        let (ended, all): (i64, i64) =
            reader.query_one(counts, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("an answer");
        if ended == all {
            break ended as f64;
        }
    };
    let used = used_bytes(&fixture) / rows;
    board.add(Line::of("disk for an ended row", used, Unit::Bytes).within(400.0));
}

fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: f64 =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as f64
}

/// Pages in use, independent of the size that the file has grown to.
fn used_bytes(fixture: &Fixture) -> f64 {
    let reader = bare::open(&fixture.path());
    let ask = |what: &str| -> f64 {
        reader.pragma_query_value(None, what, |row| row.get::<_, i64>(0)).expect("an answer") as f64
    };
    (ask("page_count") - ask("freelist_count")) * ask("page_size")
}
