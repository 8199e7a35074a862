//! An open ledger: its connections, and operations on the file as a whole.
//!
//! One connection writes. A few others, in a pool, read; without a pool, reads share the connection
//! that writes.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    budget::{Budget, HOST_READ, LOOK, WRITE},
    close,
    failure::{failed, no_connection},
    ledger_files::LedgerFiles,
    migration::Schema,
    open_connection::{Access, BUSY_TIMEOUT, Pool, first_reader, first_writer, pool},
    pool_thread::pool_thread,
    schema_check,
    setup::{self, SchemaStatus, Upgrade},
    transaction::Transaction,
    trust::{Located, TrustPolicy, beside},
    writer::{Writer, Writing},
};
use crate::{
    error::{Error, Kind, Result},
    metrics::Counters,
    sys::fs_user::{Account, Acting, act_as},
};

/// The number of concurrent readers: a host's pass, a listing, a report and one to spare.
pub(crate) const READERS: u32 = 4;
/// How long a write waits for another process after an earlier write has waited for the whole
/// [`BUSY_TIMEOUT`] in vain.
const LOCKED_TIMEOUT: Duration = Duration::from_millis(250);

/// An open ledger. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    files: Arc<LedgerFiles>,
    owner: u32,
    /// The owner, if we are root and the owner is another user.
    account: Option<Account>,
    /// Whether the schema may contain objects that no migration made; if so, it is checked again
    /// before the next write.
    suspect: AtomicBool,
    /// The schema at the time of opening. Another program may migrate it meanwhile, which removes
    /// nothing.
    schema: Schema,
    counters: Arc<Counters>,
    /// Whether the last write gave up waiting for another process that writes.
    locked: AtomicBool,
    // Dropped before the writer: the connection that closes last copies a large WAL back and
    // removes it, which readers cannot do.
    readers: Option<Pool>,
    writer: Option<Writer>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        close::keep_small_wal(&self.files, self.writer.as_ref());
        if self.readers.is_some() {
            close::wait_for_pool_thread();
        }
    }
}

impl Store {
    /// Opens the ledger for writing; creates it if there is none, and migrates it if `upgrade` says
    /// so.
    ///
    /// # Errors
    ///
    /// Denied if it or its folder could be written by another user, or cannot be written by us;
    /// newer, or not a ledger; unsupported on a network file system. Each of these leaves the disk
    /// as it was.
    #[cfg(test)]
    pub(crate) fn open(path: &Path, upgrade: Upgrade) -> Result<Self> {
        Self::open_trusting(path, None, upgrade, READERS)
    }

    /// Does the same, but trusts users that can write to the folder `vouched` not to replace its
    /// content. Up to `readers` connections read besides the one that writes.
    pub(crate) fn open_trusting(
        path: &Path,
        vouched: Option<&Path>,
        upgrade: Upgrade,
        readers: u32,
    ) -> Result<Self> {
        if readers > 0 {
            // Before the file access rights change, which the pool's thread would keep.
            pool_thread()?;
        }
        let policy = TrustPolicy::of(path, vouched);
        act_as(policy.account, || Self::open_on(path, &policy, upgrade, readers))
    }

    fn open_on(path: &Path, policy: &TrustPolicy, upgrade: Upgrade, readers: u32) -> Result<Self> {
        let located = Located::at(path, policy)?;
        located.check_trusted()?;
        let mut before = located.found;
        let (schema, opened) = setup::make_ready(&located, upgrade)?;
        if opened.is_none() {
            before = located.again()?.found;
        }
        let first = first_writer(&located.path, opened)?;
        // Locate it again: a file that did not exist before may belong to another user, and only a
        // file that was there before and is still there is the one that SQLite has open.
        let located = located.again()?;
        located.check_trusted()?;
        if before.map(|found| found.file) != located.found.map(|found| found.file) {
            let message = format!(
                "the ledger `{}` was replaced while it was opened: try again",
                located.path.display()
            );
            return Err(Error::new(Kind::Busy, message));
        }
        let writer = Writer::new(first, located.account());
        Self::with(located, schema, (Access::Read, readers, None), Some(writer))
    }

