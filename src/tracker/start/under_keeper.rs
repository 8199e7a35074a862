//! Spawns a program under a keeper, which relays the gate.
//!
//! The keeper's child waits at the keeper's gate: the keeper reports its PID, we commit the row,
//! and answer. The row contains the identity of the program and that of the keeper, by which other
//! instances find the processes below it.

use std::{sync::Arc, time::Duration};

use super::spec::SpawnSpec;
use crate::{
    error::{Error, Kind, Result},
    model::Containment,
    sys::{
        keeper::{Binary, KeeperClient, Params, Reply},
        spawn::{Command, Refusal, Spawned},
    },
    tracker::{
        core::Core,
        runtime::{group_commit::Committed, keeper_handle::KeeperHandle},
    },
};

/// Time limit for the exit of a keeper whose child did not become a program; it exits at once.
const REFUSED_LIMIT: Duration = Duration::from_secs(5);

/// Starts a program under a new keeper.
pub(super) fn spawn(
    core: &Core,
    binary: &Binary,
    command: Command,
    spec: &SpawnSpec,
) -> Result<(Spawned<Committed>, KeeperHandle), Refusal<Committed>> {
    command.check()?;
    let params = Params {
        token: spec.token,
        grace: spec.limits.grace,
        end_plan: spec.end_plan.clone(),
        uid: core.instance.observer.uid,
        arguments: spec.record_arguments,
        ledger: core.store.path().to_owned(),
        protected: core
            .options
            .protected
            .iter()
            .chain(spec.strays.protected.iter())
            .map(Into::into)
            .collect(),
    };
    let client = binary.start()?;
    match relay(core, &client, spec, command, params) {
        Ok(spawned) => Ok((spawned, KeeperHandle::new(client))),
        Err(refusal) => {
            // Nothing is, or must be, running below it.
            if let Some(client) = client.dismiss(REFUSED_LIMIT) {
                client.kill();
            }
            Err(refusal)
        }
    }
}

fn relay(
    core: &Core,
    client: &KeeperClient,
    spec: &SpawnSpec,
    command: Command,
    params: Params,
) -> Result<Spawned<Committed>, Refusal<Committed>> {
    let Reply { program, pid, pidfd, pipes } = client.request_child(command, params)?;
    let pidfd = Arc::new(pidfd);
    let described = spec.row(core, pid, &pidfd, Containment::Keeper);
    // Both are committed at once, so that no program has an unknown keeper.
    let described = described.and_then(|mut new| {
        let gone = || Error::new(Kind::NotStarted, "the keeper was killed before the program ran");
        let keeper = client.identify(&core.proc, core.pid_scope())?.ok_or_else(gone)?;
        new.spec.keeper = Some(keeper);
        Ok(new)
    });
    let committed = match described.and_then(|new| core.group_commit.commit(new, None)) {
        Ok(committed) => committed,
        Err(error) => {
            // If this fails, the keeper is gone, and the child with it.
            let _ = client.decide(false, &program);
            return Err(error.into());
        }
    };
    match client.decide(true, &program) {
        Ok(()) => Ok(Spawned { pid, pidfd, committed, pipes }),
        Err(error) => Err(Refusal { committed: Some(committed), step: 0, error }),
    }
}
