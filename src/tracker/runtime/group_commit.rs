//! Group commit of the rows of children that wait at the gate, without a dedicated thread.
//!
//! The first caller becomes the leader: it commits all rows that are queued once its transaction
//! has begun, and opens their gates. Later callers wait for the result, or to become the next
//! leader. So a single spawn waits for no other, concurrent spawns share their commits, and none is
//! overtaken.

use std::{
    cell::RefCell,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use super::lock::lock;
use crate::{
    error::{Error, Kind, Result},
    identity::PidScope,
    model::{NewProcess, ProcessId},
    store::{Insertion, Store},
    sys::spawn::Gate,
};

/// A committed row.
#[derive(Debug)]
pub(in crate::tracker) struct Committed {
    pub(in crate::tracker) row: ProcessId,
    pub(in crate::tracker) new: Box<NewProcess>,
}

/// The queue of rows to be committed.
#[derive(Debug)]
pub(in crate::tracker) struct GroupCommit {
    store: Store,
    scope: PidScope,
    /// Written by the threads that spawn: each adds itself, the leader takes all.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whether a leader is committing.
    busy: bool,
    /// Waiting callers, in the order of their arrival.
    waiting: Vec<Arc<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    /// Taken by the leader that commits it.
    new: Mutex<Option<NewProcess>>,
    /// The gate at which its child waits; `None` if the child waits elsewhere.
    gate: Option<Arc<Gate>>,
    answer: Mutex<Answer>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct Answer {
    result: Option<CommitResult>,
    /// Whether the caller sleeps until there is a result.
    is_awaited: bool,
}

/// The answer to a waiting caller.
#[derive(Debug)]
enum CommitResult {
    Committed(Result<Committed>),
    /// The former leader is done, and this caller is the first in the queue, so it becomes the
    /// leader.
    YouLead,
}

impl GroupCommit {
    pub(in crate::tracker) fn new(store: Store, scope: PidScope) -> Self {
        Self { store, scope, queue: Mutex::default() }
    }

    /// Commits one row, together with those of concurrent callers. The gate is open when this
    /// returns a row.
    pub(in crate::tracker) fn commit(
        &self,
        new: NewProcess,
        gate: Option<Arc<Gate>>,
    ) -> Result<Committed> {
        let own = Arc::new(Waiter::new(new, gate));
        let mut queue = lock(&self.queue);
        if queue.busy {
            queue.waiting.push(Arc::clone(&own));
            drop(queue);
            if let CommitResult::Committed(result) = own.wait() {
                return result;
            }
            queue = lock(&self.queue);
        }
        queue.busy = true;
        let mut batch = vec![Arc::clone(&own)];
        batch.append(&mut queue.waiting);
        drop(queue);
        let leader = Leader { group: self, batch: RefCell::new(batch) };
        leader.commit();
        drop(leader);
        match own.wait() {
            CommitResult::Committed(result) => result,
            CommitResult::YouLead => Err(not_committed()),
        }
    }
}

/// The leader. However its commit ends, all callers of its batch get an answer, and the next caller
/// becomes the leader.
struct Leader<'a> {
    group: &'a GroupCommit,
    batch: RefCell<Vec<Arc<Waiter>>>,
}

impl Leader<'_> {
    fn commit(&self) {
        match self.group.store.insert_queued(&self.group.scope, || self.take_rows()) {
            Ok(all) => {
                for Insertion { key: waiter, new, row } in all {
                    if let (Ok(_), Some(gate)) = (&row, &waiter.gate) {
                        gate.open();
                    }
                    let result = row.map(|row| Committed { row, new: Box::new(new) });
                    waiter.answer_once(|| CommitResult::Committed(result));
                }
            }
            Err(error) => {
                for waiter in self.batch.borrow().iter() {
                    let error = error.with_context("the program was not started");
                    waiter.answer_once(|| CommitResult::Committed(Err(error)));
                }
            }
        }
    }

    /// Takes the rows of the batch, including those of callers that arrived while this one waited
    /// to write.
    fn take_rows(&self) -> Vec<(Arc<Waiter>, NewProcess)> {
        let mut batch = self.batch.borrow_mut();
        batch.append(&mut lock(&self.group.queue).waiting);
        let row = |waiter: &Arc<Waiter>| Some((Arc::clone(waiter), lock(&waiter.new).take()?));
        batch.iter().filter_map(row).collect()
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        for waiter in self.batch.get_mut() {
            waiter.answer_once(|| CommitResult::Committed(Err(not_committed())));
        }
        let mut queue = lock(&self.group.queue);
        if queue.waiting.is_empty() {
            queue.busy = false;
        } else {
            queue.waiting.remove(0).answer_once(|| CommitResult::YouLead);
        }
    }
}

impl Waiter {
    fn new(new: NewProcess, gate: Option<Arc<Gate>>) -> Self {
        let (new, answer) = (Mutex::new(Some(new)), Mutex::default());
        Self { new, gate, answer, answered: Condvar::new() }
    }

    /// Sets the answer, unless there is one already.
    fn answer_once(&self, result: impl FnOnce() -> CommitResult) {
        let mut answer = lock(&self.answer);
        answer.result.get_or_insert_with(result);
        if answer.is_awaited {
            self.answered.notify_one();
        }
    }

    fn wait(&self) -> CommitResult {
        let mut answer = lock(&self.answer);
        loop {
            if let Some(result) = answer.result.take() {
                answer.is_awaited = false;
                return result;
            }
            answer.is_awaited = true;
            answer = self.answered.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn not_committed() -> Error {
    Error::new(Kind::Other, "its row was not committed")
}