    /// Migrates an existing ledger to the latest schema; returns `false` if there was nothing to
    /// do.
    ///
    /// # Errors
    ///
    /// Not found if there is no ledger; otherwise as for [`Store::open_trusting`].
    pub(crate) fn migrate(path: &Path, vouched: Option<&Path>) -> Result<bool> {
        let policy = TrustPolicy::of(path, vouched);
        act_as(policy.account, || {
            let located = Located::at(path, &policy)?;
            located.check_trusted()?;
            let shown = located.path.display();
            match setup::status(&located)? {
                SchemaStatus::At(schema) if schema.is_current() => Ok(false),
                SchemaStatus::At(_) => setup::make_ready(&located, Upgrade::Migrate).map(|_| true),
                SchemaStatus::New => {
                    let message = format!("there is no ledger `{shown}` to migrate");
                    Err(Error::new(Kind::NotFound, message))
                }
            }
        })
    }

    /// Opens the ledger for reading: rows stay as they are, and a live writer is not disturbed.
    ///
    /// # Errors
    ///
    /// Not found if there is no ledger; newer, or not a ledger, as for
    /// [`Store::open_trusting`](Self::open_trusting).
    pub(crate) fn open_read_only(path: &Path) -> Result<Self> {
        pool_thread()?;
        let policy = TrustPolicy::of(path, None);
        act_as(policy.account, || Self::read_only_on(path, &policy))
    }

    fn read_only_on(path: &Path, policy: &TrustPolicy) -> Result<Self> {
        let located = Located::to_read(path, policy)?;
        let shown = located.path.display();
        if located.found.is_none() {
            return Err(Error::new(Kind::NotFound, format!("there is no ledger `{shown}`")));
        }
        // Before SQLite opens these files: it would wait for the other end of a FIFO and, as root,
        // give the files to the ledger's owner.
        located.check_companions()?;
        let schema = match setup::status(&located)? {
            SchemaStatus::At(schema) => schema,
            SchemaStatus::New => {
                let message = format!("the ledger `{shown}` is empty: its setup was not completed");
                return Err(Error::new(Kind::NotFound, message));
            }
        };
        schema.check_usable(&located.path)?;
        let access = Access::for_reading(&located);
        let first = first_reader(&located.path, access)?;
        let store = Self::with(located, schema, (access, READERS, Some(first)), None)?;
        // The first statement runs here so that its error is returned.
        store.check_readable()?;
        Ok(store)
    }

    fn with(
        located: Located,
        schema: Schema,
        (access, readers, first): (Access, u32, Option<Connection>),
        writer: Option<Writer>,
    ) -> Result<Self> {
        let Some(found) = located.found else {
            let message = format!("the ledger `{}` was removed meanwhile", located.path.display());
            return Err(Error::new(Kind::Other, message));
        };
        let account = located.account();
        let files = Arc::new(LedgerFiles::of(&located.path, found.file));
        let readers = match readers {
            0 => None,
            most => Some(pool(&located.path, access, most, first, account, Arc::clone(&files))?),
        };
        let Located { path, .. } = located;
        let owner = found.owner;
        let inner = Inner {
            path,
            files,
            owner,
            account,
            suspect: AtomicBool::new(false),
            schema,
            counters: Arc::default(),
            locked: AtomicBool::new(false),
            readers,
            writer,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Returns the real path: absolute, without symlinks.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the device and inode of the ledger when it was opened.
    pub(crate) fn file(&self) -> (u64, u64) {
        self.0.files.id()
    }

    pub(super) fn files(&self) -> &LedgerFiles {
        &self.0.files
    }

    /// Returns the owner of the ledger; only this user's processes may be touched.
    pub(crate) fn owner_uid(&self) -> u32 {
        self.0.owner
    }

    pub(super) fn account(&self) -> Option<Account> {
        self.0.account
    }

    /// Takes the owner's file access rights until the guard is dropped, if we are root and the
    /// owner is another user. Any code that opens, creates, changes or removes a file beside the
    /// ledger holds this guard.
    pub(crate) fn act_as_owner(&self) -> Result<Option<Acting>> {
        self.0.account.as_ref().map(Account::act).transpose()
    }

    /// Returns the counters of this opening of the ledger.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Returns the ledger's real path with `suffix` after its last character.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        beside(&self.0.path, suffix)
    }

    /// Returns the version of SQLite at run time.
    pub(crate) fn sqlite_version() -> &'static str {
        rusqlite::version()
    }

