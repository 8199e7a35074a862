//! Limits the cost of a statement.
//!
//! A schema can contain code that never ends: a trigger with a recursive query, an index on an
//! expensive expression. Such a ledger is refused ([`super::schema_check`]), but code that is added
//! just after that check would block a host, and with it its programs, forever. So a statement that
//! uses up its budget is interrupted, and its transaction is rolled back.
//!
//! The budget is processor time of the thread, not wall time: a slow disk or a busy machine uses
//! none, and a statement that never ends always does. SQLite checks it between the steps of its
//! virtual machine (<https://sqlite.org/c3ref/progress_handler.html>).

use std::{cell::Cell, marker::PhantomData, time::Duration};

use rusqlite::Connection;
use rustix::time::{ClockId, clock_gettime};

/// The budget of one transaction. Ours take milliseconds; one over all rows of a pass takes
/// somewhat longer.
pub(super) const WRITE: Duration = Duration::from_secs(5);
/// The budget of one query of a host. The longest, a scan of the processes in a ledger of ten
/// million, takes some seconds.
pub(super) const HOST_READ: Duration = Duration::from_mins(1);
/// The budget of one query of a reader, which may take long: a report, or a check of every page.
pub(super) const LOOK: Duration = Duration::from_hours(1);
/// The number of steps of the virtual machine between two checks of the clock; they take a fraction
/// of a millisecond.
const STEPS: i32 = 20_000;

thread_local! {
    /// The processor time of the thread at which its budget is used up; `None` if there is no
    /// limit.
    static LIMIT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Limits the statements of this thread until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Budget {
    before: Option<Duration>,
    in_this_thread: PhantomData<*const ()>,
}

impl Budget {
    /// Starts a budget. Within another budget, the shorter one counts.
    pub(super) fn of(limit: Duration) -> Self {
        let before = LIMIT.get();
        let end = used() + limit;
        LIMIT.set(Some(before.map_or(end, |before| before.min(end))));
        Self { before, in_this_thread: PhantomData }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        LIMIT.set(self.before);
    }
}

/// Subjects the statements of a connection to the budget of the thread that runs them.
pub(super) fn keep(connection: &Connection) -> rusqlite::Result<()> {
    connection.progress_handler(STEPS, Some(|| LIMIT.get().is_some_and(|end| used() > end)))
}

/// Returns the processor time of this thread.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

    fn ask(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_one(ENDLESS, [], |row| row.get(0))
    }

    #[test]
    fn a_statement_that_never_ends_is_interrupted_and_the_connection_stays_usable() {
        let connection = Connection::open_in_memory().expect("a database");
        keep(&connection).expect("kept");
        for _ in 0..2 {
            let _budget = Budget::of(Duration::from_millis(20));
            let error = ask(&connection).expect_err("interrupted");
            assert_eq!(
                error.sqlite_error_code(),
                Some(rusqlite::ErrorCode::OperationInterrupted),
                "{error}"
            );
        }
        let one: i64 = connection.query_one("SELECT 1", [], |row| row.get(0)).expect("an answer");
        assert_eq!(one, 1);
    }

    #[test]
    fn the_shorter_of_two_budgets_counts_and_the_outer_one_is_restored() {
        let connection = Connection::open_in_memory().expect("a database");
        keep(&connection).expect("kept");
        let _outer = Budget::of(Duration::from_millis(20));
        {
            let _inner = Budget::of(LOOK);
            ask(&connection).expect_err("interrupted by the outer budget");
        }
        ask(&connection).expect_err("used up");
    }

    #[test]
    fn sleeping_uses_no_budget() {
        let connection = Connection::open_in_memory().expect("a database");
        keep(&connection).expect("kept");
        let _budget = Budget::of(Duration::from_millis(50));
        std::thread::sleep(Duration::from_millis(80));
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 30000) SELECT count(*) FROM n";
        connection.query_one(many, [], |row| row.get::<_, i64>(0)).expect("within the budget");
    }
}
