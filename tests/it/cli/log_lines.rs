//! The log lines of the former implementation, word for word: users and alerts search for them.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use procledger::Tracker;

use crate::support::{Host, PidfdWatch, Place, until};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines at INFO that `work` logs in this thread, without time, level and target.
fn logged(work: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let theirs = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || theirs.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(lines.0.lock().expect("unpoisoned").clone()).expect("text");
    text.lines().filter_map(|line| Some(line.trim().strip_prefix("INFO ")?.to_owned())).collect()
}

#[test]
fn a_restart_logs_what_it_loaded_and_what_it_cleaned_up() {
    let place = Place::new();
    let export = place.path().join("processes.json");
    let mut host = Host::start(&place, &format!("export={}", export.display()));
    let orphans = ["a", "b", "c"].map(|task| host.spawn(task, "exec sleep 3600"));
    until("the export is written", || {
        std::fs::read_to_string(&export).is_ok_and(|text| text.matches("task_id").count() == 3)
    });
    host.crash();
    let mut tracker = None;
    let lines = logged(|| {
        tracker = Some(Tracker::builder(place.ledger()).export(&export).open().expect("a ledger"));
    });
    assert!(orphans.iter().all(PidfdWatch::is_dead));
    let loaded = format!("Loaded 3 persisted processes from {}", export.display());
    assert_eq!(lines, [loaded.as_str(), "Cleaned up 3 orphaned processes from previous run"]);
}

#[test]
fn a_clean_start_logs_nothing() {
    let place = Place::new();
    let lines = logged(|| drop(Tracker::builder(place.ledger()).open().expect("a ledger")));
    assert_eq!(lines, [""; 0]);
}

#[test]
fn the_health_pass_names_each_dead_process_once_and_counts_them() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let mut registered = place.child("exec sleep 3600");
    tracker.register("registered", registered.pid()).expect("registered");
    let spawned = tracker.spawn(place.job("spawned", "exec sleep 3600")).expect("spawned");
    let spawned = PidfdWatch::on(spawned.pid().get());
    assert_eq!(logged(|| drop(tracker.health_pass().expect("a pass"))), [""; 0], "all live");
    PidfdWatch::on(registered.pid()).kill();
    registered.0.wait().expect("reaped");
    spawned.kill();
    let mut lines = logged(|| drop(tracker.health_pass().expect("a pass")));
    assert_eq!(lines.pop().as_deref(), Some("Cleaned up 2 dead processes from registry"));
    lines.sort();
    let line = |pid: u32, task: &str| {
        format!("Process {pid} for task {task} is no longer alive - removing from registry")
    };
    let mut expected = [line(registered.pid(), "registered"), line(spawned.pid(), "spawned")];
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn the_monitor_names_a_registered_process_that_has_died() {
    let place = Place::new();
    let log = place.path().join("log");
    let mut host = Host::start(&place, &format!("log={}", log.display()));
    let child = place.child("exec sleep 3600");
    host.ask(&format!("register task {}", child.pid()));
    PidfdWatch::on(child.pid()).kill();
    let line = format!(
        "Process {} for task task is no longer alive - removing from registry",
        child.pid()
    );
    until("it is logged", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&line)));
    host.stop();
}
