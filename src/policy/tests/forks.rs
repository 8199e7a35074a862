use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{any_pid, number, pid};
use crate::{policy::fork_history::*, sys::proc_events::Event};

/// The process whose forks are reported.
const OWN: u32 = 1;

#[derive(Clone, Debug)]
enum Input {
    Fork { parent: u32, child: u32 },
    Change(u32),
    Forget(u32),
    Lost,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        8 => (number(), 2..=super::NUMBERS).prop_map(|(parent, child)| Input::Fork { parent, child }),
        3 => number().prop_map(Input::Change),
        1 => number().prop_map(Input::Forget),
        1 => Just(Input::Lost),
    ]
}

proptest! {
    /// The model: the pids that are below us now, each with the event that put it there and the
    /// child that it is below.
    #[test]
    fn only_processes_below_us_by_the_latest_events_are_checked(
        all in prop::collection::vec(input(), 0..40),
        apart in prop::collection::hash_set(any_pid(), 0..3),
    ) {
        let delay = Duration::from_millis(50);
        let delays = Delays { check: delay, watch: Duration::from_secs(1) };
        let (mut forks, now) = (Forks::new(pid(OWN), delays), Instant::now());
        let mut model: HashMap<u32, (u64, u32)> = HashMap::new();
        for (input, at) in all.into_iter().zip(1_u64..) {
            match input {
                Input::Fork { parent, child } if parent != child => {
                    let event = Event::Fork { parent: pid(parent), child: pid(child), at };
                    forks.take(event, now, |pid| apart.contains(&pid));
                    model.remove(&child);
                    if parent == OWN {
                        model.insert(child, (at, child));
                    } else if let Some(&(_, top)) = model.get(&parent) && !apart.contains(&pid(parent)) {
                        model.insert(child, (at, top));
                    }
                }
                Input::Fork { .. } => {}
                Input::Change(number) => {
                    forks.take(Event::Change { process: pid(number) }, now, |_| false);
                }
                Input::Forget(number) => {
                    forks.forget(pid(number));
                    model.remove(&number);
                }
                Input::Lost => {
                    forks.forget_all();
                    model.clear();
                }
            }
        }
        prop_assert_eq!(forks.due(now), [], "not before the delay");
        let due = forks.due(now + delay);
        let numbers: Vec<u32> = due.iter().map(|noted| noted.process.pid.get()).collect();
        let mut once = numbers.clone();
        once.dedup();
        prop_assert_eq!(&once, &numbers, "each once");
        for noted in &due {
            let known = model.get(&noted.process.pid.get()).copied();
            prop_assert_eq!(known, Some((noted.process.at, noted.top.pid.get())));
        }
        // No process is missed unless it is a child of ours itself.
        let deeper = model.iter().filter(|(number, (_, top))| *number != top);
        for (number, _) in deeper {
            prop_assert!(numbers.contains(number), "{} is missed", number);
        }
        prop_assert_eq!(forks.next_due(), None);
    }
}
