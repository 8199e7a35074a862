//! The address of the fleet's database on the command line.

use clap::Args;
use procledger::fleet::{Address, Fleet};

use crate::exit::{Failure, Result};

/// `Name, field: "what for";` The option has the name of the field.
macro_rules! options_with_an_address {
    ($($name:ident, $option:ident: $what_for:literal;)+) => { $(
        #[doc = $what_for]
        #[derive(Debug, Args)]
        pub(crate) struct $name {
            #[arg(
                long,
                value_name = "URL",
                env = "PROCLEDGER_FLEET",
                hide_env_values = true,
                help = "Database, as postgresql://USER@HOST/DATABASE"
            )]
            pub(crate) $option: Option<String>,
            /// Accept any certificate of the server: the connection is encrypted, but an attacker
            /// in the middle is not detected
            #[arg(long)]
            pub(crate) insecure_tls: bool,
        }

        impl $name {
            /// Returns the address, or fails with a usage error.
            pub(crate) fn address(&self) -> Result<Address> {
                parse(self.$option.as_deref(), self.insecure_tls, stringify!($option))
            }
        }
    )+ };
}

options_with_an_address! {
    To, to: "The address to change or ship to.";
    From, from: "The address to read from.";
}

impl From {
    /// Connects, or fails with a usage error.
    pub(super) fn open(&self) -> Result<Fleet> {
        Ok(Fleet::open(&self.address()?)?)
    }
}

fn parse(url: Option<&str>, insecure_tls: bool, option: &str) -> Result<Address> {
    let url = url.ok_or_else(|| {
        Failure::usage(format!(
            "the fleet's database is missing: --{option} postgresql://USER@HOST/DATABASE, or $PROCLEDGER_FLEET"
        ))
    })?;
    let parsed = if insecure_tls { Address::parse_unverified(url) } else { Address::parse(url) };
    parsed.map_err(|error| {
        let failure: Failure = error.into();
        Failure::usage(failure.message)
    })
}
