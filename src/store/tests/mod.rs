//! Tests of the store on real files, in folders of their own. No process is ever signalled.

mod changes;
mod claims;
mod exported;
mod fixture;
mod history;
mod insert;
mod keys;
mod leak_report;
mod members;
mod open;
mod orphans;
mod plans;
mod read_only;
mod refusals;
mod shipment;
#[cfg(feature = "fleet")]
mod stream;
mod together;
mod transitions;
mod wal_origin;
