//! The queue of trees that are to be ended in the background.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, mpsc::Sender},
};

use super::{cause::Cause, lock::lock, tracked::Tracked};
use crate::model::Report;

/// Maximum number of threads that end trees.
const WORKERS: usize = 4;

/// A tree that is to be ended, with the cause.
#[derive(Debug)]
pub(in crate::tracker) struct Due {
    pub(in crate::tracker) entry: Arc<Tracked>,
    pub(in crate::tracker) cause: Cause,
    /// The channel on which the caller waits for the outcome, if it does.
    pub(in crate::tracker) answer: Option<Sender<Report>>,
}

/// The trees that wait to be ended, and the number of threads that end trees. Extended by any
/// thread, taken by the workers.
#[derive(Debug, Default)]
pub(in crate::tracker) struct BackgroundEnds(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Due>,
    workers: usize,
    /// The number of workers that are killing, and accept no trees meanwhile.
    killing: usize,
}

impl BackgroundEnds {
    /// Adds trees; returns whether the caller must start a worker, which is counted from now on.
    pub(in crate::tracker) fn add(&self, due: Vec<Due>) -> bool {
        let mut queue = lock(&self.0);
        queue.waiting.extend(due);
        let needed = queue.workers <= queue.killing && queue.workers < WORKERS;
        queue.workers += usize::from(needed);
        needed
    }

    /// Takes at most `room` trees. Returns `None` if there are none and the worker is idle; it is
    /// then no longer counted.
    pub(in crate::tracker) fn take(&self, is_idle: bool, room: usize) -> Option<Vec<Due>> {
        let mut queue = lock(&self.0);
        if queue.waiting.is_empty() && is_idle {
            queue.workers -= 1;
            return None;
        }
        let room = room.min(queue.waiting.len());
        Some(queue.waiting.drain(..room).collect())
    }

    /// Notes whether a worker is killing.
    pub(in crate::tracker) fn set_killing(&self, killing: bool) {
        let mut queue = lock(&self.0);
        if killing {
            queue.killing += 1;
        } else {
            queue.killing -= 1;
        }
    }

    /// Stops counting a worker.
    pub(in crate::tracker) fn remove_worker(&self, is_killing: bool) {
        let mut queue = lock(&self.0);
        queue.killing -= usize::from(is_killing);
        queue.workers -= 1;
    }
}
