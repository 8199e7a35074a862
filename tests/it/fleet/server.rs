//! A real PostgreSQL: one server for all tests of a run, with a database for each test, and servers
//! of a test's own.
//!
//! `PROCLEDGER_FLEET_URL` names another server for the run, as one of another engine: docs/fleet.md
//! says how.
//!
//! A shell holds each server and reads its orders from a pipe: at the end of the pipe, which comes
//! with the end of the test process however that ends, it stops the server and removes its folder.
//! A test process that ends by itself waits for that, since its caller may look at once for
//! processes that it left.
#![expect(unsafe_code, reason = "statics are not dropped; only atexit(3) runs something for them")]

use std::{
    fs,
    io::{self, Write},
    net::TcpStream,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use postgres::{Client, NoTls, config::Host};
use procledger_testing::{NOBODY, as_nobody, postgres_programs, within};

use crate::support::{eventually, skipped, until};

/// The superuser of each server that the tests start, and the owner of its databases.
pub(super) const OWNER: &str = "owner";
const KEEPER: &str = r#"
# A signal to the whole group ends the wait for orders, and the folder is removed all the same.
trap : INT TERM HUP
start() { "$bin/postgres" -D "$folder/data" >> "$folder/log" 2>&1 & pid=$!; }
while read -r order; do
  case $order in
    start) start ;;
    crash) kill -KILL "$pid"; wait "$pid" ;;
    resume) case $(cut -d ' ' -f 3 "/proc/$pid/stat") in '' | Z) start ;; esac ;;
  esac
done
kill -QUIT "$pid" 2> /dev/null
wait
rm -rf "$folder"
"#;

/// Gives a server a file system of its own in memory, at `$folder/space`, in a mount namespace that
/// ends with it.
const KEEPER_WITH_SPACE: &str = r#"
trap : INT TERM HUP
mount -t tmpfs -o "size=$space,mode=700,uid=$id,gid=$id" none "$folder/space"
[ -z "$wal" ] || { cp -a "$folder/data/pg_wal" "$folder/space/" && rm -r "$folder/data/pg_wal" && ln -s ../space/pg_wal "$folder/data"; }
setpriv --reuid "$id" --regid "$id" --clear-groups sh -c "$keeper"
umount "$folder/space"
rm -rf "$folder"
"#;

