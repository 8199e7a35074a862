//! The keeper executable that an instance uses, and the programs that get a keeper.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use uuid::Uuid;

use super::{lock::lock, shared_list::SharedList, tracked::Tracked};
use crate::{
    error::{Error, Kind, Result},
    model::ContainmentMode,
    sys::keeper::{Binary, KeeperClient},
    tracker::options::Options,
};

/// Time limit for the exit of a keeper that gets no message after its handshake; it exits at once.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The keeper executable that an instance uses, and the keepers of ended trees that must still be
/// handled.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Keepers {
    /// Set when the ledger is opened; `None` if there is no keeper.
    binary: OnceLock<Option<Binary>>,
    /// Whether the keeper has reported that it has our version. Set by the first spawn that needs
    /// one.
    fits: OnceLock<bool>,
    /// Keepers of trees that another instance is ending. Extended by the thread that releases a
    /// tree; taken by each of these threads, by health passes and by the shutdown, which put back
    /// those that must stay.
    pub(in crate::tracker) departing: SharedList<(Arc<Tracked>, KeeperClient)>,
    /// Tokens of the trees whose keepers' records have been read. The files are removed once the
    /// ends are committed. Written by the thread that ends the tree, read by orphan passes.
    read_end_logs: Mutex<HashSet<Uuid>>,
}

impl Keepers {
    /// Opens the keeper, either the configured one or one that is found. If the containment mode
    /// requires a keeper, it is also started once as a test.
    pub(in crate::tracker) fn find(&self, options: &Options) -> Result<()> {
        let must = match options.containment_mode()? {
            ContainmentMode::Cgroup | ContainmentMode::Session => return Ok(()),
            ContainmentMode::Auto => false,
            ContainmentMode::Keeper => true,
        };
        let named = options.keeper.as_deref();
        let found = named.map_or_else(Binary::found, |path| Binary::named(path).map(Some));
        match found {
            Ok(None) if must => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "no `procledger-keeper` was found beside this program or on PATH: configure one, or use `auto`",
                ));
            }
            Ok(binary) => {
                let _ = self.binary.set(binary);
            }
            Err(error) if must => return Err(error),
            // A configured keeper should be used, so this is a warning; a keeper that was only
            // found need not be used.
            Err(error) if named.is_some() => tracing::warn!("{error}; no keeper is used"),
            Err(error) => tracing::debug!("{error}; no keeper is used"),
        }
        if must && let Some(Some(binary)) = self.binary.get() {
            try_keeper(binary)?;
            let _ = self.fits.set(true);
        }
        Ok(())
    }

    /// Returns the keeper for a program that is to get one. `None` if the program gets only a
    /// session: because there is no keeper, or because half of the descriptor limit is used up
    /// (`has_room` is false).
    pub(in crate::tracker) fn get(
        &self,
        mode: ContainmentMode,
        has_room: bool,
    ) -> Result<Option<&Binary>> {
        let Some(binary) = self.binary.get().and_then(Option::as_ref) else { return Ok(None) };
        let fits = *self.fits.get_or_init(|| {
            let tried = try_keeper(binary);
            tried.inspect_err(|error| tracing::warn!("{error}; no keeper is used")).is_ok()
        });
        if fits && has_room {
            return Ok(Some(binary));
        }
        if fits && mode == ContainmentMode::Keeper {
            let what = "half of the descriptor limit is used up: no keeper can be held";
            return Err(Error::new(Kind::Busy, what));
        }
        Ok(None)
    }

    /// Notes that the record of a tree's keeper has been read.
    pub(in crate::tracker) fn note_read(&self, token: Uuid) {
        lock(&self.read_end_logs).insert(token);
    }

    /// Returns whether the record of a tree's keeper has been read, and forgets that.
    pub(in crate::tracker) fn take_read(&self, token: &Uuid) -> bool {
        lock(&self.read_end_logs).remove(token)
    }
}

/// Starts the keeper once, to read its version.
pub(in crate::tracker) fn try_keeper(binary: &Binary) -> Result<()> {
    let client = binary.start()?;
    if let Some(client) = client.dismiss(PROBE_LIMIT) {
        client.kill();
    }
    tracing::debug!("the keeper is `{}`", binary.path().display());
    Ok(())
}
