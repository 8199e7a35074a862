//! The PID scope of this process: boot, PID namespace, time namespace, machine.

use std::{fs, io, os::unix::fs::MetadataExt};

use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    identity::PidScope,
};

/// Returns the PID scope of the calling process.
pub(crate) fn current_pid_scope() -> Result<PidScope> {
    let boot = read("/proc/sys/kernel/random/boot_id")?;
    let boot_id = Uuid::try_parse(boot.trim()).map_err(|error| {
        Error::new(Kind::Unsupported, "failed to parse `/proc/sys/kernel/random/boot_id`")
            .with_source(error)
    })?;
    let namespace = fs::metadata("/proc/self/ns/pid")
        .map_err(|error| unreadable("/proc/self/ns/pid", error))?;
    Ok(PidScope {
        machine_id: machine_id(),
        boot_id,
        pid_namespace: namespace.ino(),
        boottime_offset: fs::read_to_string("/proc/self/timens_offsets")
            .map_or(0, |text| parse_offset(&text)),
    })
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &str, error: io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => ": mount `/proc`, without `subset=pid`",
        _ => "",
    };
    Error::os(format!("failed to read `{path}`{remedy}"), error)
}

/// Reads machine-id(5): 32 hex digits. A machine without a machine id is distinguished from others
/// by its boot ids alone.
fn machine_id() -> Option<Uuid> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .into_iter()
        .find_map(|path| Uuid::try_parse(fs::read_to_string(path).ok()?.trim()).ok())
}

/// Parses the boottime line of `/proc/self/timens_offsets`: `boottime SECONDS NANOSECONDS`
/// (`time_namespaces(7)`).
fn parse_offset(text: &str) -> i64 {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        // Older kernels print the clock's number instead of its name.
        matches!(words.next()?, "boottime" | "7").then_some(())?;
        let seconds: i64 = words.next()?.parse().ok()?;
        let nanoseconds: i64 = words.next()?.parse().ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
    };
    text.lines().find_map(parse).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_by_name_and_by_number() {
        assert_eq!(
            parse_offset("monotonic           0         0\nboottime           0         0\n"),
            0
        );
        assert_eq!(parse_offset("monotonic 5 0\nboottime -86400 7\n"), -86_399_999_999_993);
        assert_eq!(parse_offset("1 0 0\n7 3 0\n"), 3_000_000_000);
        assert_eq!(parse_offset("nonsense"), 0);
    }

    #[test]
    fn the_pid_scope_of_this_process_is_stable() {
        assert_eq!(current_pid_scope().expect("a scope"), current_pid_scope().expect("a scope"));
    }
}