    /// Returns how many migrations had been applied to the ledger when it was opened.
    pub(crate) fn schema(&self) -> Schema {
        self.0.schema
    }

    /// Returns the ledger's random UUID, in 32 hex digits; `None` for a schema before 4.
    pub(crate) fn uuid(&self) -> Result<Option<String>> {
        if self.schema() < Schema::LEDGER {
            return Ok(None);
        }
        self.read("read the ledger's uuid", |connection| {
            connection.query_one("SELECT uuid FROM ledger", [], |row| row.get(0)).optional()
        })
    }

    fn check_readable(&self) -> Result<()> {
        self.read("read the version", |connection| {
            connection.query_one("PRAGMA user_version", [], |_| Ok(()))
        })
    }

    /// Returns the problems of the file, one line each; none if it is sound.
    pub(crate) fn check(&self) -> Result<Vec<String>> {
        self.read("look for damage", |connection| {
            let mut quick = connection.prepare("PRAGMA quick_check")?;
            let mut problems: Vec<String> =
                quick.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            problems.retain(|line| line != "ok");
            let mut keys = connection.prepare("PRAGMA foreign_key_check")?;
            let mut rows = keys.query([])?;
            while let Some(row) = rows.next()? {
                let (table, parent): (String, String) = (row.get(0)?, row.get(2)?);
                let id: Option<i64> = row.get(1)?;
                let id = id.map_or_else(String::new, |id| format!(" {id}"));
                problems
                    .push(format!("{table}{id} refers to a row of {parent} that does not exist"));
            }
            Ok(problems)
        })
    }

