//! `fleet enroll`: a login of its own for a host.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use procledger::fleet;
use tempfile::NamedTempFile;

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

The file is an EnvironmentFile= of systemd with mode 600. The login can add to the streams that it \
has created; it cannot read, change or delete history, including its own, and cannot see other \
hosts. If the host already has a login, it gets a new password, and the former one becomes \
invalid.")]
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
        let address = self.to.address()?;
        // A file that cannot be written must not cost the host its password. It is never readable
        // by others, not even for a moment, whatever was there before.
        let file = self.output.as_deref().map(|file| create_beside(file).map(|new| (file, new)));
        let file = file.transpose()?;
        let made = fleet::enroll(&address, &self.host).map_err(|error| {
            let exit = if error.is_invalid_input() { Exit::USAGE } else { Exit::FAILED };
            Failure::from(error).with_exit(exit)
        })?;
        let text = format!(
            "# The fleet's database for the login {}. Mode 600.\nPROCLEDGER_FLEET='{}'\nPGPASSWORD={}\n",
            made.login, made.url, made.password
        );
        if made.existed {
            output::to_stderr(&format!("{}: a new password, the former one is void", made.login));
        }
        match file {
            None => output::print(text).map(drop)?,
            Some((file, mut new)) => {
                let written = new
                    .write_all(text.as_bytes())
                    .and_then(|()| new.persist(file).map_err(|error| error.error));
                written.map_err(|error| not_written(file, &error))?;
            }
        }
        Ok(Exit::DONE)
    }
}

fn create_beside(file: &Path) -> Result<NamedTempFile> {
    if file.is_dir() {
        return Err(Failure::new(format!("failed to write {}: it is a folder", file.display())));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(".".as_ref());
    fs::metadata(folder)
        .and_then(|_| NamedTempFile::new_in(folder))
        .map_err(|error| not_written(file, &error))
}

fn not_written(file: &Path, error: &io::Error) -> Failure {
    Failure::because(format!("failed to write {}", file.display()), error)
}
