//! What keeps a tree together: cgroups, keepers and sessions.

pub(crate) mod fork_events;
pub(crate) mod hidden_by_privilege;
pub(crate) mod hidden_descendants;
pub(crate) mod keeper_choice;
pub(crate) mod keeper_end_log;
pub(crate) mod keeper_forks_on_sigterm;
pub(crate) mod keeper_host_dies;
pub(crate) mod keeper_impostors;
pub(crate) mod keeper_kill_at_random;
pub(crate) mod keeper_killed;
pub(crate) mod keeper_lock_holders;
pub(crate) mod keeper_root_ends;
pub(crate) mod keeper_spares_a_new_host;
pub(crate) mod keeper_transparency;
pub(crate) mod keepers;
pub(crate) mod misleading_names;
pub(crate) mod nested_cgroups;
pub(crate) mod one_user_sandbox;
pub(crate) mod real_programs;
pub(crate) mod task_cgroups;
