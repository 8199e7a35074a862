//! Output formats: escaping, tables, CSV, figures.

mod csv;
mod escape;
mod figures;
pub(crate) mod json_list;
mod paint;
mod report;
mod table;
mod time;

pub(crate) use csv::csv;
pub(crate) use escape::{escape, escape_json, escaped, push_escaped, shell_words};
pub(crate) use figures::{bytes, cpu_time, short_bytes, short_span, span};
pub(crate) use json_list::push_element;
pub(crate) use paint::Paint;
pub(crate) use report::{
    Tense, after, ending_line, ending_line_after, fleet_outcome, how_ended, leak_outcome,
    report_exit, report_text, suspect_line, suspects,
};
pub(crate) use table::Table;
pub(crate) use time::{calendar, clock, rfc3339, since, unix_millis};
