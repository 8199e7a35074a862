//! Who commits the rows of children at the gate.
//!
//! There is no thread for it. Whoever comes first commits the rows of all that have come by then, in one transaction, and opens
//! their gates; who comes meanwhile waits for the next turn, and mostly finds that somebody else had it. So a spawn alone waits
//! for nobody, and many at once share their commits.

use std::sync::{Arc, Mutex};

use super::shared::{Shared, lock};
use crate::{
    error::{Error, Kind, Result},
    os::spawn::Gate,
    record::{NewProcess, ProcessId},
};

/// A row that is there.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) row: ProcessId,
    pub(super) new: Box<NewProcess>,
}

#[derive(Debug, Default)]
pub(super) struct Registrar {
    waiting: Mutex<Vec<Arc<Applicant>>>,
    /// Held by whoever commits.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Applicant {
    /// Taken by whoever commits it.
    new: Mutex<Option<NewProcess>>,
    /// Where its child waits; `None`: elsewhere.
    gate: Option<Arc<Gate>>,
    answer: Mutex<Option<Result<Admitted>>>,
}

impl Registrar {
    /// Commits one row, with those of others that came at the same time. The gate is open when this returns a row.
    pub(super) fn admit(
        &self,
        shared: &Shared,
        new: NewProcess,
        gate: Option<Arc<Gate>>,
    ) -> Result<Admitted> {
        let own = Applicant { new: Mutex::new(Some(new)), gate, answer: Mutex::default() };
        let own = Arc::new(own);
        lock(&self.waiting).push(Arc::clone(&own));
        let turn = lock(&self.turn);
        if let Some(answer) = lock(&own.answer).take() {
            return answer;
        }
        let applicants = std::mem::take(&mut *lock(&self.waiting));
        commit(shared, &applicants);
        drop(turn);
        let answer = lock(&own.answer).take();
        answer.unwrap_or_else(|| Err(Error::new(Kind::Other, "its row was not committed")))
    }
}

fn commit(shared: &Shared, applicants: &[Arc<Applicant>]) {
    let news: Vec<NewProcess> =
        applicants.iter().filter_map(|applicant| lock(&applicant.new).take()).collect();
    match shared.store.admit(&shared.place(), &news) {
        Ok(rows) => {
            for ((applicant, new), row) in applicants.iter().zip(news).zip(rows) {
                if let (Ok(_), Some(gate)) = (&row, &applicant.gate) {
                    gate.open();
                }
                *lock(&applicant.answer) =
                    Some(row.map(|row| Admitted { row, new: Box::new(new) }));
            }
        }
        Err(error) => {
            for applicant in applicants {
                let error = error.told_again("the program was not started");
                *lock(&applicant.answer) = Some(Err(error));
            }
        }
    }
}
