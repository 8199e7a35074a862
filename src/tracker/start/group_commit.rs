//! Who commits the rows of children at the gate.
//!
//! There is no thread for it. Whoever finds nobody at work commits the rows of all that have come by then, in one transaction,
//! and opens their gates; who comes meanwhile waits to be answered, or for its turn to do the same. So a spawn alone waits for
//! nobody, many at once share their commits, and none is overtaken.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{
    error::{Error, Kind, Result},
    model::{NewProcess, ProcessId},
    sys::spawn::Gate,
    tracker::runtime::shared::{Shared, lock},
};

/// A row that is there.
#[derive(Debug)]
pub(in crate::tracker) struct Admitted {
    pub(in crate::tracker) row: ProcessId,
    pub(in crate::tracker) new: Box<NewProcess>,
}

#[derive(Debug, Default)]
pub(in crate::tracker) struct Registrar(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// Somebody commits.
    busy: bool,
    /// In the order in which they came.
    waiting: Vec<Arc<Applicant>>,
}

#[derive(Debug)]
struct Applicant {
    /// Taken by whoever commits it.
    new: Mutex<Option<NewProcess>>,
    /// Where its child waits; `None`: elsewhere.
    gate: Option<Arc<Gate>>,
    word: Mutex<Option<Word>>,
    told: Condvar,
}

/// What one who waits is told.
#[derive(Debug)]
enum Word {
    Committed(Result<Admitted>),
    /// Nobody is at work any more, and it is the first.
    YourTurn,
}

impl Registrar {
    /// Commits one row, with those of others that came at the same time. The gate is open when this returns a row.
    pub(in crate::tracker) fn admit(
        &self,
        shared: &Shared,
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
        commit(shared, &turn.batch);
        drop(turn);
        match own.wait() {
            Word::Committed(answer) => answer,
            Word::YourTurn => Err(not_committed()),
        }
    }
}

/// Whose turn it is. Whatever happens to him, everybody is answered, and the next one gets his.
struct Turn<'a> {
    registrar: &'a Registrar,
    batch: Vec<Arc<Applicant>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        for applicant in &self.batch {
            applicant.tell_first(|| Word::Committed(Err(not_committed())));
        }
        let mut line = lock(&self.registrar.0);
        if line.waiting.is_empty() {
            line.busy = false;
        } else {
            line.waiting.remove(0).tell_first(|| Word::YourTurn);
        }
    }
}

impl Applicant {
    fn new(new: NewProcess, gate: Option<Arc<Gate>>) -> Self {
        Self { new: Mutex::new(Some(new)), gate, word: Mutex::default(), told: Condvar::new() }
    }

    /// Unless it was told something already.
    fn tell_first(&self, word: impl FnOnce() -> Word) {
        lock(&self.word).get_or_insert_with(word);
        self.told.notify_one();
    }

    fn wait(&self) -> Word {
        let mut word = lock(&self.word);
        loop {
            if let Some(word) = word.take() {
                return word;
            }
            word = self.told.wait(word).unwrap_or_else(PoisonError::into_inner);
        }
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
                let answer = row.map(|row| Admitted { row, new: Box::new(new) });
                applicant.tell_first(|| Word::Committed(answer));
            }
        }
        Err(error) => {
            for applicant in applicants {
                let error = error.told_again("the program was not started");
                applicant.tell_first(|| Word::Committed(Err(error)));
            }
        }
    }
}

fn not_committed() -> Error {
    Error::new(Kind::Other, "its row was not committed")
}