/// What a server of a test's own has besides a Unix socket.
#[derive(Default)]
pub(super) struct Setup {
    /// An address of the loopback network, for TCP with TLS.
    pub(super) address: String,
    /// `pg_hba.conf`; empty for one that trusts every user on the socket.
    pub(super) access: String,
    /// Files for its data directory: the certificates of TLS.
    pub(super) files: Vec<(&'static str, Vec<u8>)>,
    /// The size of a file system of its own, as of mount(8); empty for none. Only root can make
    /// one.
    pub(super) space: &'static str,
    /// Whether its write-ahead log is in that file system from the beginning.
    pub(super) wal_in_space: bool,
}

pub(super) struct Server {
    folder: PathBuf,
    keeper: Mutex<Child>,
}

/// Where a server listens.
#[derive(Clone)]
enum Listener {
    /// A Unix socket in this folder, of this port.
    Socket(PathBuf, u16),
    Tcp(String, u16),
}

/// A database of one test.
#[derive(Clone)]
pub(super) struct Database {
    listener: Listener,
    owner: String,
    name: String,
}

/// The server of this run.
enum Shared {
    Own(Server),
    /// The server that the environment names, by a database of it.
    Named(Database),
}

/// A new database on the server of this run; `None` where there is no PostgreSQL, which is printed.
pub(super) fn database() -> Option<Database> {
    let server = SHARED.get_or_init(|| {
        // SAFETY: the handler unwinds into nothing: it neither panics nor expects anything of other
        // threads.
        assert_eq!(unsafe { libc::atexit(stop_shared) }, 0, "atexit has room for it");
        match std::env::var("PROCLEDGER_FLEET_URL") {
            Ok(url) => Some(Shared::Named(Database::of_url(&url))),
            Err(_) => Server::start(&Setup::default()).map(Shared::Own),
        }
    });
    server.as_ref().map(|server| match server {
        Shared::Own(server) => server.database(),
        Shared::Named(database) => database.create(),
    })
}

static SHARED: OnceLock<Option<Shared>> = OnceLock::new();

extern "C" fn stop_shared() {
    match SHARED.get() {
        Some(Some(Shared::Own(server))) => server.stop(),
        Some(Some(Shared::Named(database))) => database.drop_all(),
        Some(None) | None => {}
    }
}

/// The prefix of the names of all databases of this run.
fn prefix() -> String {
    format!("fleet_{}_", std::process::id())
}

impl Server {
    /// Starts a server.
    pub(super) fn start(setup: &Setup) -> Option<Self> {
        let bin = programs()?;
        let folder = tempfile::Builder::new().prefix("procledger-pg-").tempdir_in(place());
        let folder = folder.expect("a folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
        if rustix::process::geteuid().is_root() {
            let id = NOBODY.parse().ok();
            std::os::unix::fs::chown(&folder, id, id).expect("its owner");
        }
        let data = folder.join("data");
        let initialized = as_nobody(bin.join("initdb"))
            .args(["--no-sync", "--wal-segsize=1", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--username", OWNER, "--pgdata"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(initialized.status.success(), "{}", String::from_utf8_lossy(&initialized.stderr));
        let mut keeper = if setup.space.is_empty() {
            let mut keeper = as_nobody("sh");
            keeper.args(["-c", KEEPER]);
            keeper
        } else {
            let space = folder.join("space");
            fs::create_dir(&space).expect("a folder");
            let mut keeper = Command::new("unshare");
            keeper.args(["--mount", "--", "sh", "-c", KEEPER_WITH_SPACE]).current_dir("/");
            keeper.env("space", setup.space).env("id", NOBODY).env("keeper", KEEPER);
            keeper.env("wal", if setup.wal_in_space { "yes" } else { "" });
            keeper
        };
        let mut keeper = keeper
            .env("folder", &folder)
            .env("bin", &bin)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let lines = format!(
            "listen_addresses = '{}'\nunix_socket_directories = '{}'\nfsync = off\nmax_connections = 200\n\
             max_wal_size = '32MB'\nmin_wal_size = '2MB'\nshared_buffers = '64MB'\n\
             timezone = 'Asia/Kathmandu'\nssl = {}\nssl_ca_file = '{}'\n",
            setup.address,
            folder.display(),
            if setup.files.is_empty() { "off" } else { "on" },
            if setup.files.is_empty() { "" } else { "root.crt" },
        );
        write_as_nobody(&data.join("postgresql.conf"), lines.as_bytes());
        if !setup.access.is_empty() {
            write_as_nobody(&data.join("pg_hba.conf"), setup.access.as_bytes());
        }
        for (name, bytes) in &setup.files {
            write_as_nobody(&data.join(name), bytes);
        }
        let stdin = keeper.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"start\n").expect("the keeper listens");
        let server = Self { folder, keeper: Mutex::new(keeper) };
        server.wait();
        Some(server)
    }

    /// Kills the server as a power failure would, except for what the kernel has.
    pub(super) fn crash(&self) {
        self.order("crash");
        until("the server is gone", || self.ready().is_none());
    }

    /// What the server has logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("a log")
    }

    /// Starts a server that has crashed. Processes of the former one may still be exiting, and then
    /// it refuses to start; but it is not started twice, as only the last one is stopped at the
    /// end.
    pub(super) fn start_again(&self) {
        let refusals = || {
            let text = self.log();
            text.matches("lock file \"").count()
                + text.matches("pre-existing shared memory").count()
        };
        eventually("the server has recovered", || {
            let before = refusals();
            self.order("start");
            eventually("it has started, or refused to", || {
                let is_ready = self.ready().is_some();
                (is_ready || refusals() > before).then_some(is_ready)
            })
            .then_some(())
        });
    }

    /// Waits for a server that has failed by itself, and starts it again if it has ended.
    pub(super) fn resume(&self) {
        eventually("the server has recovered", || {
            self.order("resume");
            within(Duration::from_secs(1), || self.ready().is_some()).then_some(())
        });
    }

    pub(super) fn database(&self) -> Database {
        self.maintenance().create()
    }

    /// Moves a database, to which there is no connection, to the file system of its own.
    pub(super) fn move_to_space(&self, database: &Database) {
        let mut client = self.maintenance().client();
        let place = format!("CREATE TABLESPACE space LOCATION '{}/space'", self.folder.display());
        client.batch_execute(&place).expect("a tablespace");
        let name = database.name();
        until("it is moved", || {
            client.batch_execute(&format!("ALTER DATABASE {name} SET TABLESPACE space")).is_ok()
        });
    }

    /// Fills the file system of its own to the last byte; returns the file that does.
    pub(super) fn fill_space(&self) -> PathBuf {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).id();
        // The keeper's own view.
        let root = PathBuf::from(format!("/proc/{keeper}/root"));
        let space = self.folder.join("space");
        let filler = root.join(space.strip_prefix("/").expect("absolute")).join("filler");
        let mut file = fs::File::create(&filler).expect("a file");
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        filler
    }

