//! The JSON export.

pub(crate) mod export_in_place;
pub(crate) mod export_updates;
pub(crate) mod hostile_export_path;
