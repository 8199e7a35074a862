//! The report as a page: one file that needs nothing else and runs nothing but its own few lines that sort tables.
//!
//! Everything from the ledger is data of strangers. It passes [`escape`](crate::render::escape), which shows control
//! characters and direction overrides, and then the template's own escaping; a nonce, made anew for each page and so known
//! to nobody whose text is in it, keeps the browser from running or applying anything else.

mod chart;
mod report;
mod rows;
mod spell;
mod step;

pub(crate) use report::{LEAKS_SHOWN, page};
