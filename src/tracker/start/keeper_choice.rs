//! Selects the keeper of an instance, and the programs that get one.

use std::time::Duration;

use crate::{
    error::{Error, Kind, Result},
    model::ContainmentMode,
    sys::keeper::Binary,
    tracker::core::Core,
};

/// Limit for a keeper that has completed its handshake and gets no further message: it exits at once.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Starts the keeper once, to read its version.
pub(in crate::tracker) fn try_keeper(binary: &Binary) -> Result<()> {
    let client = binary.start()?;
    if let Some(client) = client.dismiss(PROBE_LIMIT) {
        client.kill();
    }
    tracing::debug!("the keeper is `{}`", binary.path().display());
    Ok(())
}

impl Core {
    /// Opens the keeper, either the named one or the one that is found. Where the containment mode requires a keeper, it is
    /// also started once to test it.
    pub(in crate::tracker) fn find_keeper(&self) -> Result<()> {
        let must = match self.options.containment_mode()? {
            ContainmentMode::Cgroup | ContainmentMode::Session => return Ok(()),
            ContainmentMode::Auto => false,
            ContainmentMode::Keeper => true,
        };
        let named = self.options.keeper.as_deref();
        let found = named.map_or_else(Binary::found, |path| Binary::named(path).map(Some));
        match found {
            Ok(None) if must => {
                return Err(Error::new(
                    Kind::Unsupported,
                    "no `procledger-keeper` was found beside this program or on PATH: name one, or use `auto`",
                ));
            }
            Ok(binary) => {
                let _ = self.keeper.set(binary);
            }
            Err(error) if must => return Err(error),
            // A keeper that the caller has named should be used; one that was only found need not be.
            Err(error) if named.is_some() => tracing::warn!("{error}; no keeper is used"),
            Err(error) => tracing::debug!("{error}; no keeper is used"),
        }
        if must && let Some(Some(binary)) = self.keeper.get() {
            try_keeper(binary)?;
            let _ = self.keeper_fits.set(true);
        }
        Ok(())
    }

    /// Returns the keeper for a program; `None` where the program gets a session alone: where there is no keeper; for a program
    /// that is to survive its host, or that has the terminal; and beyond the share of the descriptor limit.
    pub(in crate::tracker) fn keeper_for(
        &self,
        survive: bool,
        foreground: bool,
    ) -> Result<Option<&Binary>> {
        let Some(binary) = self.keeper.get().and_then(Option::as_ref) else { return Ok(None) };
        if survive || foreground {
            return Ok(None);
        }
        let fits = *self.keeper_fits.get_or_init(|| {
            let tried = try_keeper(binary);
            tried.inspect_err(|error| tracing::warn!("{error}; no keeper is used")).is_ok()
        });
        if fits && self.can_hold_kept() {
            return Ok(Some(binary));
        }
        if fits && self.options.containment_mode()? == ContainmentMode::Keeper {
            let what = "half of the descriptor limit is used up: no keeper can be held";
            return Err(Error::new(Kind::Busy, what));
        }
        Ok(None)
    }
}
