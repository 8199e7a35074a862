//! `fleet init`: creates the schema, its roles and rights, or upgrades them.

use std::time::Duration;

use clap::{Args, ValueEnum};
use procledger::fleet::{Engine, Init};

use super::address::To;
use crate::{
    exit::{Exit, Result},
    output, units,
};

const DAY: Duration = Duration::from_hours(24);

/// Create the schema `fleet` in a database, with its roles and rights, or upgrade it
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  createdb fleet && procledger fleet init --to postgresql://postgres@localhost/fleet --keep 90days

The user has to be allowed to create schemas and roles, and owns the schema: `maintain`, `enroll` \
and `forget` are run as that user. Running it again changes nothing, except for --keep. It creates \
two roles: grant fleet_read to users who read the fleet, and fleet_ship to logins that ship.")]
pub(super) struct InitArgs {
    #[command(flatten)]
    to: To,
    /// Engine of the database [default: postgres]
    #[arg(long)]
    engine: Option<EngineName>,
    /// Keep history for this long [default: 90days]
    #[arg(long, value_name = "D", value_parser = days)]
    keep: Option<Duration>,
    /// Only print the SQL that creates the schema
    #[arg(long)]
    print: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Postgres,
    Citus,
    Cockroach,
}

fn days(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        keep if keep < DAY => Err("history is deleted by the day: write 1day or more".to_owned()),
        keep => Ok(keep),
    }
}

impl InitArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let mut init = Init::default();
        if let Some(engine) = self.engine {
            init = init.engine(engine.into());
        }
        if let Some(keep) = self.keep {
            init = init.keep(keep);
        }
        if self.print {
            output::print(init.sql())?;
            return Ok(Exit::DONE);
        }
        let address = self.to.address()?;
        let (before, now) = init.run(&address)?;
        let done = match before {
            0 => format!("created the schema `fleet`, version {}, in", now.version),
            before if before < now.version => {
                format!("upgraded the schema `fleet` from version {before} to {}, in", now.version)
            }
            _ => format!("the schema `fleet`, version {}, is up to date in", now.version),
        };
        output::print_line(&format!(
            "{done} {address}: fleet {}, {}, history is kept for {}",
            now.fleet.simple(),
            now.engine.as_str(),
            kept(now.keep)
        ))?;
        Ok(Exit::DONE)
    }
}

/// Formats a time as it is written for `--keep`: `90days`.
fn kept(keep: Duration) -> String {
    let day = DAY.as_secs();
    if keep.as_secs().is_multiple_of(day) {
        format!("{}days", keep.as_secs() / day)
    } else {
        humantime::format_duration(keep).to_string()
    }
}

impl From<EngineName> for Engine {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Postgres => Self::Postgres,
            EngineName::Citus => Self::Citus,
            EngineName::Cockroach => Self::Cockroach,
        }
    }
}
