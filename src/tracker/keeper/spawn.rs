//! A spawn with the gate relayed through a keeper.
//!
//! The keeper's child is at the keeper's gate: we hear who it is, commit the row, and answer. What the row holds is the program's identity; of the keeper it says no more than that there is one.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        registrar::Admitted,
        shared::Shared,
        spawn::{Request, describe},
    },
    Kept,
};
use crate::{
    error::Result,
    os::{
        keeper::{Asked, Binary, Link, Terms},
        spawn::{Command, Refusal, Spawned},
    },
    record::Containment,
};

/// A keeper whose child has not become a program goes at once.
const REFUSED_LIMIT: Duration = Duration::from_secs(5);

/// Starts a program under a keeper of its own.
pub(in super::super) fn spawn_kept(
    shared: &Arc<Shared>,
    binary: &Binary,
    command: Command,
    request: &Request,
    protected: &[String],
) -> Result<(Spawned<Admitted>, Kept), Refusal<Admitted>> {
    command.check()?;
    let terms = Terms {
        token: request.token,
        grace: request.limits.grace,
        uid: shared.observer.uid,
        lock_prefix: shared.lock_prefix(),
        protected: shared.options.protected.iter().chain(protected).cloned().collect(),
    };
    let link = binary.start(terms.token)?;
    match relay(shared, &link, request, command, terms) {
        Ok(spawned) => Ok((spawned, Kept::new(link))),
        Err(refusal) => {
            // Nothing runs below it, or what does shall not.
            if let Some(link) = link.dismiss(REFUSED_LIMIT) {
                link.kill();
            }
            Err(refusal)
        }
    }
}

fn relay(
    shared: &Arc<Shared>,
    link: &Link,
    request: &Request,
    command: Command,
    terms: Terms,
) -> Result<Spawned<Admitted>, Refusal<Admitted>> {
    let Asked { program, pid, pidfd, pipes } = link.ask(command, terms)?;
    let pidfd = Arc::new(pidfd);
    let described = describe(shared, request, pid, &pidfd, Containment::Keeper);
    let admitted = match described.and_then(|new| shared.registrar.admit(shared, new, None)) {
        Ok(admitted) => admitted,
        Err(error) => {
            // Should this fail, the keeper is gone, and the child with it.
            let _ = link.decide(false, &program);
            return Err(error.into());
        }
    };
    match link.decide(true, &program) {
        Ok(()) => Ok(Spawned { pid, pidfd, committed: admitted, pipes }),
        Err(error) => Err(Refusal { committed: Some(admitted), step: 0, error }),
    }
}

impl Shared {
    /// What the paths of the lock files of this ledger's instances begin with.
    fn lock_prefix(&self) -> std::path::PathBuf {
        let name = self.store.path().file_name().unwrap_or_default().to_string_lossy();
        self.store.path().with_file_name(format!("{name}-instance-"))
    }
}
