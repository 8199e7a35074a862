//! Sets up a ledger: creates it, or migrates an older one so that this version can use it.
//!
//! Opening a current ledger takes no lock at all. Otherwise everything happens under an exclusive
//! flock(2) on `<ledger>-setup.lock`: without it, of 900 concurrent first openings 17 failed with
//! "table already exists" and 2 with "database is locked". The kernel releases that lock when its
//! holder dies, and each step can be interrupted: an empty file, or a WAL without tables, counts as
//! new. The lock file stays, since removing a lock file while processes wait for it would let two
//! of them hold the lock.
//!
//! A file is inspected before the lock is even created, so that a refusal leaves the folder as it
//! was. It is inspected through SQLite, which does not drop this process's locks as a descriptor of
//! our own would. If there is no `-wal`, SQLite opens it with `immutable=1` (no locks, no files);
//! otherwise it is inspected like by any reader, or by the connection that is to write, before it
//! writes. (After a crash such a reader rebuilds `-shm`, which contains no data of its own.)

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, MAIN_DB, OpenFlags, config::DbConfig};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, fchmod, flock},
    io::Errno,
};

use super::{
    budget::{self, Budget, HOST_READ},
    failure::failed,
    migration::{self, Schema},
    open_connection::{BUSY_TIMEOUT, immutable_uri, open_writer},
    schema_check,
    trust::{Located, beside},
    wal_origin,
};
use crate::{
    error::{Error, Kind, Result},
    sys::{file_lock::open_plain, filesystem},
};

/// "pldg": identifies a ledger to file(1) and to us.
pub(super) const APPLICATION_ID: i32 = 0x706c_6467;
/// The size of the smallest database: one page of the smallest size.
const SMALLEST_DATABASE: u64 = 512;
/// Only the owner may read or write a ledger; SQLite gives `-wal` and `-shm` the same mode.
const MODE: u32 = 0o600;
/// The flags with which a file is inspected.
const READ: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW);
/// How long another process may take for its setup: usually milliseconds, seconds on a busy disk.
const SETUP_PATIENCE: Duration = Duration::from_secs(30);
/// Time between two attempts to take the setup lock: a setup takes about 10 ms.
const SETUP_POLL: Duration = Duration::from_millis(2);
/// How often a file is inspected: one that another process begins to write meanwhile can look
/// inconsistent.
const INSPECT_ATTEMPTS: u32 = 4;
const INSPECT_PAUSE: Duration = Duration::from_millis(20);

/// The progress of a ledger's setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemaStatus {
    /// No file, an empty one, or one without tables.
    New,
    /// A ledger of a schema that this program can use, perhaps after a migration.
    At(Schema),
}

/// Whether opening for writing migrates a ledger of an older schema. A new ledger always has the
/// latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// For the program that owns the ledger.
    Migrate,
    /// For everything that works on another program's ledger.
    LeaveAsItIs,
}

impl Upgrade {
    /// Returns the schema to continue with; `None` if the ledger must be migrated first.
    fn accept(self, schema: Schema, located: &Located) -> Result<Option<Schema>> {
        if schema.is_current() {
            return Ok(Some(schema));
        }
        match self {
            Self::Migrate => Ok(None),
            Self::LeaveAsItIs => schema.check_usable(&located.path).map(|()| Some(schema)),
        }
    }
}

/// Creates the ledger if there is none, and migrates an older one if `upgrade` requests it. Returns
/// its schema, and the connection that inspected it if that can write. A refused file is left as it
/// was.
pub(super) fn make_ready(
    located: &Located,
    upgrade: Upgrade,
) -> Result<(Schema, Option<Connection>)> {
    match inspect(located, open_writable) {
        Ok(Inspected { status: SchemaStatus::At(schema), connection }) => {
            if let Some(schema) = upgrade.accept(schema, located)? {
                let writes =
                    |connection: &Connection| matches!(connection.is_readonly(MAIN_DB), Ok(false));
                return Ok((schema, connection.filter(writes)));
            }
        }
        Ok(Inspected { status: SchemaStatus::New, .. }) => {}
        // The status cannot be determined while another process holds the file; under the lock it
        // can.
        Err(error) if error.is_busy() => {}
        Err(error) => return Err(error),
    }
    let _lock = lock(located)?;
    let located = located.again()?;
    located.check_trusted()?;
    match status(&located)? {
        SchemaStatus::New => create(&located)?,
        SchemaStatus::At(schema) => {
            if let Some(schema) = upgrade.accept(schema, &located)? {
                return Ok((schema, None));
            }
        }
    }
    migrate(&located.path)?;
    Ok((Schema::latest(), None))
}

