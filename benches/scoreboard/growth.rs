//! How each cost grows with the number of processes.

use super::{
    fixture::Fixture,
    namespace::raise_descriptors,
    passes::{health_pass, orphan_scan},
    samples::{Samples, timed},
    score::{Board, Line},
    sleepers::Sleepers,
    spawns::spawn,
};

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let sizes: &[usize] = board.scale().pick(&[10, 1000], &[10, 100, 1000, 3000, 10_000]);
    let rounds = board.scale().pick(100, 300);
    let mut ends = Vec::new();
    for &size in sizes {
        let sleepers = Sleepers::new(size);
        let fixture =
            Fixture::with(|builder| builder.monitor(false).orphan_name("resource-claude-code"));
        for pid in &sleepers.pids {
            fixture.tracker.register(format!("sleepers-{pid}"), *pid).expect("it is there");
        }
        let (mut spawned, mut ended) = (Samples::default(), Samples::default());
        for round in 0..rounds {
            spawned.add(spawn(&fixture, round));
            let mut process = fixture.spawn(&format!("end-{round}"), &["/bin/true"]);
            super::rows::wait_dead(process.pid().get());
            ended.add(timed(|| process.wait().expect("it ends")).0);
        }
        let (mut health, mut orphans) = (Samples::default(), Samples::default());
        for _ in 0..5 {
            health.add(health_pass(&fixture));
            orphans.add(orphan_scan(&fixture));
        }
        board.point("spawn", "processes", size, spawned.median());
        board.point("end recorded", "processes", size, ended.median());
        board.point("health pass", "processes", size, health.median());
        board.point("orphan scan", "processes", size, orphans.median());
        ends.push((size, spawned));
        // Its processes are the sleepers.
        std::mem::forget(fixture.tracker);
    }
    if let [(_, few), .., (most, many)] = ends.as_slice() {
        board.add(
            Line::new(format!("spawn beside {most} tracked processes"), many)
                .beside("the same beside 10", few.median()),
        );
    }
}
