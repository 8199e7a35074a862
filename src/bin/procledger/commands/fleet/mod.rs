//! `fleet`: the database of a fleet, and what all its ledgers say together. It opens no ledger.

pub(super) mod address;
mod enroll;
mod init;

use clap::{Args, Subcommand};

use crate::{
    exit::{Exit, Result},
    global_args::GlobalArgs,
    logging,
};

/// Set up and query the PostgreSQL database that ledgers of many machines are shipped to
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  procledger fleet init --to postgresql://owner@db.example/fleet
  procledger fleet enroll web-1 -o fleet.env

The address is a URL as psql(1) takes it, without a password: that is in $PGPASSWORD, in the file
$PGPASSFILE (mode 600), or in the systemd credential `pgpass`. $PROCLEDGER_FLEET is the address for
all commands. A connection that leaves the machine is encrypted, and the server's certificate is
verified: `?sslrootcert=FILE` names the certificate authority if the system does not know it.")]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Enroll(enroll::EnrollArgs),
}

impl FleetArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        global.refuse_options_of_a_ledger("fleet")?;
        logging::start(global.verbose, global.log_file.as_deref())?;
        match self.command {
            Command::Init(args) => args.run(),
            Command::Enroll(args) => args.run(),
        }
    }
}
