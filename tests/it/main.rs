//! The integration suite: one binary, a file a scenario, real processes and real ledgers.

#![expect(
    clippy::disallowed_methods,
    reason = "hosts, canaries and tools are started by other means than the tracker"
)]

mod a_descendant_that_hid;
mod a_host_that_is_in_the_ledger;
mod a_look_that_failed;
mod as_a_host;
mod backup;
mod browser;
mod clean_program;
mod clean_restart;
mod clone2_fallback;
mod command;
mod command_bad_input;
mod command_demo;
mod command_look;
mod command_ps_watch;
mod command_reap;
mod command_run;
mod command_terminal;
mod command_tree;
mod command_watch;
mod copied_ledger;
mod crash_restart;
mod ends_that_went_wrong;
mod export_follows;
mod failed_operation;
mod fork_storm;
mod gate_host;
mod grandchild_holds_stdout;
mod in_a_browser;
mod installed;
mod invariant_01_recorded_before_it_runs;
mod invariant_10_fail_closed;
mod invariants;
mod kept_strays;
mod leaves;
mod ledger_page;
mod legacy_list;
mod limits;
mod log_lines;
mod look_alikes;
mod many_at_once;
mod not_started;
mod obstacles;
mod odd_hosts;
mod odd_names;
mod older_ledger;
mod out_of_descriptors;
mod pid_reuse;
mod process_death;
mod protected_names;
mod pty;
mod readme;
mod refusals;
mod registrar_under_load;
mod report_in_a_browser;
mod restarts_its_own_host;
mod schema_reads_as_a_manual;
mod shared_session;
mod stopped_group;
mod storm;
mod strays;
mod support;
mod survive;
mod systemd_units;
mod thread_ends;
mod tidy;
mod two_instances;
mod verbs;
mod watch_service;
