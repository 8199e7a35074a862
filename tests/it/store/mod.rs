//! The ledger file.

pub(crate) mod backup;
pub(crate) mod damaged_page;
pub(crate) mod disk_full;
pub(crate) mod exchanged_paths;
pub(crate) mod foreign_schema;
pub(crate) mod held_lock;
pub(crate) mod hostile_task_ids;
pub(crate) mod io_errors;
pub(crate) mod ledger_page;
pub(crate) mod ledger_removed;
pub(crate) mod model;
pub(crate) mod non_regular_files;
pub(crate) mod older_ledger;
pub(crate) mod one_connection;
pub(crate) mod retention;
pub(crate) mod schema_documentation;
pub(crate) mod second_names;
pub(crate) mod snapshot_reader;
pub(crate) mod soak;
pub(crate) mod volumes;
