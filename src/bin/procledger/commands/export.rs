//! `export`: writes the running tasks as the JSON file that former processors kept.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::escape_json,
};

/// Write the running tasks as JSON: task, PID and start time of each
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger export /tmp/running.json

An array of {task_id, process_id, start_time (RFC 3339)}. A file is replaced atomically, with mode \
0644.")]
pub(crate) struct ExportArgs {
    /// File to replace; `-` is stdout
    #[arg(default_value = "-")]
    file: PathBuf,
}

impl ExportArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let ledger = context.read()?;
        if self.file == Path::new("-") {
            let json = ledger.export_json()?;
            output::print(escape_json(String::from_utf8_lossy(&json).into_owned()))?;
        } else {
            ledger.export_to(&self.file)?;
        }
        Ok(Exit::DONE)
    }
}
