//! The integration suite: one binary, a file a scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod support;

mod a_descendant_that_hid;
mod a_host_that_is_in_the_ledger;
mod as_a_host;
mod ends_that_went_wrong;
