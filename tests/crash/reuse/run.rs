//! The first process of the namespace: holds the actor at its system calls, and swaps processes.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{
    OUTCOME, Outcome, Task, Way,
    fixture::{Fixture, with_number},
    host::{Part, SWARM, has_said},
};
use crate::{
    stepper::{Event, Step, Stepper},
    syscalls,
    world::{Chance, PidfdWatch, await_tick, start_tick},
};

const DAEMONS: usize = 8;
/// Processes that are created during a pass: a tree that started new ones forever could not be
/// ended.
const BIRTHS: u32 = 6;

pub(crate) fn body(task: &Task) {
    assert_eq!(std::process::id(), 1, "a trial is the first process of a namespace");
    let swarm = task.folder.join("swarm");
    fs::write(&swarm, SWARM).expect("a script");
    fs::set_permissions(&swarm, fs::Permissions::from_mode(0o755)).expect("its mode");
    let mut chance = Chance::new(task.seed);
    let mut outcome = Outcome::default();
    let steps = trial(task, 0, &mut Plan::Count(0), &mut outcome);
    for number in 1..=task.trials {
        let mut plan = if number % 2 == 0 {
            Plan::newborn()
        } else {
            Plan::At((0..=DAEMONS).map(|_| chance.below(steps) + 1).collect(), 0)
        };
        trial(task, number, &mut plan, &mut outcome);
    }
    let path = task.folder.join(OUTCOME);
    fs::write(path, serde_json::to_vec(&outcome).expect("JSON")).expect("an outcome");
}

/// When pids are reused.
enum Plan {
    /// Never; counts the steps of the pass.
    Count(u64),
    /// At these steps; holds their number.
    At(Vec<u64>, u64),
    /// A process of the tree is created while the actor lists `/proc`, and loses its pid when its
    /// pidfd is about to be opened.
    Newborn { alive: Option<(PidfdWatch, u64)>, left: u32 },
}

impl Plan {
    fn newborn() -> Self {
        Self::Newborn { alive: None, left: BIRTHS }
    }

    fn at(
        &mut self,
        step: &Step,
        fixture: &mut Fixture,
        stepper: &mut Stepper,
        outcome: &mut Outcome,
    ) {
        match self {
            Self::Count(steps) => *steps += 1,
            Self::At(at, steps) => {
                *steps += 1;
                for _ in at.iter().filter(|at| *at == steps) {
                    swap_any(fixture, stepper, outcome);
                }
            }
            Self::Newborn { alive: newborn, left } => match newborn {
                None if *left == 0 => {}
                None if syscalls::name(step.syscall) == "getdents64" => {
                    *left -= 1;
                    *newborn = Some(bear(fixture));
                }
                Some((watched, _)) if opens(step, watched.pid()) => {
                    let (watched, tick) = newborn.take().expect("it is there");
                    if let Some(pid) = fixture.swap(&watched, stepper) {
                        outcome.reused += 1;
                        outcome.before_the_pidfd += 1;
                        outcome.same_tick += u64::from(start_tick(pid) == Some(tick));
                    }
                }
                _ => {}
            },
        }
    }
}

fn opens(step: &Step, pid: u32) -> bool {
    syscalls::name(step.syscall) == "pidfd_open" && step.args[0] == u64::from(pid)
}

/// The next victim; includes the root where its pid can be freed by us.
fn swap_any(fixture: &mut Fixture, stepper: &mut Stepper, outcome: &mut Outcome) {
    let Some(victim) = fixture.victims.pop() else { return };
    outcome.reused += u64::from(fixture.swap(&victim, stepper).is_some());
}

/// Starts a new process of the tree, at the start of a tick.
fn bear(fixture: &Fixture) -> (PidfdWatch, u64) {
    let cgroup = fixture.cgroup();
    await_tick();
    let token = cgroup.is_none().then_some(fixture.token.as_str());
    let newborn = with_number(20_000, token);
    if let Some(cgroup) = cgroup {
        fs::write(cgroup.join("cgroup.procs"), newborn.pid().to_string()).expect("moved");
    }
    let tick = start_tick(newborn.pid()).expect("alive");
    (newborn, tick)
}

/// Returns the number of steps of the pass.
fn trial(task: &Task, number: u64, plan: &mut Plan, outcome: &mut Outcome) -> u64 {
    let folder = task.folder.join(number.to_string());
    fs::create_dir(&folder).expect("a folder");
    let part =
        Part { folder: folder.clone(), mode: task.mode.clone(), way: task.way, daemons: DAEMONS };
    let mut fixture = Fixture::set(part);
    if task.way == Way::Open && matches!(plan, Plan::At(..)) {
        // Its parent is dead, so we reap it and can free its pid.
        let root = PidfdWatch::find(fixture.root.pid()).expect("alive");
        fixture.victims.insert(usize::try_from(number).expect("few") % DAEMONS, root);
    }
    let (actor, mut go) = fixture.actor();
    let mut stepper = Stepper::attach(actor.pid());
    std::io::Write::write_all(&mut go, b"g").expect("it listens");
    let mut steps = 0;
    loop {
        match stepper.next() {
            Event::Ended(status) => {
                outcome.findings.push(format!("the actor ended: {status}"));
                break;
            }
            Event::Step(step) => {
                steps += 1;
                // The pass is over when it waits for its next command.
                if syscalls::name(step.syscall) == "read"
                    && step.args[0] == 0
                    && has_said(&folder, "done")
                {
                    break;
                }
                plan.at(&step, &mut fixture, &mut stepper, outcome);
            }
        }
    }
    if let Plan::Newborn { alive: newborn, .. } = plan {
        // It was not seen: it was created after the tree had ended. No process of the tree could
        // have started it then.
        if let Some((watched, _)) = newborn.take() {
            watched.send_kill();
        }
    }
    fixture.statuses.extend(stepper.reaped.drain(..));
    stepper.detach();
    let found = fixture.close((actor, go));
    outcome.findings.extend(found.into_iter().map(|found| format!("trial {number}: {found}")));
    steps
}
