//! Metrics: the counters of one tracker, and the format of the figures.
//!
//! Each figure is an atomic that is updated where the event happens, in whatever thread, without
//! waiting. The store counts ends, leaks and passes after the commit, so only what is in the ledger
//! is counted. A reader may see one figure slightly earlier than another, but never a wrong figure.
//!
//! With the feature `metrics` the same events go to the recorder of the `metrics` facade, under the
//! same names.

mod counts;
mod facade;
mod families;
#[cfg(feature = "fleet")]
mod fleet;
mod latency;
mod prometheus;
mod text_format;

pub(crate) use counts::Counters;
#[cfg(feature = "fleet")]
pub(crate) use fleet::fleet_page;
