//! The sums over the leaks of a stream's days: made anew from the leaks, never added to.

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use postgres::types::ToSql;

const CLEAR: [&str; 2] =
    [include_str!("statements/leak_day_clear.sql"), include_str!("statements/leak_top_clear.sql")];
const SUM: [&str; 2] =
    [include_str!("statements/leak_day.sql"), include_str!("statements/leak_top.sql")];

/// Makes the sums of these days of a stream anew, by a function that executes a statement in a transaction.
pub(super) fn recompute<E>(
    stream: i32,
    days: &[NaiveDate],
    mut execute: impl FnMut(&'static str, &[&(dyn ToSql + Sync)]) -> Result<u64, E>,
) -> Result<(), E> {
    let (Some(first), Some(last)) = (days.iter().min(), days.iter().max()) else { return Ok(()) };
    let (from, until) =
        (midnight(*first), midnight(last.checked_add_days(Days::new(1)).unwrap_or(*last)));
    for sql in CLEAR {
        execute(sql, &[&stream, &days])?;
    }
    for sql in SUM {
        execute(sql, &[&stream, &days, &from, &until])?;
    }
    Ok(())
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}
