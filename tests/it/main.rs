//! The integration suite: one binary, a file a scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod a_descendant_that_hid;
mod a_host_that_is_in_the_ledger;
mod as_a_host;
mod clean_program;
mod clone2_fallback;
mod ends_that_went_wrong;
mod gate_host;
mod invariant_01_recorded_before_it_runs;
mod invariant_10_fail_closed;
mod not_started;
mod odd_names;
mod pid_reuse;
mod registrar_under_load;
mod storm;
mod support;
mod thread_ends;
