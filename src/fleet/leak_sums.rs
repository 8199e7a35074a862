//! The sums over the leaks of a stream's days and hours: recomputed from the leaks, never
//! incremented.

use std::collections::BTreeSet;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use postgres::types::ToSql;

const HOUR: i64 = 3600;

/// Recomputes the sums of a stream for the days and hours in which leaks were found at these times.
/// `execute` executes a statement in a transaction.
pub(super) fn recompute<E>(
    stream: i32,
    found_at: impl IntoIterator<Item = DateTime<Utc>>,
    mut execute: impl FnMut(&'static str, &[&(dyn ToSql + Sync)]) -> Result<u64, E>,
) -> Result<(), E> {
    let hours: BTreeSet<DateTime<Utc>> = found_at.into_iter().map(hour).collect();
    let days: BTreeSet<NaiveDate> = hours.iter().map(DateTime::date_naive).collect();
    let (hours, days): (Vec<_>, Vec<_>) = (hours.into_iter().collect(), days.into_iter().collect());
    let (Some(first_hour), Some(last_hour)) = (hours.first(), hours.last()) else { return Ok(()) };
    let next_hour =
        last_hour.checked_add_signed(TimeDelta::seconds(HOUR)).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let first_day = midnight(first_hour.date_naive());
    let next_day = last_hour.date_naive().checked_add_days(Days::new(1)).unwrap_or(NaiveDate::MAX);
    let next_day = midnight(next_day);
    execute(include_str!("statements/leak_day_clear.sql"), &[&stream, &days])?;
    execute(include_str!("statements/leak_hour_clear.sql"), &[&stream, &hours])?;
    execute(include_str!("statements/leak_top_clear.sql"), &[&stream, &days])?;
    let of_days: [&(dyn ToSql + Sync); 4] = [&stream, &days, &first_day, &next_day];
    execute(include_str!("statements/leak_day.sql"), &of_days)?;
    execute(include_str!("statements/leak_top.sql"), &of_days)?;
    let of_hours: [&(dyn ToSql + Sync); 4] = [&stream, &hours, first_hour, &next_hour];
    execute(include_str!("statements/leak_hour.sql"), &of_hours)?;
    Ok(())
}

/// Returns the beginning of the hour of a time.
pub(super) fn hour(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(time.timestamp().div_euclid(HOUR) * HOUR, 0).unwrap_or(time)
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}