    /// Runs one immediate transaction. `work` gets the only writing connection: it must not call
    /// back into the store.
    ///
    /// It waits for another process that writes. Once that took longer than the whole timeout,
    /// later writes wait only briefly, until one of them succeeds: an end makes several writes, and
    /// each of them is retried later.
    pub(super) fn write<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        if !self.0.locked.load(Ordering::Acquire) {
            return self.write_patiently(doing, work);
        }
        let connection = self.writer(doing)?;
        connection.busy_timeout(LOCKED_TIMEOUT).map_err(|e| failed(self.path(), doing, e))?;
        let answer = self.write_on(&connection, doing, work);
        connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| failed(self.path(), doing, e))?;
        answer
    }

    /// Does the same, but always waits for the whole timeout: for operations that are refused if
    /// they cannot be written.
    pub(super) fn write_patiently<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let connection = self.writer(doing)?;
        self.write_on(&connection, doing, work)
    }

    /// Makes the next write wait for the whole timeout again. To be called before the last attempt.
    pub(crate) fn be_patient_once(&self) {
        self.0.locked.store(false, Ordering::Release);
    }

    fn write_on<T>(
        &self,
        connection: &Connection,
        doing: &str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let _acting = self.act_as_owner()?;
        self.check_not_replaced()?;
        if self.0.suspect.load(Ordering::Relaxed) {
            // Without this check each write would use up its budget, and at its end a host makes
            // many writes.
            schema_check::check(connection, self.path())?;
            self.0.suspect.store(false, Ordering::Relaxed);
        }
        let _budget = Budget::of(WRITE);
        let answer = Transaction::begin(connection, self.schema()).and_then(|transaction| {
            let answer = work(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        });
        let answer = answer.map_err(|e| self.explained(connection, doing, e));
        let locked = answer.as_ref().is_err_and(Error::is_busy);
        if locked || answer.is_ok() {
            self.0.locked.store(locked, Ordering::Release);
        }
        answer
    }

    /// Returns the error of a statement. If an interrupted statement has run code that no migration
    /// made, the error names that code.
    fn explained(&self, connection: &Connection, doing: &str, error: rusqlite::Error) -> Error {
        let interrupted =
            error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted);
        let foreign = interrupted.then(|| {
            let _budget = Budget::of(HOST_READ);
            schema_check::check(connection, self.path()).err()
        });
        let foreign = foreign.flatten();
        self.0.suspect.fetch_or(foreign.is_some(), Ordering::Relaxed);
        foreign.unwrap_or_else(|| failed(self.path(), doing, error))
    }

    /// Returns the budget of a query: a host has other work to do, while a report may take long.
    fn reading(&self) -> Budget {
        Budget::of(if self.0.writer.is_some() { HOST_READ } else { LOOK })
    }

    /// Runs one query, on a connection that cannot write if the ledger has one. `work` must not
    /// call back into the store.
    pub(super) fn read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let Some(readers) = &self.0.readers else {
            return self.query_on(&*self.writer(doing)?, doing, work);
        };
        if readers.state().idle_connections == 0 {
            // A new connection would open the file that the path names now, in which the same row
            // numbers may mean other rows.
            self.check_not_replaced()?;
        }
        let connection = readers.get().map_err(|e| {
            self.check_not_replaced().err().unwrap_or_else(|| no_connection(self.path(), doing, e))
        })?;
        self.query_on(&connection, doing, work)
    }

    fn query_on<T>(
        &self,
        connection: &Connection,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let _acting = self.act_as_owner()?;
        let _budget = self.reading();
        work(connection).map_err(|e| {
            // SQLite reports an emptied file as damaged.
            self.check_not_replaced().err().unwrap_or_else(|| self.explained(connection, doing, e))
        })
    }

    /// Opens a connection that reads if there is none yet. It can still read if the ledger is
    /// renamed or removed.
    pub(crate) fn open_reader(&self) -> Result<()> {
        self.read("open a connection", |_| Ok(()))
    }

    /// Opens another reader, as the pool does when all its connections are in use.
    #[cfg(test)]
    pub(super) fn another_reader(
        &self,
        patience: Duration,
    ) -> std::result::Result<(), r2d2::Error> {
        self.0.readers.as_ref().expect("readers").get_timeout(patience).map(drop)
    }

    /// Runs a query of a few rows. If no reader is open yet, as while the ledger is being opened,
    /// it uses the writer's connection if that is free, since a new connection would first parse
    /// the whole schema.
    pub(super) fn try_read<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let none = self.0.readers.as_ref().is_none_or(|readers| readers.state().connections == 0);
        let writer = self.0.writer.as_ref().filter(|_| none).and_then(Writer::try_take);
        let Some(connection) = writer else { return self.read(doing, work) };
        self.read_on(&connection, doing, work)
    }

    fn read_on<T>(
        &self,
        connection: &Connection,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.check_not_replaced()?;
        self.query_on(connection, doing, work)
    }

    /// Runs a query on the connection that writes, while no transaction is open there; `None` if it
    /// was not free within `patience`.
    pub(super) fn on_idle_writer<T>(
        &self,
        patience: Duration,
        doing: &str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let Some(connection) = self.the_writer(doing)?.take_within(patience) else {
            return Ok(None);
        };
        self.read_on(&connection, doing, work).map(Some)
    }

    /// Reports whether a write could take the lock at once.
    pub(crate) fn can_be_written_now(&self) -> bool {
        let Some(writer) = self.0.writer.as_ref().and_then(Writer::try_take) else { return false };
        let Ok(_acting) = self.act_as_owner() else { return false };
        let free = writer
            .busy_timeout(Duration::ZERO)
            .and_then(|()| writer.execute_batch("BEGIN IMMEDIATE; ROLLBACK"));
        writer.busy_timeout(BUSY_TIMEOUT).is_ok() && free.is_ok()
    }

    pub(super) fn writer(&self, doing: &str) -> Result<Writing<'_>> {
        self.the_writer(doing)?.take(self.path(), doing)
    }

    /// Fails if the ledger was opened for reading only.
    pub(super) fn check_writable(&self, doing: &str) -> Result<()> {
        self.the_writer(doing).map(|_| ())
    }

    fn the_writer(&self, doing: &str) -> Result<&Writer> {
        self.0.writer.as_ref().ok_or_else(|| {
            let message = format!(
                "failed to {doing} in the ledger `{}`: it was opened for reading only",
                self.path().display()
            );
            Error::new(Kind::Denied, message)
        })
    }
}
