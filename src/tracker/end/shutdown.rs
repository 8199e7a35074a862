//! The orderly shutdown, in the order of the former implementation: stop monitoring, end tasks,
//! remove the export.

use std::sync::Arc;

use super::{adopted_zombies, flush, keeper_departure, missed_members, release, settle};
use crate::{
    error::Result,
    model::{EndPlan, EndReason, Millis, Report, RuleKey, StopHow},
    tracker::{
        core::Core,
        runtime::{cause::Cause, tracked::Tracked, unrecorded_ends},
    },
};

pub(in crate::tracker) fn shut_down(core: &Arc<Core>) -> Result<Report> {
    if !core.instance.close() {
        return Ok(Report::default());
    }
    stop_monitor(core);
    // Spawns in progress finish first; none starts after this.
    core.instance.await_spawns();
    // A program that has ended by itself is not ended by the shutdown, since its job may keep its
    // strays.
    settle::settle_waiting(core);
    settle::settle(core, &settle::dead_among(core, core.registry.all().into_iter()));
    let (survivors, mine): (Vec<Arc<Tracked>>, Vec<Arc<Tracked>>) =
        core.registry.all().into_iter().partition(|entry| entry.root.limits.survive);
    let cause =
        Cause { reason: EndReason::Shutdown, leak: None, rule: RuleKey::OwnerShutDown.into() };
    let report = settle::end_entries(core, &cause, &mine, &EndPlan::new());
    for entry in survivors {
        release::untrack(core, entry.root.row);
    }
    core.threads.join();
    // Settle what the monitor was handling when it was asked to stop.
    settle::settle_waiting(core);
    settle::settle_claimed(core, &mine);
    missed_members::end_missed_members(core);
    keeper_departure::dismiss_departing(core);
    release::log_lost_statuses(core);
    core.store.be_patient_once();
    if let Some(why) = flush::flush_all(core) {
        unrecorded_ends::save_unrecorded_ends(&core.store, &core.pending, core.instance.id, &why);
    }
    release::finish_late(core);
    adopted_zombies::reap_ended(core);
    adopted_zombies::reap_adopted(core);
    core.cgroups.close();
    let removed = core.export.finish();
    let stopped = core.store.stop_instance(core.instance.id, StopHow::Clean, Millis::now());
    core.instance.release_lock(&core.store, stopped.is_ok());
    if let Err(error) = removed {
        tracing::warn!("failed to remove the export: {error}");
    }
    stopped.map(|_| report)
}

fn stop_monitor(core: &Core) {
    core.passes.set_monitoring(false);
    core.registry.deaths.wake();
    core.memory_watch.wake();
    core.fork_listener.wake();
}
