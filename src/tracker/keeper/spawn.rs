//! A spawn with the gate relayed through a keeper.
//!
//! The calling thread is not suspended here: it reads who the child at the gate is, commits the row, and answers. What the
//! row holds is the program's identity; of the keeper it says no more than that there is one.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        shared::Shared,
        spawn::{Request, describe},
    },
    Kept,
};
use crate::{
    error::{Error, Kind, Result},
    os::{
        keeper::{Asked, Binary, Link, Terms},
        spawn::{Applicant, Command, Refusal, Spawned},
    },
    record::{Containment, NewProcess, ProcessId},
};

/// A keeper whose child has not become a program goes at once.
const REFUSED_LIMIT: Duration = Duration::from_secs(5);

/// Starts a program under a keeper of its own.
pub(in super::super) fn spawn_kept(
    shared: &Arc<Shared>,
    binary: &Binary,
    command: Command,
    request: Request,
    protected: &[String],
) -> Result<(Spawned, NewProcess, Kept), Refusal> {
    command.check()?;
    let terms = Terms {
        token: request.token,
        grace: request.limits.grace,
        uid: shared.observer.uid,
        lock_prefix: shared.lock_prefix(),
        protected: shared.options.protected.iter().chain(protected).cloned().collect(),
    };
    let applicant = Applicant::new(request);
    let link = binary.start(terms.token, &shared.doorbell, &applicant)?;
    match relay(shared, &link, &applicant.payload, command, terms) {
        Ok((spawned, new)) => Ok((spawned, new, Kept::new(link))),
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
) -> Result<(Spawned, NewProcess), Refusal> {
    let Asked { program, pid, pidfd, pipes } = link.ask(command, terms)?;
    let pidfd = Arc::new(pidfd);
    let admitted = describe(shared, request, Some((pid, Arc::clone(&pidfd))), Containment::Keeper)
        .and_then(|new| Ok((admit(shared, &new)?, new)));
    let (row, new) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            // Should this fail, the keeper is gone, and the child with it.
            let _ = link.decide(false, &program);
            return Err(error.into());
        }
    };
    match link.decide(true, &program) {
        Ok(()) => Ok((Spawned { pid, pidfd, row, pipes }, new)),
        Err(error) => Err(Refusal { row: Some(row), error }),
    }
}

fn admit(shared: &Shared, new: &NewProcess) -> Result<ProcessId> {
    let rows = shared.store.admit(&shared.place(), std::slice::from_ref(new));
    match rows {
        Ok(rows) => rows
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(Error::new(Kind::Other, "the ledger took no row"))),
        Err(error) => {
            Err(Error::new(error.kind(), format!("the program was not started: {error}")))
        }
    }
}

impl Shared {
    /// What the paths of the lock files of this ledger's instances begin with.
    fn lock_prefix(&self) -> std::path::PathBuf {
        let name = self.store.path().file_name().unwrap_or_default().to_string_lossy();
        self.store.path().with_file_name(format!("{name}-instance-"))
    }
}
