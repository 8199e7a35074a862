//! The integration suite: one binary, a file per scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod cli;
mod containment;
mod docs;
mod end;
mod export;
mod fleet;
mod handle;
mod orphans;
mod spawn;
mod store;
mod support;
