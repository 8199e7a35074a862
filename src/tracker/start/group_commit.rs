//! Group commit of the rows of children that wait at the gate, without a dedicated thread.
//!
//! The first caller becomes the leader: it commits all rows that are queued by then, in one transaction, and opens their gates.
//! Later callers wait for the result, or to become the next leader. So a single spawn waits for no other, concurrent spawns
//! share their commits, and none is overtaken.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{
    error::{Error, Kind, Result},
    model::{NewProcess, ProcessId},
    sys::spawn::Gate,
    tracker::{core::Core, runtime::lock::lock},
};

/// A committed row.
#[derive(Debug)]
pub(in crate::tracker) struct Admitted {
    pub(in crate::tracker) row: ProcessId,
    pub(in crate::tracker) new: Box<NewProcess>,
}

#[derive(Debug, Default)]
pub(in crate::tracker) struct Registrar(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// A leader is committing.
    busy: bool,
    /// Waiting callers, in the order of their arrival.
    waiting: Vec<Arc<Applicant>>,
}

#[derive(Debug)]
struct Applicant {
    /// Taken by the leader that commits it.
    new: Mutex<Option<NewProcess>>,
    /// The gate at which its child waits; `None`: it waits elsewhere.
    gate: Option<Arc<Gate>>,
    word: Mutex<Option<Word>>,
    answered: Condvar,
}

/// The answer to a waiting caller.
#[derive(Debug)]
enum Word {
    Committed(Result<Admitted>),
    /// The former leader is done, and this caller is the first in the queue: it becomes the leader.
    YourTurn,
}

impl Registrar {
    /// Commits one row, together with those of concurrent callers. The gate is open when this returns a row.
    pub(in crate::tracker) fn admit(
        &self,
        core: &Core,
        new: NewProcess,
        gate: Option<Arc<Gate>>,
    ) -> Result<Admitted> {
        let own = Arc::new(Applicant::new(new, gate));
        let mut line = lock(&self.0);
        if line.busy {
            line.waiting.push(Arc::clone(&own));
            drop(line);
            if let Word::Committed(answer) = own.wait() {
                return answer;
            }
            line = lock(&self.0);
        }
        line.busy = true;
        let mut batch = vec![Arc::clone(&own)];
        batch.append(&mut line.waiting);
        drop(line);
        let turn = Turn { registrar: self, batch };
        commit(core, &turn.batch);
        drop(turn);
        match own.wait() {
            Word::Committed(answer) => answer,
            Word::YourTurn => Err(not_committed()),
        }
    }
}

/// The leader. However it ends, all callers of its batch get an answer, and the next one becomes the leader.
struct Turn<'a> {
    registrar: &'a Registrar,
    batch: Vec<Arc<Applicant>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        for applicant in &self.batch {
            applicant.answer_once(|| Word::Committed(Err(not_committed())));
        }
        let mut line = lock(&self.registrar.0);
        if line.waiting.is_empty() {
            line.busy = false;
        } else {
            line.waiting.remove(0).answer_once(|| Word::YourTurn);
        }
    }
}

impl Applicant {
    fn new(new: NewProcess, gate: Option<Arc<Gate>>) -> Self {
        Self { new: Mutex::new(Some(new)), gate, word: Mutex::default(), answered: Condvar::new() }
    }

    /// Sets the answer, unless there is one already.
    fn answer_once(&self, word: impl FnOnce() -> Word) {
        lock(&self.word).get_or_insert_with(word);
        self.answered.notify_one();
    }

    fn wait(&self) -> Word {
        let mut word = lock(&self.word);
        loop {
            if let Some(word) = word.take() {
                return word;
            }
            word = self.answered.wait(word).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn commit(core: &Core, applicants: &[Arc<Applicant>]) {
    let news: Vec<NewProcess> =
        applicants.iter().filter_map(|applicant| lock(&applicant.new).take()).collect();
    match core.store.admit(&core.place(), &news) {
        Ok(rows) => {
            for ((applicant, new), row) in applicants.iter().zip(news).zip(rows) {
                if let (Ok(_), Some(gate)) = (&row, &applicant.gate) {
                    gate.open();
                }
                let answer = row.map(|row| Admitted { row, new: Box::new(new) });
                applicant.answer_once(|| Word::Committed(answer));
            }
        }
        Err(error) => {
            for applicant in applicants {
                let error = error.told_again("the program was not started");
                applicant.answer_once(|| Word::Committed(Err(error)));
            }
        }
    }
}

fn not_committed() -> Error {
    Error::new(Kind::Other, "its row was not committed")
}
