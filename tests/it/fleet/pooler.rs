//! The pooler `PgBouncer` between a command and the server: in session mode, and in transaction
//! mode.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use postgres::{Client, NoTls};
use procledger::fleet::Shipper;
use procledger_testing::{NOBODY, as_nobody};

use super::{
    comparison::{Ledger, fleet_equals_ledger},
    fleet, printed, refused,
    scene::{Scene, scene},
    server::Database,
    ship_copies::shipper_to,
};
use crate::support::{Guard, eventually, need, until};

/// The mode in which each transaction may have another session.
const TRANSACTION: &str = "transaction";
/// The same where it certainly has.
const RESETS: &str = "transaction\nserver_reset_query_always = 1";

/// Holds the pooler: ends it, and removes its folder, when the pipe ends, which comes with the end
/// of the test process.
const KEEPER: &str = r#"
trap : INT TERM HUP
pgbouncer --quiet "$folder/pgbouncer.ini" > "$folder/log" 2>&1 & pid=$!
read -r order
kill -TERM "$pid"
wait
rm -rf "$folder"
"#;

struct Pooler {
    keeper: Guard,
    folder: std::path::PathBuf,
    name: String,
}

impl Pooler {
    /// Starts a pooler of this mode, with one connection to the server for all clients, or more
    /// where each client has its own.
    fn start(database: &Database, mode: &str) -> Self {
        // Not below TMPDIR: the path of a socket may have 107 bytes.
        let folder = tempfile::Builder::new().prefix("procledger-pool-").tempdir_in("/tmp");
        let folder = folder.expect("a folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
        let size = if mode == "session" { 20 } else { 1 };
        let ini = format!(
            "[databases]\n* = {}\n[pgbouncer]\npool_mode = {mode}\ndefault_pool_size = {size}\nauth_type = trust\n\
             auth_file = {folder}/users\nadmin_users = {}\nunix_socket_dir = {folder}\nlisten_port = 6432\n",
            database.server(),
            database.owner(),
            folder = folder.display()
        );
        fs::write(folder.join("pgbouncer.ini"), ini).expect("written");
        fs::write(folder.join("users"), format!("\"{}\" \"\"\n", database.owner()))
            .expect("written");
        if rustix::process::geteuid().is_root() {
            let id = NOBODY.parse().ok();
            std::os::unix::fs::chown(&folder, id, id).expect("its owner");
        }
        let keeper = as_nobody("sh")
            .args(["-c", KEEPER])
            .env("folder", &folder)
            .stdin(Stdio::piped())
            .spawn();
        let keeper = Guard(keeper.expect("a shell"));
        let pooler = Self { keeper, folder, name: database.name().to_owned() };
        let url = pooler.url(database.owner());
        eventually("the pooler answers", || Client::connect(&url, NoTls).ok());
        pooler
    }

    /// Whether a client waits for the only connection.
    fn has_waiting_client(&self, user: &str) -> bool {
        let url = self.url(user).replacen(&self.name, "pgbouncer", 1);
        let mut console = Client::connect(&url, NoTls).expect("connects");
        let pools = console.simple_query("SHOW POOLS").expect("a list");
        pools.iter().any(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => {
                row.get("database") == Some(&self.name) && row.get("cl_waiting") == Some("1")
            }
            _ => false,
        })
    }

    fn url(&self, user: &str) -> String {
        format!("postgresql:///{}?host={}&port=6432&user={user}", self.name, self.folder.display())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.keeper.0.stdin.take());
        let _ = self.keeper.0.wait();
    }
}

/// A fleet with one ledger behind a pooler, and a shipper that has shipped to it through the
/// pooler.
struct Pooled {
    scene: Scene,
    pooler: Pooler,
    url: String,
    shipper: Shipper,
}

