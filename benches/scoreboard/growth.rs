//! How each cost grows with the number of processes.

use super::{
    arena::raise_descriptors,
    herd::Herd,
    passes::{health_pass, orphan_scan},
    samples::{Samples, timed},
    score::{Board, Line},
    spawns::spawn,
    stage::Stage,
};

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(65_536);
    let sizes: &[usize] = board.scale().pick(&[10, 1000], &[10, 100, 1000, 3000, 10_000]);
    let rounds = board.scale().pick(100, 300);
    let mut ends = Vec::new();
    for &size in sizes {
        let herd = Herd::new(size);
        let stage =
            Stage::with(|builder| builder.monitor(false).orphan_name("resource-claude-code"));
        for pid in &herd.pids {
            stage.tracker.register(format!("herd-{pid}"), *pid).expect("it is there");
        }
        let (mut spawned, mut ended) = (Samples::default(), Samples::default());
        for round in 0..rounds {
            spawned.add(spawn(&stage, round));
            let mut process = stage.spawn(&format!("end-{round}"), &["/bin/true"]);
            super::rows::wait_dead(process.pid().get());
            ended.add(timed(|| process.wait().expect("it ends")).0);
        }
        let (mut health, mut orphans) = (Samples::default(), Samples::default());
        for _ in 0..5 {
            health.add(health_pass(&stage));
            orphans.add(orphan_scan(&stage));
        }
        board.point("spawn", "processes", size, spawned.median());
        board.point("end recorded", "processes", size, ended.median());
        board.point("health pass", "processes", size, health.median());
        board.point("orphan scan", "processes", size, orphans.median());
        ends.push((size, spawned));
        // Its processes are the herd's.
        std::mem::forget(stage.tracker);
    }
    if let [(_, few), .., (most, many)] = ends.as_slice() {
        board.add(
            Line::new(format!("spawn beside {most} tracked processes"), many)
                .beside("the same beside 10", few.median()),
        );
    }
}
