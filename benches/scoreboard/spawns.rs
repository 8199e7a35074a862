//! A spawn next to vfork-style clone with execve, and next to itself in a large host.

use std::{
    fs::{self, File},
    hint::black_box,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use procledger::{ContainmentMode, Tracker};

use super::{
    bare::{Bare, open},
    fixture::Fixture,
    former::Former,
    gated,
    namespace::raise_descriptors,
    samples::{Samples, in_turns, timed},
    score::{Board, Line},
    sleepers::{Program, Raw, Sleepers},
};

const TRUE: &str = "/bin/true";
/// Entries in the former implementation's list while it spawns.
const TRACKED: usize = 100;
/// A host that holds this much memory.
const LARGE: usize = 2 << 30;
const DESCRIPTORS: usize = 10_000;
/// In a large host a spawn costs at most this many times what it costs in a small one.
const SAME: f64 = 1.3;

pub(crate) fn measure(board: &mut Board) {
    raise_descriptors(32_768);
    let rounds = board.scale().pick(600, 3000);
    let fixture = Fixture::quiet();
    let mut raw = Program::new(&[TRUE]);
    let sleepers = Sleepers::new(TRACKED);
    let mut former = Former::tracking(&sleepers.pids);
    warm_up(&fixture, &mut raw);

    let (ours, limit) = in_turns(rounds, |round| spawn(&fixture, round), |_| bare(&mut raw));
    let (former_samples, _) =
        in_turns(rounds / 4, |round| former_spawn(&mut former, round), |_| Duration::ZERO);
    board.add(
        Line::new("spawn, recorded before exec", &ours)
            .beside("vfork + execve", limit.median())
            .at_most(2.2)
            .former(former_samples.median()),
    );
    let mut floor = Floor::new();
    let (ours, gated) =
        in_turns(rounds, |round| spawn(&fixture, 500_000 + round), |round| floor.spawn(round));
    board.add(
        Line::new("spawn, recorded before exec, beside its floor", &ours)
            .beside("clone, `stat`, INSERT, execve", gated.median()),
    );
    contained(board, &mut raw, &mut floor, rounds / 4);
    host_of_two_gigabytes(board, &fixture, rounds / 3);
    host_with_descriptors(board, &fixture, rounds / 3);
}

fn warm_up(fixture: &Fixture, raw: &mut Program) {
    for round in 0..20 {
        spawn(fixture, 1_000_000 + round);
        bare(raw);
    }
}

/// Time from the call until the program runs; its end is not measured.
pub(crate) fn spawn(fixture: &Fixture, round: usize) -> Duration {
    let task = format!("spawn-{round}");
    let (took, mut process) = timed(|| fixture.spawn(&task, &[TRUE]));
    process.wait().expect("it ends");
    took
}

pub(crate) fn bare(raw: &mut Program) -> Duration {
    let (took, child) = timed(|| raw.vfork());
    child.wait();
    took
}

fn former_spawn(former: &mut Former, round: usize) -> Duration {
    let (took, mut child) = timed(|| former.spawn(format!("spawn-{round}"), &[TRUE]));
    child.wait().expect("it ends");
    former.unregister(child.id());
    took
}

/// The minimum for a spawn that is recorded before its program runs.
struct Floor {
    ledger: Bare,
    program: Program,
    #[expect(dead_code, reason = "removed with it")]
    folder: tempfile::TempDir,
}

impl Floor {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Bare::at(&folder.path().join("bare.db"));
        Self { ledger, program: Program::new(&[TRUE]), folder }
    }

    /// The program waits until its row is committed.
    fn spawn(&mut self, round: usize) -> Duration {
        let task = format!("floor-{round}");
        let (took, (child, _pidfd)) = timed(|| self.gated(&task, None));
        child.wait();
        took
    }

    fn gated(&mut self, task: &str, cgroup: Option<BorrowedFd<'_>>) -> (Raw, OwnedFd) {
        let ledger = &mut self.ledger;
        gated::spawn(&mut self.program, cgroup, |pid| _ = ledger.insert(task, pid))
    }

    /// The same in a cgroup that is made for it in `parent`.
    fn spawn_into(&mut self, parent: &Path, round: usize) -> Duration {
        let cgroup = parent.join(format!("floor-{round}"));
        let task = format!("floor-{round}");
        let (took, (child, _pidfd)) = timed(|| {
            fs::create_dir(&cgroup).expect("a cgroup");
            let opened = File::open(&cgroup).expect("a cgroup");
            self.gated(&task, Some(opened.as_fd()))
        });
        child.wait();
        fs::remove_dir(&cgroup).expect("an empty cgroup");
        took
    }

    /// The same after another program, the keeper's, has started and exited.
    fn spawn_after_keeper(&mut self, round: usize) -> Duration {
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_procledger-keeper"));
        keeper.stdin(Stdio::null()).stderr(Stdio::null());
        let (took, status) = timed(|| keeper.status().expect("it starts"));
        assert_eq!(status.code(), Some(2), "the keeper was not asked to serve");
        took + self.spawn(round)
    }
}

