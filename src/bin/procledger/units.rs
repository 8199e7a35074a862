//! Parsers for durations, sizes and program names on the command line, with errors that say what to
//! write instead.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    time::{Duration, SystemTime},
};

use nix::sys::signal::Signal;
use procledger::ContainmentMode;

/// The longest span: a longer one is a typing error, and could overflow the ledger's milliseconds.
const LONGEST: Duration = Duration::from_hours(1000 * 366 * 24);

/// The time after a stop signal without a time: the default grace.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Advice on how to write a duration.
const OTHERWISE: &str = "write one such as 500ms, 30s, 5m or 2h";

/// Ten updates per second look smooth.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// The ledger keeps sizes in SQLite's signed 64 bits.
const LARGEST: u64 = i64::MAX.cast_unsigned();

/// The library refuses a smaller limit.
const SMALLEST_LEDGER: u64 = 1 << 20;

/// Parses a span such as `30s`, `5m`, `1h 30m` or `7days`. A number without a unit is refused,
/// since it is ambiguous.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty: write a duration such as 30s, 5m or 2h".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "`{text}` has no unit: write {text}s for seconds, {text}m for minutes"
        ));
    }
    let span = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration: {OTHERWISE}"))?;
    if span > LONGEST { Err("it is longer than 1000 years".to_owned()) } else { Ok(span) }
}

/// Parses `TERM`, `SIGTERM`, `term` or `15`.
pub(crate) fn signal(text: &str) -> Result<i32, String> {
    let name = text.to_ascii_uppercase();
    let named = || format!("SIG{}", name.trim_start_matches("SIG")).parse::<Signal>().ok();
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    number.or_else(|| named().map(|signal| signal as i32)).ok_or_else(|| {
        "write a signal such as TERM, INT or HUP, or a number from 1 to 64".to_owned()
    })
}

/// Parses a signal and the time after it, such as `INT:10s`; without a time it is `STOP_WAIT`.
pub(crate) fn stop_signal(text: &str) -> Result<(i32, Duration), String> {
    match text.split_once(':') {
        Some((name, wait)) => Ok((signal(name)?, duration(wait)?)),
        None => Ok((signal(text)?, STOP_WAIT)),
    }
}

/// Parses two signals such as `TERM:QUIT`; the second one may be 0, for none.
pub(crate) fn rewrite(text: &str) -> Result<(i32, i32), String> {
    let (from, to) = text
        .split_once(':')
        .ok_or_else(|| "write two signals, such as TERM:QUIT, or TERM:0".to_owned())?;
    Ok((signal(from)?, if to == "0" { 0 } else { signal(to)? }))
}

/// Returns the name of a signal as in `TERM`; those without a name by number.
pub(crate) fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(
        |_| format!("signal {signal}"),
        |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
    )
}

/// Parses how long ago a time was: a span, or a date such as `2026-11-01` or
/// `2026-11-01T10:00:00Z`, in UTC.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.contains('-') || text.starts_with('-') {
        let or_a_date = |error: String| format!("{error}, or a date such as 2026-11-01");
        return duration(text)
            .map_err(|error| if error.ends_with(OTHERWISE) { or_a_date(error) } else { error });
    }
    let midnight = format!("{text}T00:00:00Z");
    let time = humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_rfc3339_weak(&midnight))
        .map_err(|_| {
            format!(
                "`{text}` is not a date: write one such as 2026-11-01 or 2026-11-01T10:00:00Z, or a duration such as 7days"
            )
        })?;
    SystemTime::now().duration_since(time).map_err(|_| format!("`{text}` is in the future"))
}

/// Parses a span longer than zero.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a limit of zero would end the program at once".to_owned()),
        span => Ok(span),
    }
}

/// Parses the interval between two updates. A shorter one than a person can perceive would only use
/// CPU time.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        span if span < SHORTEST_INTERVAL => Err("it is shorter than 100ms".to_owned()),
        span => Ok(span),
    }
}

/// Parses a limit on memory, larger than zero.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("a limit of zero would end the program at once".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Parses a size in bytes: `1048576`, `512M`, `2G`, `1GiB` (powers of 1024), `500MB` (powers of
/// 1000).
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if unit.starts_with(['.', ',']) {
        return Err(format!(
            "`{text}` has a fraction: write a whole number in a smaller unit, as 1536M for 1.5G"
        ));
    }
    if number.is_empty() {
        return Err(format!("`{text}` is not a size: write one such as 512M, 2G or 1GiB"));
    }
    let Some(factor) = factor(unit.trim_start()) else {
        return Err(format!(
            "`{unit}` is not a unit: use K, M, G, T (or KiB, MiB, ...) or kB, MB, GB, TB"
        ));
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match bytes {
        Some(bytes) if bytes <= LARGEST => Ok(bytes),
        _ => Err(format!("`{text}` is larger than 8 EiB")),
    }
}

/// Parses the size that a ledger may grow to.
pub(crate) fn ledger_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        bytes if bytes < SMALLEST_LEDGER => {
            Err(format!("`{text}` cannot hold any history: write 1M or more"))
        }
        bytes => Ok(bytes),
    }
}

