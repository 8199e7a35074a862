//! Which keeper an instance uses, and for which programs.

use std::time::Duration;

use crate::{
    error::{Error, Kind, Result},
    model::ContainmentMode,
    sys::keeper::Binary,
    tracker::runtime::shared::Shared,
};

/// A keeper that has said its hello and hears no more goes at once.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Starts it once, to read its version.
pub(in crate::tracker) fn try_keeper(binary: &Binary) -> Result<()> {
    let link = binary.start()?;
    if let Some(link) = link.dismiss(PROBE_LIMIT) {
        link.kill();
    }
    tracing::debug!("the keeper is `{}`", binary.path().display());
    Ok(())
}

impl Shared {
    /// Opens the keeper, the one that was named or the one that is found. Where nothing less will do, it is tried too.
    pub(in crate::tracker) fn find_keeper(&self) -> Result<()> {
        let must = match self.containment_mode()? {
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
                    "no `procledger-keeper` is beside this program or on PATH: name one, or ask for `auto`",
                ));
            }
            Ok(binary) => {
                let _ = self.keeper.set(binary);
            }
            Err(error) if must => return Err(error),
            // What somebody has named shall be used; what was only found need not.
            Err(error) if named.is_some() => tracing::warn!("{error}; no keeper is used"),
            Err(error) => tracing::debug!("{error}; no keeper is used"),
        }
        if must && let Some(Some(binary)) = self.keeper.get() {
            try_keeper(binary)?;
            let _ = self.keeper_fits.set(true);
        }
        Ok(())
    }

    /// The keeper for a program; `None` where it gets a session alone: where there is no keeper; for one that shall survive
    /// its host, or that has the terminal; and beyond the share of the descriptor limit.
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
        if fits && self.containment_mode()? == ContainmentMode::Keeper {
            let what = "half of the descriptor limit is used up: no keeper can be held";
            return Err(Error::new(Kind::Busy, what));
        }
        Ok(None)
    }
}