    /// The database that each server has.
    fn maintenance(&self) -> Database {
        Database {
            listener: Listener::Socket(self.folder.clone(), 5432),
            owner: OWNER.to_owned(),
            name: "postgres".to_owned(),
        }
    }

    fn stop(&self) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }

    fn order(&self, order: &str) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = keeper.stdin.as_mut().expect("open until the end");
        writeln!(stdin, "{order}").expect("the keeper listens");
    }

    fn wait(&self) {
        eventually("the server answers", || self.ready());
    }

    fn ready(&self) -> Option<()> {
        Client::connect(&self.maintenance().url(), NoTls).ok().map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Database {
    /// The database of an address, which is that of a superuser without a password.
    fn of_url(url: &str) -> Self {
        let config: postgres::Config = url.parse().expect("an address");
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let listener = match config.get_hosts() {
            [Host::Unix(folder)] => Listener::Socket(folder.clone(), port),
            [Host::Tcp(name)] => Listener::Tcp(name.clone(), port),
            other => panic!("{other:?}"),
        };
        let owner = config.get_user().expect("a user").to_owned();
        let name = config.get_dbname().expect("a database").to_owned();
        Self { listener, owner, name }
    }

    /// Creates another database on its server.
    fn create(&self) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}{}", prefix(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = self.client().batch_execute(&format!("CREATE DATABASE {name}"));
        made.expect("a database");
        Self { listener: self.listener.clone(), owner: self.owner.clone(), name }
    }

    /// Drops all databases of this run, and the roles that are named after them.
    fn drop_all(&self) {
        let prefix = prefix();
        let mut client = self.client();
        for (list, drop) in [
            ("SELECT datname FROM pg_database WHERE strpos(datname, $1) = 1", "DROP DATABASE"),
            ("SELECT rolname FROM pg_roles WHERE strpos(rolname, $1) > 0", "DROP ROLE"),
        ] {
            for row in client.query(list, &[&prefix]).expect("read") {
                let name = row.get::<_, String>(0).replace('"', "\"\"");
                // A connection may be open for a moment more.
                until("it is dropped", || {
                    client.batch_execute(&format!("{drop} \"{name}\"")).is_ok()
                });
            }
        }
    }

    /// Its address, for the owner.
    pub(super) fn url(&self) -> String {
        self.url_as(&self.owner)
    }

    /// Its address, for another login.
    pub(super) fn url_as(&self, user: &str) -> String {
        let name = &self.name;
        match &self.listener {
            Listener::Socket(folder, port) => {
                format!("postgresql:///{name}?host={}&port={port}&user={user}", folder.display())
            }
            Listener::Tcp(host, port) => {
                format!("postgresql:///{name}?host={host}&port={port}&user={user}")
            }
        }
    }

    /// Opens a connection to its server. One over TCP is passed on like any other.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        match &self.listener {
            Listener::Socket(folder, port) => {
                UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")))
            }
            Listener::Tcp(host, port) => {
                TcpStream::connect((host.as_str(), *port)).map(|tcp| OwnedFd::from(tcp).into())
            }
        }
    }

    /// Where its server listens, as a connection string of libpq.
    pub(super) fn server(&self) -> String {
        match &self.listener {
            Listener::Socket(folder, port) => format!("host={} port={port}", folder.display()),
            Listener::Tcp(host, port) => format!("host={host} port={port}"),
        }
    }

    /// The role that owns it.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client(&self) -> Client {
        self.client_as(&self.owner)
    }

    pub(super) fn client_as(&self, user: &str) -> Client {
        Client::connect(&self.url_as(user), NoTls).expect("a connection")
    }

    /// The schema `fleet` with its rows, as SQL.
    pub(super) fn dump(&self) -> String {
        // The program in the folder of the server, which is of the same version.
        let server = programs().expect("there is a server").join("initdb");
        let server = fs::canonicalize(server).expect("it is there");
        let mut dump = Command::new(server.with_file_name("pg_dump"));
        dump.args(["--inserts", "--schema=fleet", "--dbname", &self.url()]).env("PGTZ", "UTC");
        let dump = dump.output().expect("it runs");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let text = String::from_utf8(dump.stdout).expect("text");
        // Commands of psql(1), not of the server.
        text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
    }

    /// Puts a dump in place of what there is.
    pub(super) fn restore(&self, dump: &str) {
        let mut client = self.client();
        client.batch_execute("DROP SCHEMA fleet CASCADE").expect("dropped");
        client.batch_execute(dump).expect("restored");
    }

    /// The rows of a query, as text: columns separated by `|`, rows by newlines.
    #[track_caller]
    pub(super) fn rows(&self, query: &str) -> String {
        let rows =
            self.client().simple_query(query).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let rows = rows.iter().filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => {
                let fields = (0..row.len()).map(|field| row.get(field).unwrap_or_default());
                Some(fields.collect::<Vec<_>>().join("|"))
            }
            _ => None,
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}

