//! The metrics: what one tracker counts, and how the figures are formatted.
//!
//! Each figure is an atomic that is updated where the event happens, in whatever thread, without waiting. Ends, leaks and
//! passes are counted by the store, after the commit: only what is in the ledger is counted. A reader may see one figure
//! slightly earlier than another, but never a wrong one.
//!
//! With the feature `metrics` the same events go to the recorder of that facade, under the same names.

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
