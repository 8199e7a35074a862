//! What every subcommand needs: the ledger's place, the profile, who asked. The only place where ledgers are opened.

use std::path::{Path, PathBuf};

use nix::unistd::getuid;
use procledger::{Builder, Ledger, Tracker};

use crate::{
    exit::Result,
    global_args::{GlobalArgs, Profile},
    ledger_path::{Environment, LedgerPath},
    logging,
    privilege::{self, Account},
};

/// The name that `Builder::ecosystem_manager` sweeps for.
use procledger::ECOSYSTEM_MANAGER_NAME;

/// What a subcommand wants of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Looks at one that may be missing or broken; answers for it itself.
    Inspect,
    /// Reads or changes one that must be there: a mistyped `--db` creates nothing.
    Existing,
    /// Creates one where there is none.
    Create,
}

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) ledger: PathBuf,
    pub(crate) export: Option<PathBuf>,
    profile: Option<Profile>,
    trust_folder: Option<PathBuf>,
    /// Who typed the command, before root became somebody else.
    asked_by: u32,
    /// The user that root became.
    pub(crate) account: Option<Account>,
}

impl Context {
    /// Checks the global options, becomes the ledger's owner and starts the log. Only while no other thread runs.
    pub(crate) fn prepare(global: &GlobalArgs, access: Access) -> Result<Self> {
        let path = LedgerPath::resolve(global.db.as_deref(), &Environment::read())?;
        let asked_by = getuid().as_raw();
        // First of all: what a user's path leads to is not looked at, and nothing made there, with root's rights.
        let account = privilege::act_as_owner(&path.file)?;
        match access {
            Access::Inspect => {}
            Access::Existing => path.demand()?,
            Access::Create if account.is_some() => path.demand_of_a_user()?,
            Access::Create => path.create_folder()?,
        }
        logging::start(global.verbose, global.log_file.as_deref())?;
        let context = Self {
            ledger: path.file,
            export: global.export.clone(),
            profile: global.profile,
            trust_folder: global.trust_folder.clone(),
            asked_by,
            account,
        };
        // One that is not there yet is created in the latest version.
        if global.migrate && context.ledger.exists() {
            Ledger::migrate_trusting(&context.ledger, context.trust_folder())?;
        }
        Ok(context)
    }

    /// A look that changes nothing.
    pub(crate) fn read(&self) -> Result<Ledger> {
        Ok(Ledger::open(&self.ledger)?)
    }

    /// An instance that owns processes: with the profile and the export. It brings an older ledger up to date.
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

    /// An instance that cleans up for others, with the profile and the export. Their ledger stays at its version: they may
    /// be of an older one, and must be able to start again.
    pub(crate) fn reaper(&self) -> Builder {
        self.owner().migrate(false)
    }

    /// An instance for one action by hand: no orphan pass, no monitor, and no export, which it would take from an owner
    /// to come or remove on leaving. The ledger stays at its version, as for a [`reaper`](Self::reaper).
    pub(crate) fn actor(&self) -> Builder {
        self.builder().migrate(false).reap_on_open(false).monitor(false)
    }

    fn builder(&self) -> Builder {
        let builder = Tracker::builder(&self.ledger);
        match self.trust_folder() {
            Some(folder) => builder.trust_folder(folder),
            None => builder,
        }
    }

    /// The folder that is vouched for, by an option. As another user none is, whatever root's environment says: an empty path.
    pub(crate) fn trust_folder(&self) -> Option<&Path> {
        if self.account.is_some() { Some(Path::new("")) } else { self.trust_folder.as_deref() }
    }

    /// The names to sweep for: those given, and the profile's.
    pub(crate) fn orphan_names(&self, given: &[String]) -> Vec<String> {
        let mut names = given.to_vec();
        if self.profile.is_some() && !names.iter().any(|name| name == ECOSYSTEM_MANAGER_NAME) {
            names.push(ECOSYSTEM_MANAGER_NAME.to_owned());
        }
        names
    }

    /// Goes into the history of what a person ended.
    pub(crate) fn asked_by(&self, command: &str) -> String {
        format!("uid {} (procledger {command})", self.asked_by)
    }
}