/// Where the folder of a server is made. Not below TMPDIR: the path of a socket may have 107 bytes.
/// In memory where there is room: a database has some 300 files, and a file system that trims
/// removed blocks takes half a minute to remove those of fifty.
fn place() -> &'static str {
    const ROOM: u64 = 2 << 30;
    let memory = "/dev/shm";
    let has_room = rustix::fs::statvfs(memory)
        .is_ok_and(|space| space.f_bavail.saturating_mul(space.f_frsize) >= ROOM);
    if has_room { memory } else { "/tmp" }
}

/// The folder with the programs of the server.
fn programs() -> Option<PathBuf> {
    let folder = postgres_programs();
    if folder.is_none() {
        skipped("no PostgreSQL");
    }
    folder
}

/// Writes a file that only that user can read.
fn write_as_nobody(file: &Path, bytes: &[u8]) {
    let mut shell = as_nobody("sh");
    shell.args(["-c", "umask 077 && cat > \"$1\"", "sh"]).arg(file).stdin(Stdio::piped());
    let mut shell = shell.spawn().expect("a shell");
    shell.stdin.take().expect("a pipe").write_all(bytes).expect("written");
    assert!(shell.wait().expect("it ends").success());
}

#[test]
fn a_killed_database_has_what_was_committed() {
    let Some(server) = Server::start(&Setup::default()) else { return };
    let database = server.database();
    database
        .client()
        .batch_execute("CREATE TABLE t (n integer); INSERT INTO t VALUES (1)")
        .expect("done");
    server.crash();
    server.start_again();
    assert_eq!(database.rows("SELECT n FROM t"), "1");
}
