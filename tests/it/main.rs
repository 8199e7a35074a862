//! The integration suite: one binary, a file a scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod support;

mod as_a_host;

mod clean_restart;
mod copied_ledger;
mod crash_restart;
mod export_follows;
mod failed_operation;
mod grandchild_holds_stdout;
mod invariants;
mod legacy_list;
mod limits;
mod log_lines;
mod many_at_once;
mod odd_hosts;
mod process_death;
mod refusals;
mod restarts_its_own_host;
mod schema_reads_as_a_manual;
mod shared_session;
mod strays;
mod survive;
mod two_instances;
mod verbs;
