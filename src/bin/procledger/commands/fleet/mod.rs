//! `fleet`: the database of a fleet, and the contents of all its ledgers together. It opens no
//! ledger.

pub(super) mod address;
mod check;
mod enroll;
mod forget;
mod init;
mod listing;
mod maintain;
mod report;

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
  procledger fleet report --since 7days --by host
  procledger fleet check --max-silence 10min

The address is a URL as psql(1) takes it, without a password: that is in $PGPASSWORD, in the file \
$PGPASSFILE (mode 600), or in the systemd credential `pgpass`. $PROCLEDGER_FLEET is the address \
for all commands. A connection that leaves the machine is encrypted, and the server's certificate \
is verified: `?sslrootcert=FILE` names the certificate authority if the system does not know it.")]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::InitArgs),
    Enroll(enroll::EnrollArgs),
    Ps(listing::PsArgs),
    Hosts(listing::HostsArgs),
    Leaks(listing::LeaksArgs),
    Report(report::ReportArgs),
    Check(check::CheckArgs),
    Metrics(check::MetricsArgs),
    Maintain(maintain::MaintainArgs),
    Forget(forget::ForgetArgs),
}

impl FleetArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        global.refuse_options_of_a_ledger("fleet")?;
        logging::start(global.verbose, global.log_file.as_deref())?;
        match self.command {
            Command::Init(args) => args.run(),
            Command::Enroll(args) => args.run(),
            Command::Ps(args) => args.run(),
            Command::Hosts(args) => args.run(),
            Command::Leaks(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Metrics(args) => args.run(),
            Command::Maintain(args) => args.run(),
            Command::Forget(args) => args.run(),
        }
    }
}
