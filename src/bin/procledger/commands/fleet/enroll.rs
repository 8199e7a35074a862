//! `fleet enroll`: a login of its own for a host.

use std::{io::Write, path::PathBuf};

use clap::Args;
use procledger::fleet;

use super::address::To;
use crate::{
    exit::{Exit, Failure, Result},
    output,
};

/// Create a login for a host, and the file with its address and password
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger fleet enroll web-1 -o fleet.env && scp -p fleet.env root@web-1:/etc/procledger/fleet.env

The file is an EnvironmentFile= of systemd with mode 600. The login can add to the streams that it has
created; it cannot read, change or delete history, its own included, and cannot see other hosts. For a
host that has a login, a new password is made, and the former one is void.")]
pub(super) struct EnrollArgs {
    /// Name of the host
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    to: To,
    /// Write to this file instead of stdout (mode 600)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl EnrollArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let made = fleet::enroll(&self.to.address()?, &self.host)?;
        let text = format!(
            "# The fleet's database for the login {}. Mode 600.\nPROCLEDGER_FLEET='{}'\nPGPASSWORD={}\n",
            made.login, made.url, made.password
        );
        if made.existed {
            output::to_stderr(&format!("{}: a new password, the former one is void", made.login));
        }
        match &self.output {
            None => output::print(text).map(drop)?,
            Some(file) => {
                // Never readable by others, not even for a moment, whatever was there before.
                let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
                let written = tempfile::NamedTempFile::new_in(folder.unwrap_or(".".as_ref()))
                    .and_then(|mut new| {
                        new.write_all(text.as_bytes())?;
                        new.persist(file).map_err(|error| error.error)
                    });
                written.map_err(|error| {
                    let what = format!("failed to write {}", file.display());
                    Failure::because(what, &error)
                })?;
            }
        }
        Ok(Exit::DONE)
    }
}
