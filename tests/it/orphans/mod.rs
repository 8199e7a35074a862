//! Orphans of dead owners: instances, identity, the orphan pass and `watch`.

pub(crate) mod clean_restart;
pub(crate) mod clock_jumps;
pub(crate) mod copied_ledger;
pub(crate) mod crash_restart;
pub(crate) mod ended_pid_namespaces;
pub(crate) mod host_that_executes_itself;
pub(crate) mod host_with_its_own_row;
pub(crate) mod legacy_list;
pub(crate) mod lingering_lock;
pub(crate) mod look_alikes;
pub(crate) mod no_proc;
pub(crate) mod pid_reuse;
pub(crate) mod restored_backup;
pub(crate) mod shared_session;
pub(crate) mod stale_lock_files;
pub(crate) mod task_restarts_its_host;
pub(crate) mod two_instances;
pub(crate) mod watch_service;
pub(crate) mod watch_without_inotify;
pub(crate) mod watch_workers;
pub(crate) mod zombies_of_tasks;
