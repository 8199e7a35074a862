//! The figures by name. They are in base units, which the suffix names, as
//! <https://prometheus.io/docs/practices/naming/> requires. The names are stable, since dashboards
//! and alerts use them.

/// The kind of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric family: the samples of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// `NAME: Kind = "name", "help";`
macro_rules! families {
    ($($constant:ident: $kind:ident = $name:literal, $help:literal;)+) => { $(
        pub(super) const $constant: Family = Family { name: $name, kind: Kind::$kind, help: $help };
    )+ };
}

// Counted by a tracker, in memory, and passed to the facade.
families! {
    EXECUTING: Gauge = "procledger_executing", "Roots that this instance is responsible for now.";
    SPAWNS: Counter = "procledger_spawns_total", "Programs started.";
    SPAWN_FAILURES: Counter = "procledger_spawn_failures_total", "Programs that were requested but not started.";
    ENDS: Counter = "procledger_ends_total", "Rows ended by this instance, descendants included, by reason.";
    LEAKS: Counter = "procledger_leaks_total", "Leaks recorded by this instance, by kind and outcome.";
    PASSES: Counter = "procledger_passes_total", "Passes by kind and result: completed, with_errors or failed.";
    PASS_DURATION: Histogram = "procledger_pass_duration_seconds", "How long passes took, by kind.";
    LAST_PASS: Gauge = "procledger_last_pass_timestamp_seconds", "Unix time at which the last recorded pass of a kind ended; absent when there was none.";
    EXPORT_WRITES: Counter = "procledger_export_writes_total", "Times the JSON export was replaced.";
    EXPORT_FAILURES: Counter = "procledger_export_failures_total", "Times the JSON export could not be replaced.";
    REAP_LATENCY: Histogram = "procledger_reap_latency_seconds", "Time from the first signal to a process until it was dead.";
    DETECTION: Histogram = "procledger_death_detection_latency_seconds", "Time from when a root was last known to be alive until its end was in the ledger.";
}

// Determined only when a tracker is queried.
families! {
    BUILD_INFO: Gauge = "procledger_build_info", "Always 1; the version of procledger is a label.";
    UNWATCHED: Gauge = "procledger_unwatched", "Roots that only the health pass covers, for lack of descriptors.";
    MONITOR_UP: Gauge = "procledger_monitor_up", "1 while the monitor thread runs, 0 otherwise.";
    SURVIVORS: Gauge = "procledger_survivors", "Processes that could not be ended and still exist; absent when the ledger cannot be read.";
    LEDGER_UP: Gauge = "procledger_ledger_up", "1 when the ledger could be read, 0 otherwise.";
    LAST_PASS_AGE: Gauge = "procledger_last_pass_age_seconds", "Time since the last recorded pass of a kind ended; absent when there was none.";
}

// Determined from a ledger, for all instances.
families! {
    LEDGER_EXECUTING: Gauge = "procledger_ledger_executing", "Live roots of all instances.";
    LEDGER_LIVE: Gauge = "procledger_ledger_processes", "Live rows by state, descendants included.";
    LEDGER_ORPHANS: Gauge = "procledger_ledger_orphans", "Live rows whose instance is dead.";
    LEDGER_INSTANCES: Gauge = "procledger_ledger_instances", "Instances that have not stopped or left live rows, by life: alive, dead or unknown.";
    LEDGER_WINDOW: Gauge = "procledger_ledger_window_seconds", "Time span that the recent figures cover.";
    LEDGER_ENDS: Gauge = "procledger_ledger_recent_ends", "Rows that ended within the window, by reason.";
    LEDGER_LEAKS: Gauge = "procledger_ledger_recent_leaks", "Leaks found within the window, by kind and outcome.";
    LEDGER_LEAKED_BYTES: Gauge = "procledger_ledger_recent_leaked_bytes", "Resident memory of the window's leaks when they were found.";
    LEDGER_LEAKED_TIME: Gauge = "procledger_ledger_recent_leaked_seconds", "Time from start until found, summed over the window's leaks.";
    LEDGER_PASSES: Gauge = "procledger_ledger_recent_passes", "Passes that started within the window, by kind and result: completed or with_errors.";
    LEDGER_LAST_PASS: Gauge = "procledger_ledger_last_pass_timestamp_seconds", "Unix time at which the last pass of a kind started; absent when there was none.";
    LEDGER_LAST_PASS_AGE: Gauge = "procledger_ledger_last_pass_age_seconds", "Time since the last pass of a kind started; absent when there was none.";
    LEDGER_LAST_PASS_UP: Gauge = "procledger_ledger_last_pass_success", "1 when the last pass of a kind went well, 0 when something went wrong.";
    LEDGER_SIZE: Gauge = "procledger_ledger_size_bytes", "Size of the ledger's file.";
    LEDGER_WAL: Gauge = "procledger_ledger_wal_size_bytes", "Size of the ledger's write-ahead log.";
}

// Read from the database of a fleet, with one sample for each ledger.
#[cfg(feature = "fleet")]
families! {
    FLEET_SEEN: Gauge = "procledger_fleet_seen_timestamp_seconds", "Unix time at which the last batch of the ledger arrived.";
    FLEET_SILENT: Gauge = "procledger_fleet_silent_seconds", "Time since the last batch of the ledger, by the clock of the database.";
    FLEET_SKEW: Gauge = "procledger_fleet_skew_seconds", "By how much the clock of the host was ahead of that of the database.";
    FLEET_LIVE: Gauge = "procledger_fleet_live", "Processes that had not ended at the last batch.";
    FLEET_SURVIVORS: Gauge = "procledger_fleet_survivors", "Processes that could not be ended at the last batch.";
    FLEET_GAP: Gauge = "procledger_fleet_gap_rows", "Rows that were pruned before they were shipped.";
    FLEET_LOST: Gauge = "procledger_fleet_lost_rows", "Rows that were open, and that the ledger does not have any more.";
    FLEET_RESTARTS: Gauge = "procledger_fleet_restarts", "How often the ledger was shipped again from its start.";
    FLEET_LEAKS: Gauge = "procledger_fleet_leaks", "Leaks of the host within the window.";
    FLEET_WINDOW: Gauge = "procledger_fleet_window_seconds", "The window in which leaks are counted.";
}