/// Parses the base name of a program.
pub(crate) fn program_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') {
        return Err("write the base name of a program: not empty, without a slash".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses the name of a host of a fleet.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err("write a name: not empty, without control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn factor(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    })
}

/// Parses a variable of an environment, whose value need not be text, as the program's arguments.
pub(crate) fn variable(word: OsString) -> Result<(OsString, OsString), String> {
    let mut name = word.into_vec();
    match name.iter().position(|byte| *byte == b'=') {
        Some(at) if at > 0 => {
            let value = name.split_off(at + 1);
            name.truncate(at);
            Ok((OsString::from_vec(name), OsString::from_vec(value)))
        }
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Parses a containment mode.
pub(crate) fn containment(text: &str) -> Result<ContainmentMode, String> {
    ContainmentMode::parse(text).ok_or_else(|| "give auto, cgroup, keeper or session".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number_and_a_stop_signal_a_time() {
        for (text, number) in [("TERM", 15), ("SIGTERM", 15), ("int", 2), ("9", 9), ("34", 34)] {
            assert_eq!(signal(text), Ok(number), "{text}");
            assert_eq!(stop_signal(text), Ok((number, STOP_WAIT)), "{text}");
            let timed = format!("{text}:1m 5s");
            assert_eq!(stop_signal(&timed), Ok((number, Duration::from_secs(65))), "{timed}");
        }
        for text in
            ["", "0", "65", "-1", "SIG", "TERMINATE", "SIGSIGTERM ", "TERM:", "TERM:5", ":5s"]
        {
            assert!(signal(text).is_err() && stop_signal(text).is_err(), "{text}");
        }
        assert_eq!([signal_name(2), signal_name(34)], ["INT", "signal 34"]);
    }

    #[test]
    fn a_rewrite_names_two_signals_or_a_signal_and_none() {
        assert_eq!(rewrite("TERM:QUIT"), Ok((15, 3)));
        assert_eq!(rewrite("15:sigint"), Ok((15, 2)));
        assert_eq!(rewrite("HUP:0"), Ok((1, 0)));
        for text in ["", "TERM", "TERM:", ":QUIT", "0:TERM", "TERM:QUIT:INT", "TERM:-1", "TERM:00"]
        {
            assert!(rewrite(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_in_powers_of_1024_and_of_1000() {
        for (text, bytes) in [
            ("1", 1),
            ("1048576", 1_048_576),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("2G", 2 << 30),
            ("1GiB", 1 << 30),
            ("1 GiB", 1 << 30),
            ("4k", 4096),
            ("3T", 3 << 40),
            ("500MB", 500_000_000),
            ("10B", 10),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refused_sizes_are_explained() {
        for (text, part) in [
            ("", "is not a size"),
            ("M", "is not a size"),
            ("-1M", "is not a size"),
            ("1.5G", "has a fraction"),
            ("1X", "is not a unit"),
            ("1GiBs", "is not a unit"),
            ("0", "zero"),
            ("0G", "zero"),
            ("9223372036854775808", "larger than"),
            ("99999999999999999999", "larger than"),
            ("16777216T", "larger than"),
            ("١M", "is not a size"),
        ] {
            let error = memory(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn durations_with_units() {
        for (text, millis) in
            [("100ms", 100), ("30s", 30_000), ("5m", 300_000), ("1h 30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn an_age_is_a_duration_or_a_date() {
        assert_eq!(age("7days"), Ok(Duration::from_hours(7 * 24)));
        let day = |text| age(text).expect("a date").as_secs() / 10;
        assert_eq!(day("2025-11-01"), day("2025-11-01T00:00:00Z"));
        assert_eq!(day("2025-11-01"), day("2025-11-01 00:00:00"));
        let later = age("2025-11-02").expect("a date");
        let between = age("2025-11-01").expect("a date").saturating_sub(later);
        assert!(between.abs_diff(Duration::from_hours(24)) < Duration::from_secs(10));
        for (text, part) in [
            ("2999-01-01", "in the future"),
            ("2025-13-01", "not a date"),
            ("-1h", "not a duration"),
            ("yesterday", "not a duration"),
        ] {
            let error = age(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn refused_durations_come_with_a_valid_example() {
        for (text, part) in [
            ("", "empty"),
            ("30", "write 30s"),
            ("0", "no unit"),
            ("-5s", "not a duration"),
            ("5 parsecs", "not a duration"),
            ("2000years", "1000 years"),
            ("99999999999999999999s", "not a duration"),
        ] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(ledger_size("1023k").expect_err("small").contains("1M or more"));
        assert!(ledger_size("0").expect_err("small").contains("1M or more"));
        assert_eq!(ledger_size("1M"), Ok(1 << 20));
        assert!(interval("99ms").expect_err("short").contains("100ms"));
        assert_eq!(interval("100ms"), Ok(SHORTEST_INTERVAL));
        assert!(limit("0s").expect_err("zero").contains("zero"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_and_a_span_within_bounds_or_refused_in_one_line(
            text in "\\PC{0,12}|[0-9]{1,22} ?[kKMGTiIbB]{0,4}|[0-9]{1,12}(ms|s|m|h|days|years)",
        ) {
            match memory(&text) {
                Ok(bytes) => prop_assert!((1..=LARGEST).contains(&bytes)),
                Err(why) => prop_assert!(!why.is_empty() && !why.contains('\n')),
            }
            match duration(&text) {
                Ok(span) => prop_assert!(span <= LONGEST),
                Err(why) => prop_assert!(!why.is_empty() && !why.contains('\n')),
            }
        }

        #[test]
        fn a_size_is_its_number_times_its_unit(number in 1..=u64::from(u32::MAX), power in 0..4_usize) {
            let (binary, short, metric) =
                (["B", "KiB", "MiB", "GiB"][power], ["", "k", "m", "g"][power], ["b", "kB", "MB", "GB"][power]);
            let power = u32::try_from(power).expect("small");
            prop_assert_eq!(size(&format!("{number}{binary}")), Ok(number << (10 * power)));
            prop_assert_eq!(size(&format!("{number}{short}")), Ok(number << (10 * power)));
            prop_assert_eq!(size(&format!("{number} {metric}")), Ok(number * 1000_u64.pow(power)));
        }
    }
}
