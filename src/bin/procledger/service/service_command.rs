//! What the workers of a supervisor do with their ledgers.

use super::isolation::ENVIRONMENT;

/// A subcommand whose workers each serve one ledger.
#[derive(Debug)]
pub(crate) struct ServiceCommand {
    pub(super) subcommand: &'static str,
    /// As in "watching 3 of 4 ledgers".
    pub(super) doing: &'static str,
    /// As in "it is watched".
    pub(super) done: &'static str,
    /// The variables of the worker's environment, besides [`ENVIRONMENT`].
    environment: &'static [&'static str],
}

pub(crate) const WATCH: ServiceCommand =
    ServiceCommand { subcommand: "watch", doing: "watching", done: "watched", environment: &[] };

/// A worker reads the password while it is still the supervisor's own user. Only root can read the
/// environment of one that has become another user.
pub(crate) const SHIP: ServiceCommand = ServiceCommand {
    subcommand: "ship",
    doing: "shipping",
    done: "shipped",
    environment: &["PGPASSWORD", "PGPASSFILE", "CREDENTIALS_DIRECTORY"],
};

impl ServiceCommand {
    pub(super) fn environment(&self) -> impl Iterator<Item = &'static str> {
        ENVIRONMENT.into_iter().chain(self.environment.iter().copied())
    }
}
