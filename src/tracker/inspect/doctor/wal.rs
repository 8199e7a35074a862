//! Reports on the WAL, and on processes that keep it from being emptied.

use super::finding::{Finding, Level};
use crate::{
    identity::Pid,
    store::Store,
    sys::{Proc, wal_readers},
};

/// Reports the processes that hold a snapshot, by PID and name; if there is none, the size of the
/// WAL.
pub(super) fn state(store: &Store) -> Finding {
    let kib = store.wal_bytes() / 1024;
    let finding = |level, detail, advice: &str| Finding {
        check: "wal".into(),
        level,
        detail,
        advice: advice.into(),
    };
    let holders = match wal_readers::holders(&store.beside("-shm")) {
        Ok(holders) => holders,
        Err(error) => {
            return finding(
                Level::Warning,
                error.to_string(),
                "the processes that hold a snapshot are unknown: mount /proc",
            );
        }
    };
    if !holders.is_empty() {
        let names: Vec<String> = holders.into_iter().map(named).collect();
        return finding(
            Level::Warning,
            format!("a snapshot is held by {}; the WAL has {kib} KiB", names.join(", ")),
            "the WAL grows until that reader ends its transaction: close it, or end it with COMMIT",
        );
    }
    if store.wal_is_too_large() {
        return finding(
            Level::Warning,
            format!("has {kib} KiB, and no process is seen to hold a snapshot"),
            "the next health pass of a live instance empties it; if it does not, look for readers in containers",
        );
    }
    finding(Level::Ok, format!("has {kib} KiB, and no process holds a snapshot"), "")
}

fn named(pid: Pid) -> String {
    let comm = Proc::open().and_then(|proc| proc.stat(pid)).ok().flatten();
    let comm = comm.map(|stat| String::from_utf8_lossy(&stat.comm).into_owned());
    format!("process {pid} ({})", comm.as_deref().unwrap_or("gone by now"))
}
