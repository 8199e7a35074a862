//! Readable times, spans and sizes.

use std::time::Duration;

/// Formats a span, such as `850ms`, `12s`, `4m 05s`, `1h 02m` or `3d 04:05:06`.
pub(crate) fn span(span: Duration) -> String {
    let Parts { days, hours, minutes, seconds } = Parts::of(span);
    match span.as_secs() {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {seconds:02}s"),
        3600..86_400 => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// [`span`] in at most six characters: `850ms`, `12s`, `4m05s`, `1h02m`, `3d04h`, `123d`.
pub(crate) fn short_span(span: Duration) -> String {
    let Parts { days, hours, minutes, seconds } = Parts::of(span);
    match span.as_secs() {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{seconds:02}s"),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        86_400..8_640_000 => format!("{days}d{hours:02}h"),
        _ => format!("{days}d"),
    }
}

/// Formats a span like a clock.
struct Parts {
    days: u64,
    hours: u64,
    minutes: u64,
    seconds: u64,
}

impl Parts {
    fn of(span: Duration) -> Self {
        let all = span.as_secs();
        Self {
            days: all / 86_400,
            hours: all / 3600 % 24,
            minutes: all / 60 % 60,
            seconds: all % 60,
        }
    }
}

/// Formats a size, such as `512 B` or `1.5 MiB`; `-` if nothing was measured.
pub(crate) fn bytes(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return "-".to_owned() };
    let mut unit = "B";
    let mut tenths = u128::from(bytes) * 10;
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// CPU time: `0.03s` and up, from a minute on as [`short_span`]; `-` if nothing was measured.
pub(crate) fn cpu_time(cpu: Option<Duration>) -> String {
    match cpu {
        None => "-".to_owned(),
        Some(cpu) if cpu < Duration::from_mins(1) => format!("{:.2}s", cpu.as_secs_f64()),
        Some(cpu) => short_span(cpu),
    }
}

/// [`bytes`] in at most five characters, in powers of 1024: `512B`, `1.5M`, `117M`.
pub(crate) fn short_bytes(size: Option<u64>) -> String {
    let text = bytes(size);
    let Some((number, unit)) = text.split_once(' ') else { return text };
    let unit = unit.strip_suffix("iB").unwrap_or(unit);
    match number.split_once('.') {
        Some((whole, _)) if whole.len() > 2 => format!("{whole}{unit}"),
        _ => format!("{number}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_spans_are_shown_in_coarser_units() {
        for (millis, shown) in [
            (0, "0ms"),
            (850, "850ms"),
            (12_900, "12s"),
            (245_000, "4m 05s"),
            (3_720_000, "1h 02m"),
            (273_906_000, "3d 04:05:06"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn sizes_in_powers_of_1024() {
        for (size, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(Some(size)), shown);
        }
        assert_eq!(bytes(None), "-");
    }

    #[test]
    fn short_figures_fit_their_columns() {
        for (millis, shown, cpu) in [
            (0, "0ms", "0.00s"),
            (850, "850ms", "0.85s"),
            (12_900, "12s", "12.90s"),
            (245_000, "4m05s", "4m05s"),
            (3_720_000, "1h02m", "1h02m"),
            (273_906_000, "3d04h", "3d04h"),
            (100 * 86_400_000, "100d", "100d"),
        ] {
            let span = Duration::from_millis(millis);
            assert_eq!((short_span(span).as_str(), cpu_time(Some(span)).as_str()), (shown, cpu));
        }
        for (size, shown) in [
            (1023, "1023B"),
            (1_572_864, "1.5M"),
            (122_683_392, "117M"),
            (1_073_741_823, "1023M"),
            (u64::MAX, "15.9E"),
        ] {
            assert_eq!(short_bytes(Some(size)), shown);
        }
        assert_eq!((short_bytes(None), cpu_time(None)), ("-".to_owned(), "-".to_owned()));
    }
}
