//! Times, spans and sizes for people.

use std::time::Duration;

use procledger::Millis;

/// `850ms`, `12s`, `4m 05s`, `1h 02m`, `3d 04:05:06`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..60 => format!("{rest}s"),
        60..3600 => format!("{minutes}m {rest:02}s"),
        3600..86_400 => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}:{minutes:02}:{rest:02}"),
    }
}

/// `512 B`, `1.5 MiB`; `-` where nothing was measured.
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

/// `2025-01-10 12:34:56Z`.
pub(crate) fn clock(time: Millis) -> String {
    let text = time.to_rfc3339();
    text.get(..19).map_or_else(|| text.clone(), |text| text.replace('T', " ") + "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_grow_coarser() {
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
    fn the_clock_is_utc() {
        assert_eq!(clock(Millis(1_736_512_496_789)), "2025-01-10 12:34:56Z");
    }
}