/// The folder in which a tracker makes its task cgroups, of which it has made one.
fn task_cgroups(fixture: &Fixture) -> PathBuf {
    let ledger = open(&fixture.path());
    let query = "SELECT cgroup FROM instance";
    PathBuf::from(ledger.query_one(query, [], |row| row.get::<_, String>(0)).expect("a folder"))
}

/// The same in a task cgroup and under a keeper.
fn contained(board: &mut Board, raw: &mut Program, floor: &mut Floor, rounds: usize) {
    for (what, mode, target) in [
        ("spawn into a task cgroup", ContainmentMode::Cgroup, 3.5),
        ("spawn under a keeper", ContainmentMode::Keeper, 5.0),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let builder = Tracker::builder(folder.path().join("ledger.db"))
            .monitor(false)
            .containment(mode)
            .keeper(env!("CARGO_BIN_EXE_procledger-keeper"));
        match builder.open() {
            Ok(tracker) => {
                let fixture = Fixture { tracker, folder };
                warm_up(&fixture, raw);
                let (ours, limit) = in_turns(rounds, |round| spawn(&fixture, round), |_| bare(raw));
                let line = Line::new(what, &ours).beside("vfork + execve", limit.median());
                board.add(line.at_most(target));
                contained_beside_floor(board, &fixture, floor, what, mode, rounds);
            }
            Err(error) => eprintln!("  {what}: not available here: {error}"),
        }
    }
}

fn contained_beside_floor(
    board: &mut Board,
    fixture: &Fixture,
    floor: &mut Floor,
    what: &str,
    mode: ContainmentMode,
    rounds: usize,
) {
    let ours = |round| spawn(fixture, 600_000 + round);
    let (is, (ours, limit)) = match mode {
        ContainmentMode::Cgroup if gated::HAS_CLONE_INTO => {
            let parent = task_cgroups(fixture);
            let limit = |round| floor.spawn_into(&parent, round);
            ("mkdir, clone3 into it, `stat`, INSERT, execve", in_turns(rounds, ours, limit))
        }
        ContainmentMode::Keeper => {
            let limit = |round| floor.spawn_after_keeper(round);
            (
                "the keeper's binary, which exits; clone, `stat`, INSERT, execve",
                in_turns(rounds, ours, limit),
            )
        }
        _ => return,
    };
    let line = Line::new(format!("{what}, beside its floor"), &ours);
    board.add(line.beside(is, limit.median()));
}

/// Blocks alternate: the small host, the large one, the small one again.
fn beside_itself(
    rounds: usize,
    fixture: &Fixture,
    grow: impl Fn() -> Box<dyn std::any::Any>,
) -> (Samples, Samples) {
    const BLOCKS: usize = 6;
    let (mut large, mut small) = (Samples::default(), Samples::default());
    for block in 0..BLOCKS {
        let measured = |base: usize| {
            let mut samples = Samples::default();
            for round in 0..rounds / BLOCKS {
                samples.add(spawn(fixture, base + round));
            }
            samples
        };
        small.extend(measured(2_000_000 + block * 10_000));
        let held = grow();
        large.extend(measured(3_000_000 + block * 10_000));
        drop(held);
    }
    (large, small)
}

fn host_of_two_gigabytes(board: &mut Board, fixture: &Fixture, rounds: usize) {
    let (large, small) = beside_itself(rounds, fixture, || {
        let mut memory = vec![0_u8; LARGE];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        Box::new(black_box(memory))
    });
    board.add(
        Line::new("spawn from a host of 2 GB", &large)
            .beside("the same from a small host", small.median())
            .at_most(SAME),
    );
}

fn host_with_descriptors(board: &mut Board, fixture: &Fixture, rounds: usize) {
    let (large, small) = beside_itself(rounds, fixture, || {
        let one = File::open("/dev/null").expect("a file");
        let files: Vec<File> =
            (0..DESCRIPTORS).map(|_| one.try_clone().expect("a descriptor")).collect();
        Box::new(files)
    });
    board.add(
        Line::new("spawn from a host with 10,000 descriptors", &large)
            .beside("the same with few", small.median())
            .at_most(SAME),
    );
}
