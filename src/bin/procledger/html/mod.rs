//! The report as an HTML page: one self-contained file whose only script is a few lines that sort
//! tables.
//!
//! All text from the ledger is untrusted. It passes through [`escape`](crate::render::escape),
//! which shows control characters and direction overrides, and then through the template's own
//! escaping. A nonce, generated for each page and therefore unknown when the text was recorded,
//! keeps the browser from running any other script or applying any other style.

mod chart;
mod fleet;
mod format;
mod report;
mod tables;
mod time_bucket;

pub(crate) use fleet::{FleetPage, of_fleet};
pub(crate) use report::{LEAKS_SHOWN, page};