fn pooled(mode: &str) -> Option<Pooled> {
    let scene = scene()?;
    let pooler = Pooler::start(&scene.database, mode);
    let url = pooler.url(scene.database.owner());
    let mut shipper = shipper_to(&url, &scene.path());
    shipper.ship().expect("shipped");
    Some(Pooled { scene, pooler, url, shipper })
}

/// Refuses to ship, in one line that says what to do, and writes nothing; afterwards nothing is
/// missing and nothing twice.
#[track_caller]
fn refuses(it: &mut Pooled, why: &str) {
    let before = it.scene.stream("mark, process");
    it.scene.ledger.work();
    let error = it.shipper.ship().expect_err(why).to_string();
    assert!(
        error.contains(why) && error.contains("use PgBouncer with pool_mode = session"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(it.scene.stream("mark, process"), before);
    it.shipper.ship().expect("shipped in a new session");
    fleet_equals_ledger(&it.scene.database, &it.scene.path());
    assert_eq!(it.scene.stream("restarts, lost, gap"), "0|0|0");
}

fn looks(url: &str) -> Vec<Command> {
    let words: [&[&str]; 7] = [
        &["hosts"],
        &["ps", "--json"],
        &["leaks", "--json"],
        &["report", "--by", "task"],
        &["report", "--by", "hour", "--json"],
        &["check"],
        &["metrics"],
    ];
    let look = |words: &&[&str]| {
        let mut command = fleet(words);
        command.env("PROCLEDGER_FLEET", url);
        command
    };
    words.iter().map(look).collect()
}

/// The commands of the owner; the last one gives up the host.
fn owners(database: &Database, host: &str, url: &str) -> [Command; 4] {
    [
        &["init", "--keep", "8days"][..],
        &["maintain"],
        &["enroll", database.name()],
        &["forget", host],
    ]
    .map(|words| fleet(&[words, &["--to", url]].concat()))
}

/// Checks that a command was refused in one line that says what to do.
#[track_caller]
fn names_the_mode(error: &str) {
    assert!(
        error.contains("the settings of the session are lost; the address leads to a pooler")
            && error.contains("use PgBouncer with pool_mode = session"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn an_owner_command_that_loses_its_settings_reports_the_required_mode() {
    need!("pgbouncer");
    let Some(scene) = scene() else { return };
    scene.ship();
    let state = || {
        let login = scene.database.name();
        let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname = 'procledger-{login}'");
        let meta = "SELECT keep_ms, maintained_at FROM fleet.meta";
        (scene.database.rows(&roles), scene.database.rows(meta), scene.stream("mark, forgotten_at"))
    };
    let before = state();
    let host = scene.stream("host");
    let pooler = Pooler::start(&scene.database, RESETS);
    let url = pooler.url(scene.database.owner());
    for command in owners(&scene.database, &host, &url) {
        names_the_mode(&refused(1, command));
    }
    assert_eq!(state(), before);
    // Nor is a schema created.
    let empty = super::server::database().expect("there is one");
    let pooler = Pooler::start(&empty, RESETS);
    let init = ["init", "--to", &pooler.url(empty.owner())];
    names_the_mode(&refused(1, fleet(&init)));
    assert_eq!(empty.rows("SELECT count(*) FROM pg_namespace WHERE nspname = 'fleet'"), "0");
}

/// The session has the settings at first, and another client changes them between two transactions.
#[test]
fn maintenance_that_loses_its_settings_stops() {
    need!("pgbouncer");
    let Some(scene) = scene() else { return };
    scene.ship();
    let pooler = Pooler::start(&scene.database, TRANSACTION);
    let url = pooler.url(scene.database.owner());
    let mut shipper = scene.database.client();
    let mut shipment = shipper.transaction().expect("begun");
    shipment.batch_execute("UPDATE fleet.stream SET seen_at = now()").expect("locked");
    let mut maintain = fleet(&["maintain", "--to", &url]);
    let mut maintain = Guard(maintain.stderr(Stdio::piped()).spawn().expect("it starts"));
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        scene.database.name()
    );
    until("it waits for the stream", || scene.database.rows(&waiting) == "1");
    let another = std::thread::spawn({
        let url = url.clone();
        move || {
            let mut another = Client::connect(&url, NoTls).expect("connects");
            another.batch_execute("SET search_path = public, pg_catalog").expect("set");
        }
    });
    until("another client is the next", || pooler.has_waiting_client(scene.database.owner()));
    shipment.commit().expect("committed");
    another.join().expect("set");
    assert_eq!(maintain.0.wait().expect("it ends").code(), Some(1));
    let mut error = String::new();
    let stderr = maintain.0.stderr.as_mut().expect("a pipe");
    std::io::Read::read_to_string(stderr, &mut error).expect("text");
    names_the_mode(&error);
    assert_eq!(scene.database.rows("SELECT maintained_at IS NULL FROM fleet.meta"), "t");
}

#[test]
fn a_pooler_in_session_mode_works_like_the_server_itself() {
    need!("pgbouncer");
    let Some(mut it) = pooled("session") else { return };
    let path = it.scene.place.path().join("second.db");
    let second = Ledger::create(&path);
    let mut other = shipper_to(&it.url, &path);
    for _ in 0..3 {
        it.scene.ledger.work();
        second.work();
        it.shipper.ship().expect("shipped");
        other.ship().expect("shipped");
        fleet_equals_ledger(&it.scene.database, &it.scene.path());
        fleet_equals_ledger(&it.scene.database, &path);
    }
    for look in looks(&it.url) {
        printed(look);
    }
    assert_eq!(it.scene.stream("restarts, lost, gap"), "0|0|0\n0|0|0");
    let host = it.scene.database.rows("SELECT DISTINCT host FROM fleet.stream");
    for command in owners(&it.scene.database, &host, &it.url) {
        printed(command);
    }
}

/// The next transaction comes to a connection with the settings of another client.
#[test]
fn a_shipper_that_loses_its_settings_writes_nothing_and_reports_the_required_mode() {
    need!("pgbouncer");
    let Some(mut it) = pooled(TRANSACTION) else { return };
    let mut another = Client::connect(&it.url, NoTls).expect("connects");
    another.batch_execute("SET search_path = public, pg_catalog").expect("set");
    refuses(&mut it, "the settings of the session are lost");
    let mut other = Client::connect(&it.url, NoTls).expect("connects");
    other.batch_execute("DISCARD ALL").expect("discarded");
    refuses(&mut it, "prepared statement");
}

/// The next transaction comes to another connection, which does not have the statements.
#[test]
fn a_shipper_whose_connection_is_replaced_reports_the_required_mode() {
    need!("pgbouncer");
    let Some(mut it) = pooled(TRANSACTION) else { return };
    let own = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()",
        it.scene.database.name()
    );
    assert_eq!(it.scene.database.rows(&own), "1");
    let gone = own.replace("count(pg_terminate_backend(pid))", "count(*)");
    until("the connection is gone", || it.scene.database.rows(&gone) == "0");
    refuses(&mut it, "prepared statement");
}

/// Each command reads in transactions that set what they need.
#[test]
fn a_fleet_can_be_read_through_a_pooler_of_either_mode() {
    need!("pgbouncer");
    let Some(it) = pooled(TRANSACTION) else { return };
    // Without a shipper, whose statements would be in the way.
    let Pooled { scene, pooler, url, shipper } = it;
    drop(shipper);
    let mut another = Client::connect(&url, NoTls).expect("connects");
    another.batch_execute("DISCARD ALL").expect("discarded");
    let set = "SET search_path = public, pg_catalog; SET TIME ZONE 'Asia/Kathmandu'";
    another.batch_execute(set).expect("set");
    for look in looks(&url) {
        printed(look);
    }
    drop(pooler);
    scene.check();
}
