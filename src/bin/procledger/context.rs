//! What every subcommand needs: the ledger's path, the profile, and which user requested it.
//! Ledgers are opened only here.

use std::path::{Path, PathBuf};

use nix::unistd::getuid;
use procledger::{Builder, Ledger, Tracker, paths::refuse_as_output};

use crate::{
    exit::Result,
    global_args::{GlobalArgs, Profile},
    ledger_path::{Environment, LedgerPath},
    logging,
    privilege::{self, Account},
};

/// The name that `Builder::ecosystem_manager` matches.
use procledger::ECOSYSTEM_MANAGER_NAME;

/// How a subcommand accesses a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Inspects a ledger that may be missing or broken; the subcommand reports that itself.
    Inspect,
    /// Reads or changes a ledger that must exist: a mistyped `--db` creates nothing.
    Existing,
    /// Creates the ledger if it does not exist.
    Create,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) ledger: PathBuf,
    pub(crate) export: Option<PathBuf>,
    profile: Option<Profile>,
    pub(crate) verbose: bool,
    trust_folder: Option<PathBuf>,
    /// The uid that ran the command, before root became another user.
    asked_by: u32,
    /// The user that root became.
    pub(crate) account: Option<Account>,
}

impl Context {
    /// Checks the global options, becomes the ledger's owner and starts the log. Must be called
    /// while no other thread runs.
    pub(crate) fn prepare(global: &GlobalArgs, access: Access) -> Result<Self> {
        let path = LedgerPath::resolve(global.db.as_deref(), &Environment::read())?;
        let asked_by = getuid().as_raw();
        // First of all, so that nothing behind a user's path is accessed or created with root's
        // privileges.
        let account = privilege::act_as_owner(&path.file)?;
        match access {
            Access::Inspect => {}
            Access::Existing => path.demand()?,
            Access::Create if account.is_some() => path.demand_of_a_user()?,
            Access::Create => path.create_folder()?,
        }
        if let Some(file) = &global.log_file {
            refuse_as_output(&path.file, file, "the log")?;
        }
        if let Some(file) = &global.export {
            refuse_as_output(&path.file, file, "the export")?;
        }
        // When acting as another user, no folder is trusted.
        let trust_folder = if account.is_some() { None } else { global.trust_folder()? };
        logging::start(global.verbose, global.log_file.as_deref())?;
        let context = Self {
            ledger: path.file,
            export: global.export.clone(),
            profile: global.profile,
            verbose: global.verbose > 0,
            trust_folder,
            asked_by,
            account,
        };
        // A ledger that does not exist yet is created in the latest version.
        if global.migrate && context.ledger.exists() {
            Ledger::migrate_trusting(&context.ledger, context.trust_folder())?;
        }
        Ok(context)
    }

    /// Returns whether there is a file in place of the ledger, whether it can be opened or not.
    pub(crate) fn has_ledger(&self) -> bool {
        !matches!(self.ledger.try_exists(), Ok(false))
    }

    /// Fails with one clear line if there is no ledger.
    pub(crate) fn demand_ledger(&self) -> Result<()> {
        LedgerPath::named(&self.ledger).demand()
    }

    /// Opens the ledger for reading.
    pub(crate) fn read(&self) -> Result<Ledger> {
        Ok(Ledger::open(&self.ledger)?)
    }

    /// Returns a builder for an instance that owns processes, with the profile and the export. It
    /// migrates an older ledger.
    pub(crate) fn owner(&self) -> Builder {
        let mut builder = self.builder();
        if self.profile == Some(Profile::EcosystemManager) {
            builder = builder.ecosystem_manager();
        }
        match &self.export {
            Some(export) => builder.export(export),
            None => builder,
        }
    }

    /// Returns a builder for an instance that cleans up for others, with the profile and the
    /// export. It does not migrate their ledger: they may be of an older version, and must be able
    /// to start again.
    pub(crate) fn reaper(&self) -> Builder {
        self.owner().migrate(false)
    }

    /// Returns a builder for an instance that performs one action of a person: no orphan pass, no
    /// monitor, and no export, which it would take away from a future owner or remove at its end.
    /// It does not migrate the ledger, like a [`reaper`](Self::reaper).
    pub(crate) fn actor(&self) -> Builder {
        self.builder().readers(0).migrate(false).reap_on_open(false).monitor(false)
    }

    fn builder(&self) -> Builder {
        let builder = Tracker::builder(&self.ledger);
        match self.trust_folder() {
            Some(folder) => builder.trust_folder(folder),
            None => builder,
        }
    }

    /// Returns the folder that `--trust-folder` names. As another user none is trusted, whatever
    /// root's environment says, so it returns an empty path.
    pub(crate) fn trust_folder(&self) -> Option<&Path> {
        if self.account.is_some() { Some(Path::new("")) } else { self.trust_folder.as_deref() }
    }

    /// Returns the names to match: those given, and the profile's.
    pub(crate) fn orphan_names(&self, given: &[String]) -> Vec<String> {
        let mut names = given.to_vec();
        if self.profile.is_some() && !names.iter().any(|name| name == ECOSYSTEM_MANAGER_NAME) {
            names.push(ECOSYSTEM_MANAGER_NAME.to_owned());
        }
        names
    }

    /// Returns the requester, as recorded in the history of processes that a person ended.
    pub(crate) fn asked_by(&self, command: &str) -> String {
        format!("uid {} (procledger {command})", self.asked_by)
    }
}
