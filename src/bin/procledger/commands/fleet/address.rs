//! The address of the fleet's database on the command line.

use clap::Args;
use procledger::fleet::{Address, Fleet};

use crate::exit::{Failure, Result};

/// The address to change or ship to.
#[derive(Debug, Args)]
pub(crate) struct To {
    #[arg(
        long,
        value_name = "URL",
        env = "PROCLEDGER_FLEET",
        hide_env_values = true,
        help = "Database, as postgresql://USER@HOST/DATABASE"
    )]
    pub(crate) to: Option<String>,
    /// Accept any certificate of the server: encrypted, but an attacker in between is not noticed
    #[arg(long)]
    pub(crate) insecure_tls: bool,
}

impl To {
    /// Returns the address, if one was given.
    pub(crate) fn optional(&self) -> Result<Option<Address>> {
        self.to.as_deref().map(|url| parse(url, self.insecure_tls)).transpose()
    }

    /// Returns the address, or fails with a usage error.
    pub(crate) fn address(&self) -> Result<Address> {
        self.optional()?.ok_or_else(|| missing("--to"))
    }
}

/// The address to read from.
#[derive(Debug, Args)]
pub(super) struct From {
    #[arg(
        long,
        value_name = "URL",
        env = "PROCLEDGER_FLEET",
        hide_env_values = true,
        help = "Database, as postgresql://USER@HOST/DATABASE"
    )]
    from: Option<String>,
    /// Accept any certificate of the server: encrypted, but an attacker in between is not noticed
    #[arg(long)]
    insecure_tls: bool,
}

impl From {
    /// Connects, or fails with a usage error.
    pub(super) fn open(&self) -> Result<Fleet> {
        let url = self.from.as_deref().ok_or_else(|| missing("--from"))?;
        Ok(Fleet::open(&parse(url, self.insecure_tls)?)?)
    }
}

fn missing(option: &str) -> Failure {
    Failure::usage(format!(
        "the fleet's database is missing: {option} postgresql://USER@HOST/DATABASE, or $PROCLEDGER_FLEET"
    ))
}

fn parse(url: &str, insecure_tls: bool) -> Result<Address> {
    let parsed = if insecure_tls { Address::parse_unverified(url) } else { Address::parse(url) };
    parsed.map_err(|error| {
        let failure: Failure = error.into();
        Failure::usage(failure.message)
    })
}
