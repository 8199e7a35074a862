//! The JSON export.

pub(crate) mod export_follows;
pub(crate) mod export_in_place;
pub(crate) mod hostile_export_path;