/// The progress of a file's setup, and the connection that read it, if there was anything to read.
struct Inspected {
    status: SchemaStatus,
    connection: Option<Connection>,
}

/// Returns the progress of the file's setup; fails if the file cannot be used as a ledger.
pub(super) fn status(located: &Located) -> Result<SchemaStatus> {
    inspect(located, open_read_only).map(|inspected| inspected.status)
}

fn inspect(located: &Located, open: Opener) -> Result<Inspected> {
    let shown = located.path.display();
    match located.found.map_or(0, |found| found.len) {
        // SQLite writes the first page before it creates a WAL. So a WAL with content beside an
        // empty file has lost its ledger, unless the ledger was set up since our check.
        0 if located.found.is_some()
            && has_content(&beside(&located.path, "-wal"))
            && !has_content(&located.path) =>
        {
            let message = format!(
                "the ledger `{shown}` was emptied, or is damaged: restore a backup, or remove it with its `-wal` to start over"
            );
            return Err(Error::new(Kind::NotALedger, message));
        }
        0 => return Ok(Inspected { status: SchemaStatus::New, connection: None }),
        // SQLite takes a file of one byte for an empty file, and would overwrite it.
        1..SMALLEST_DATABASE => {
            let message = format!("`{shown}` is not a database: choose another path");
            return Err(Error::new(Kind::NotALedger, message));
        }
        _ => {}
    }
    let mut attempt = 1;
    loop {
        match inspect_once(&located.path, open) {
            Err(error)
                if (error.is_not_a_ledger() || error.is_denied()) && attempt < INSPECT_ATTEMPTS =>
            {
                attempt += 1;
                thread::sleep(INSPECT_PAUSE);
            }
            answer => return answer,
        }
    }
}

fn has_content(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.len() > 0)
}

fn inspect_once(path: &Path, open: Opener) -> Result<Inspected> {
    let _budget = Budget::of(HOST_READ);
    let connection = open_own(path, open)?;
    let (application, version, empty) =
        header(&connection).map_err(|e| failed(path, "read the header", e))?;
    let shown = path.display();
    let status = match (application, version) {
        // Checked before anything is written, so that a refusal changes nothing.
        (APPLICATION_ID, 1..) => {
            migration::check_not_newer(&connection, version, path)?;
            schema_check::check(&connection, path).map(SchemaStatus::At)
        }
        (0, 0) if empty => Ok(SchemaStatus::New),
        _ => Err(Error::new(
            Kind::NotALedger,
            format!("`{shown}` is a database of another application: choose another path"),
        )),
    };
    Ok(Inspected { status: status?, connection: Some(connection) })
}

/// Opens a connection; fails if the WAL belongs to another file.
fn open_own(path: &Path, open: Opener) -> Result<Connection> {
    let opened = open(path);
    // With such a WAL the file can look damaged. A connection that has not read it yet can
    // determine why.
    let unread = opened.is_err().then(|| Connection::open_with_flags(path, READ));
    if let Some(connection) =
        opened.as_ref().ok().or(unread.as_ref().and_then(|it| it.as_ref().ok()))
    {
        wal_origin::check(connection, path)?;
    }
    opened.map_err(|e| failed(path, "read the header", e))
}

