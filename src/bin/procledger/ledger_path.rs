//! The path of the ledger, and its defaults.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::exit::{Failure, Result};

/// The environment variables that determine it. An empty value counts as unset.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) procledger_db: Option<OsString>,
    pub(crate) xdg_state_home: Option<OsString>,
    pub(crate) home: Option<OsString>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        Self {
            procledger_db: std::env::var_os("PROCLEDGER_DB"),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
        }
    }
}

/// The path of a ledger.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LedgerPath {
    pub(crate) file: PathBuf,
    /// The path is the default, so its folder may be created.
    pub(crate) is_default: bool,
    /// The home folder in which a default path lies.
    home: Option<PathBuf>,
}

impl LedgerPath {
    /// Returns `--db`, else `$PROCLEDGER_DB`, else `$XDG_STATE_HOME/procledger/ledger.db`, else the
    /// same below `$HOME/.local/state`.
    pub(crate) fn resolve(db: Option<&Path>, environment: &Environment) -> Result<Self> {
        let named = db.or_else(|| set(environment.procledger_db.as_ref()).map(Path::new));
        if let Some(db) = named {
            return Ok(Self::named(db));
        }
        // The XDG base directory specification: a relative path is invalid and to be ignored.
        let absolute =
            |value: &OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
        let home = set(environment.home.as_ref()).and_then(absolute);
        let state = set(environment.xdg_state_home.as_ref())
            .and_then(absolute)
            .or_else(|| Some(home.as_ref()?.join(".local/state")));
        let Some(state) = state else {
            return Err(Failure::new(
                "no path for the ledger: none of HOME, XDG_STATE_HOME and PROCLEDGER_DB is set to one (those of \
                 HOME and XDG_STATE_HOME are absolute); name one with --db FILE",
            ));
        };
        let file = state.join("procledger/ledger.db");
        let home = home.filter(|home| file.starts_with(home));
        Ok(Self { file, is_default: true, home })
    }

    /// Returns the path that a person named.
    pub(crate) fn named(file: &Path) -> Self {
        Self { file: file.to_owned(), is_default: false, home: None }
    }

    /// Fails with one clear line if there is no ledger.
    pub(crate) fn demand(&self) -> Result<()> {
        match self.file.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::new(format!(
                "no ledger at {} yet: the first `procledger run` creates it; name another one with --db FILE",
                self.file.display()
            ))),
            Err(error) => {
                Err(Failure::because(format!("failed to access {}", self.file.display()), &error))
            }
        }
    }

    /// Fails if root has become the user that owns the path and there is no ledger: none is created
    /// on that user's behalf.
    pub(crate) fn demand_of_a_user(&self) -> Result<()> {
        if self.file.try_exists().is_ok_and(|there| there) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{} would lie in a folder of uid {}: run as that user, or name another ledger with --db FILE",
            self.file.display(),
            nix::unistd::geteuid()
        )))
    }

    /// Creates the default folder, accessible to its owner only; a folder named by the user is not
    /// created.
    pub(crate) fn create_folder(&self) -> Result<()> {
        let Some(folder) = self.file.parent().filter(|_| self.is_default) else { return Ok(()) };
        if folder.is_dir() {
            return Ok(());
        }
        self.refuse_missing_home()?;
        self.refuse_another_users_home(folder)?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Failure::because(
                format!("failed to create {} (name another path with --db FILE)", folder.display()),
                &error,
            )
        })
    }

    /// Fails if there is no home folder to create the default folder in. What the XDG base
    /// directory specification has a program create lies in the home of a user, and the home itself
    /// is for the system to create: a mistyped one, or one that is not mounted yet, would hide the
    /// ledger that is there otherwise.
    fn refuse_missing_home(&self) -> Result<()> {
        match &self.home {
            Some(home) if !home.is_dir() => Err(Failure::new(format!(
                "the home folder {} (HOME) does not exist: correct HOME, or name a ledger with --db FILE",
                home.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Fails if the folder belongs to another user: `sudo` may keep HOME, and folders of root in it
    /// would lock its owner out.
    fn refuse_another_users_home(&self, folder: &Path) -> Result<()> {
        let nearest = folder.ancestors().find_map(|place| fs::metadata(place).ok());
        match nearest.map(|place| place.uid()) {
            Some(owner) if owner != nix::unistd::geteuid().as_raw() => Err(Failure::new(format!(
                "{} would lie in a folder of uid {owner}: run as that user, or name another ledger with --db FILE",
                self.file.display()
            ))),
            _ => Ok(()),
        }
    }
}

fn set(value: Option<&OsString>) -> Option<&OsString> {
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(db: Option<&str>, values: [&str; 3]) -> Result<(String, bool)> {
        let value = |index: usize| Some(OsString::from(values[index]));
        let environment =
            Environment { procledger_db: value(0), xdg_state_home: value(1), home: value(2) };
        let path = LedgerPath::resolve(db.map(Path::new), &environment)?;
        Ok((path.file.display().to_string(), path.is_default))
    }

    #[test]
    fn the_first_source_that_is_set_is_used() {
        let all = ["/a/env.db", "/state", "/home/me"];
        let file = |path: &str, is_default| (path.to_owned(), is_default);
        assert_eq!(resolve(Some("x.db"), all).expect("named"), file("x.db", false));
        assert_eq!(resolve(None, all).expect("env"), file("/a/env.db", false));
        let default = resolve(None, ["", "/state", "/home/me"]).expect("state");
        assert_eq!(default, file("/state/procledger/ledger.db", true));
        let home = resolve(None, ["", "", "/home/me"]).expect("home");
        assert_eq!(home, file("/home/me/.local/state/procledger/ledger.db", true));
    }

    #[test]
    fn a_relative_state_folder_is_ignored() {
        let home = resolve(None, ["", "state", "/home/me"]).expect("home");
        assert_eq!(home.0, "/home/me/.local/state/procledger/ledger.db");
        let error = resolve(None, ["", "state", "home/me"]).expect_err("both are relative");
        assert!(error.message.contains("absolute"), "{}", error.message);
    }

    #[test]
    fn without_a_home_the_error_names_db() {
        let error = resolve(None, ["", "", ""]).expect_err("nothing is set");
        assert!(error.message.contains("--db"), "{}", error.message);
        let unset = LedgerPath::resolve(None, &Environment::default()).expect_err("unset");
        assert!(unset.message.contains("--db"));
    }
}
