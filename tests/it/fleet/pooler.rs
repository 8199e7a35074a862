//! The pooler `PgBouncer` between the shipper and the server: in session mode, and in transaction mode.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use postgres::{Client, NoTls};
use procledger::fleet::Shipper;
use procledger_testing::{NOBODY, as_nobody};

use super::{
    equal::{Ledger, fleet_equals_ledger},
    fleet, printed,
    scene::{Scene, scene},
    server::Database,
    ship_copies::shipper_to,
};
use crate::support::{Guard, eventually, need, until};

/// Holds the pooler: ends it, and removes its folder, when the pipe ends, which comes with the end of the test process.
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
    /// Starts a pooler of this mode, with one connection to the server for all clients, or more where each client has its own.
    fn start(database: &Database, mode: &str) -> Self {
        // Not below TMPDIR: the path of a socket may have 107 bytes.
        let folder = tempfile::Builder::new().prefix("procledger-pool-").tempdir_in("/tmp");
        let folder = folder.expect("a folder").keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
        let size = if mode == "session" { 20 } else { 1 };
        let ini = format!(
            "[databases]\n* = {}\n[pgbouncer]\npool_mode = {mode}\ndefault_pool_size = {size}\nauth_type = trust\n\
             auth_file = {folder}/users\nunix_socket_dir = {folder}\nlisten_port = 6432\n",
            database.server(),
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

/// A fleet with one ledger behind a pooler, and a shipper that has shipped to it by way of the pooler.
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

/// Refuses to ship, in one line that says what to do, and writes nothing; afterwards nothing is missing and nothing twice.
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

#[test]
fn a_pooler_that_keeps_sessions_is_as_the_server_itself() {
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
    printed(fleet(&["maintain", "--to", &it.url]));
    assert_eq!(it.scene.stream("restarts, lost, gap"), "0|0|0\n0|0|0");
}

/// The next transaction comes to a connection with the settings of another client.
#[test]
fn a_shipper_whose_settings_are_lost_writes_nothing_and_says_which_mode_is_needed() {
    need!("pgbouncer");
    let Some(mut it) = pooled("transaction") else { return };
    let mut another = Client::connect(&it.url, NoTls).expect("connects");
    another.batch_execute("SET search_path = public, pg_catalog").expect("set");
    refuses(&mut it, "the settings of the session are lost");
    let mut other = Client::connect(&it.url, NoTls).expect("connects");
    other.batch_execute("DISCARD ALL").expect("discarded");
    refuses(&mut it, "prepared statement");
}

/// The next transaction comes to another connection, which does not have the statements.
#[test]
fn a_shipper_whose_connection_is_replaced_says_which_mode_is_needed() {
    need!("pgbouncer");
    let Some(mut it) = pooled("transaction") else { return };
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
fn a_fleet_is_read_by_way_of_a_pooler_of_either_mode() {
    need!("pgbouncer");
    let Some(it) = pooled("transaction") else { return };
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