/// Returns `application_id`, `user_version`, and whether the file is empty.
fn header(connection: &Connection) -> rusqlite::Result<(i32, i64, bool)> {
    let application = connection.query_one("PRAGMA application_id", [], |row| row.get(0))?;
    let version = connection.query_one("PRAGMA user_version", [], |row| row.get(0))?;
    // A ledger is not empty, and its schema may be in the middle of a checkpoint.
    let empty = application != APPLICATION_ID
        && connection.query_one("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((application, version, empty))
}

type Opener = fn(&Path) -> rusqlite::Result<Connection>;

/// Opens a connection that can write, if that changes nothing yet: there is a WAL, and no journal
/// to play back.
fn open_writable(path: &Path) -> rusqlite::Result<Connection> {
    if beside(path, "-wal").exists() && !beside(path, "-journal").exists() {
        open_writer(path)
    } else {
        open_read_only(path)
    }
}

/// Opens a connection that creates no files if none of SQLite's exist.
pub(super) fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let connection = if beside(path, "-wal").exists() {
        Connection::open_with_flags(path, READ)?
    } else {
        Connection::open_with_flags(immutable_uri(path), READ | OpenFlags::SQLITE_OPEN_URI)?
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    budget::keep(&connection)?;
    // The schema is only read; functions in it must not be called with extended rights.
    connection.execute_batch("PRAGMA trusted_schema = OFF")?;
    Ok(connection)
}

/// Creates an empty file with its mode, regardless of the umask.
fn create(located: &Located) -> Result<()> {
    let path = &located.path;
    let wrong =
        |e: io::Error| Error::os(format!("failed to create the ledger `{}`", path.display()), e);
    if located.found.is_some() {
        // The file was left by an interrupted setup. Its mode is set by path: a descriptor would
        // drop locks, and no other user can replace the file.
        return fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(wrong);
    }
    // Files that a removed ledger left. A process that still has it open keeps the old files; if
    // they kept their names, it would share its memory with the new ledger (howtocorrupt.html,
    // 2.4).
    for suffix in ["-wal", "-shm", "-journal"] {
        match fs::remove_file(beside(path, suffix)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(wrong(e)),
            _ => {}
        }
    }
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .custom_flags(flags)
        .open(path)
        .map_err(wrong)?;
    fchmod(&file, Mode::from_raw_mode(MODE)).map_err(|e| wrong(e.into()))
}

/// Migrates the schema to the latest one.
fn migrate(path: &Path) -> Result<()> {
    let mut connection = prepare(path).map_err(|e| failed(path, "set up the tables", e))?;
    migration::migrate(&mut connection).map_err(|e| failed(path, "migrate the tables", e))
}

/// Opens a connection for the migrations. Foreign keys are off, as changes of tables require.
fn prepare(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    // This pragma only has an effect before the first page is written.
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL")?;
    Ok(connection)
}

/// Takes the setup lock, which is held until the file is dropped.
fn lock(located: &Located) -> Result<File> {
    let path = beside(&located.path, "-setup.lock");
    let shown = path.display();
    let wrong = |e: io::Error| Error::os(format!("failed to lock `{shown}`"), e);
    let deadline = Instant::now() + SETUP_PATIENCE;
    let file = open_lock(&path, located.owner(), deadline)?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                thread::sleep(SETUP_POLL);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                let message = format!(
                    "another process has held `{shown}` for {} s: find it (fuser), then try again",
                    SETUP_PATIENCE.as_secs()
                );
                return Err(Error::new(Kind::Busy, message));
            }
            Err(e) => return Err(wrong(e.into())),
        }
    }
}

/// Opens the lock file, or creates it. Under an unusual umask it is created without any permission;
/// its creator fixes that at once, and we try again.
pub(super) fn open_lock(path: &Path, owner: u32, deadline: Instant) -> Result<File> {
    let message = || format!("failed to lock `{}`", path.display());
    let wrong = |e: Errno| Error::os(message(), e);
    loop {
        // In two steps, so that only a file that we created gets its mode from us, and an existing
        // one is never waited for.
        match open_plain(path, OFlags::RDWR, owner) {
            Err(e) if e.is_denied() && born_now(path) && Instant::now() < deadline => {
                thread::sleep(SETUP_POLL);
            }
            Err(e) if e.is_not_found() => {}
            other => return other,
        }
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, OFlags::RDWR | new, Mode::from_raw_mode(MODE)) {
            Ok(file) => {
                fchmod(&file, Mode::from_raw_mode(MODE)).map_err(wrong)?;
                return Ok(File::from(file));
            }
            Err(Errno::EXIST) => {}
            Err(e) => {
                let folder = path.parent().unwrap_or(path);
                return Err(filesystem::not_created(message(), folder, e));
            }
        }
    }
}

fn born_now(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|seen| seen.permissions().mode() & MODE != MODE)
}
