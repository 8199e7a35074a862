//! A fleet with one ledger.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use super::{
    comparison::{Ledger, fleet_equals_ledger, init, ship},
    server::{Database, database},
};
use crate::support::Place;

/// A fleet with one ledger.
pub(super) struct Scene {
    pub(super) place: Place,
    pub(super) database: Database,
    pub(super) ledger: Ledger,
}

pub(super) fn scene() -> Option<Scene> {
    let database = database()?;
    init(&database);
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    Some(Scene { place, database, ledger })
}

impl Scene {
    pub(super) fn path(&self) -> PathBuf {
        self.place.ledger()
    }

    #[track_caller]
    pub(super) fn ship(&self) {
        ship(&self.database, &self.path());
    }

    #[track_caller]
    pub(super) fn check(&self) {
        self.ship();
        fleet_equals_ledger(&self.database, &self.path());
    }

    pub(super) fn stream(&self, columns: &str) -> String {
        self.database.rows(&format!("SELECT {columns} FROM fleet.stream ORDER BY stream"))
    }

    /// Ships to another address.
    pub(super) fn ship_to(&self, url: &str) -> Output {
        self.place.procledger(&["ship", "--to", url, "--once"])
    }
}

/// Copies the ledger, as a backup does.
pub(super) fn copy(from: &Path, to: &Path) {
    let mut to = rusqlite::Connection::open(to).expect("opens");
    let from = rusqlite::Connection::open(from).expect("opens");
    let copy = rusqlite::backup::Backup::new(&from, &mut to).expect("a backup");
    copy.run_to_completion(1000, std::time::Duration::ZERO, None).expect("copied");
}
