//! The integration suite: one binary, a file a scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod support;

mod as_a_host;

mod clean_restart;
mod crash_restart;
mod failed_operation;
mod grandchild_holds_stdout;
mod process_death;
mod copied_ledger;
mod many_at_once;
mod restarts_its_own_host;
mod shared_session;
mod two_instances;
mod export_follows;
mod legacy_list;
mod limits;
mod strays;
mod survive;
mod invariants;
mod log_lines;
mod odd_hosts;
mod refusals;
mod schema_reads_as_a_manual;
mod verbs;
