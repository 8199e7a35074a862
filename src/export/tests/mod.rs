//! The guarantees of the export.

mod json_file;
mod legacy;
mod list;
mod lock;
mod writer_thread;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::model::{ExportEntry, ExportRow, ExportUpdate, Millis, ProcessId};

/// Far longer than anything in these tests takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn entry(task: &str, pid: u32) -> ExportEntry {
    ExportEntry {
        task_id: task.to_owned(),
        process_id: pid,
        start_time: "2025-01-10T12:34:56.000Z".to_owned(),
    }
}

/// An update with these entries, in this order.
fn all(entries: Vec<ExportEntry>) -> ExportUpdate {
    let rows = (1..).map(ProcessId).zip(entries);
    ExportUpdate::All(rows.map(|(id, entry)| ExportRow { started: Millis(0), id, entry }).collect())
}

fn my_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Polls until `holds`, with a time limit.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|found| found.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn make_fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .unwrap();
}
