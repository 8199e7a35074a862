//! The meter: what one tracker counts, and how the figures are written down.
//!
//! Each figure is an atomic that is added to where the thing happens, in whatever thread; nobody waits for anybody. Ends,
//! leaks and passes are counted by the store, after the commit: what the ledger did not take did not happen. A reader may
//! see one figure a moment before another, never one that was not true.
//!
//! With the feature `metrics` the same events go to the recorder of that facade, under the same names.

mod counts;
mod facade;
mod families;
mod latency;
mod page;
mod prometheus;

pub(crate) use counts::Meter;
