//! Where a fleet's database is, and connections to it.

use std::{
    net::{IpAddr, ToSocketAddrs},
    time::Duration,
};

use postgres::{
    Client, Config, NoTls, Transaction,
    config::{Host, SslMode},
    error::SqlState,
};

use super::{
    secret::{self, Login},
    tls::Tls,
};
use crate::error::{Error, Kind, Result};

const CONNECT: Duration = Duration::from_secs(10);
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// The settings of each connection. Times are shown in UTC. A statement that hangs is canceled, and
/// so is a transaction whose client has vanished, since it holds the row of its stream. Functions
/// and operators are those of PostgreSQL, whatever another user has created in `public`.
const SESSION: &str = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '20s'; SET TIME ZONE 'UTC';
    SET search_path = pg_catalog";
/// Begins a transaction that reads: one state of the database, with the settings that a pooler may
/// not have kept.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '60s';
    SET LOCAL idle_in_transaction_session_timeout = '20s'; SET LOCAL TIME ZONE 'UTC'; SET LOCAL search_path = pg_catalog";
/// What `search_path` is while these settings are in effect.
const SEARCH_PATH: &str = "pg_catalog";
/// What to do where they are not, or where prepared statements are missing: the connection does not
/// keep its session.
const POOLER: &str = "; the address leads to a pooler that does not keep sessions: use PgBouncer with pool_mode = session, or connect to \
     the server itself";

/// The address of a fleet's database.
///
/// `postgresql://USER@HOST:PORT/DATABASE`, with the parameters of libpq. Every connection that
/// leaves the machine is encrypted and the server's certificate is verified, by the system's
/// certificates or those of `sslrootcert`; `sslcert` and `sslkey` name the client's own. A password
/// comes from `PGPASSWORD`, from the file `PGPASSFILE` or from the systemd credential `pgpass`.
#[derive(Clone, Debug)]
pub struct Address {
    config: Config,
    /// `None` for a connection that does not leave the machine.
    tls: Option<Tls>,
    shown: String,
    /// The address without the user and the parameters of this client alone.
    url: Url,
    /// Whether all places that may contain a password have been searched.
    has_looked_for_secret: bool,
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// Invalid input if it is not an address, contains a password, or asks for an unverified
    /// connection.
    pub fn parse(url: &str) -> Result<Self> {
        Self::new(url, false)
    }

    /// Parses an address whose connections accept any certificate of the server: they are
    /// encrypted, but an attacker in the middle is not detected.
    ///
    /// # Errors
    ///
    /// Like [`Address::parse`], and if the address requires verification.
    pub fn parse_unverified(url: &str) -> Result<Self> {
        Self::new(url, true)
    }

    fn new(url: &str, unverified: bool) -> Result<Self> {
        let url = Url::split(url)?;
        let rest = &url.rest;
        let invalid = |error: postgres::Error| {
            Error::invalid("the address of the fleet's database is not valid").with_source(error)
        };
        let mut config: Config = rest.parse().map_err(invalid)?;
        if config.get_password().is_some() {
            return Err(Error::invalid(
                "the address contains a password, which every user of this machine can read in /proc: change it, and pass \
                 the new one in PGPASSWORD, in a file that PGPASSFILE names, or as the systemd credential `pgpass`",
            ));
        }
        if config.get_user().is_none() {
            return Err(Error::invalid(
                "the address names no user: postgresql://USER@HOST/DATABASE",
            ));
        }
        let stays = stays_on_the_machine(&mut config)?;
        let tls = url.tls(stays, unverified)?;
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        if tls.is_some() && config.get_hosts().iter().any(is_socket) {
            return Err(Error::invalid(
                "the address names a Unix socket, which has no TLS: name it as the only host, without sslmode",
            ));
        }
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .connect_timeout(CONNECT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(UNACKNOWLEDGED)
            .application_name("procledger");
        let shown = shown(&config);
        Ok(Self { config, tls, shown, url, has_looked_for_secret: false })
    }

    /// Reads the password now, before this process becomes a user that cannot read it.
    ///
    /// # Errors
    ///
    /// If a file of passwords is missing, or other users can read it.
    pub fn with_secret(mut self) -> Result<Self> {
        if let Some(password) = self.password()? {
            self.config.password(password);
        }
        self.has_looked_for_secret = true;
        Ok(self)
    }

    /// Connects.
    pub(crate) fn connect(&self) -> Result<Client> {
        let mut config = self.config.clone();
        if !self.has_looked_for_secret
            && let Some(password) = self.password()?
        {
            config.password(password);
        }
        let connected = match &self.tls {
            None => config.connect(NoTls),
            Some(tls) => config.connect(tls.connector()?),
        };
        let mut client = connected.map_err(|error| self.not_connected(error))?;
        client.batch_execute(SESSION).map_err(|error| self.not_connected(error))?;
        Ok(client)
    }

    /// Returns the login.
    pub(super) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// Returns the same address for another user, as a URL.
    pub(crate) fn url_of(&self, user: &str) -> String {
        let (scheme, place) = self.url.rest.split_once("://").unwrap_or_default();
        let (place, parameters) = place.split_once('?').unwrap_or((place, ""));
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        let others = parameters.split('&').filter(|it| !it.is_empty() && !it.starts_with("user="));
        let others = others.map(str::to_owned);
        let ours = [("sslmode", &self.url.mode), ("sslrootcert", &self.url.roots)];
        let ours = ours.into_iter().filter_map(|(name, value)| {
            value.as_ref().map(|value| format!("{name}={}", encoded(value)))
        });
        let parameters = others.chain(ours).collect::<Vec<_>>().join("&");
        let separator = if parameters.is_empty() { "" } else { "?" };
        let url = format!("{scheme}://{}@{place}{separator}{parameters}", encoded(user));
        // It is written in single quotes.
        url.replace('\'', "%27")
    }

    fn password(&self) -> Result<Option<String>> {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name,
            _ => "localhost",
        };
        let user = self.user();
        secret::password(Login {
            host,
            port: port(&self.config),
            database: self.config.get_dbname().unwrap_or(user),
            user,
        })
    }

    fn not_connected(&self, error: postgres::Error) -> Error {
        let code = error.code().map_or("", SqlState::code);
        let reason = cause(&error);
        let user = quoted(self.user());
        let (kind, advice) = match code.get(..2) {
            Some("28") if code == SqlState::INVALID_PASSWORD.code() => {
                let advice = format!(
                    "; check PGPASSWORD or PGPASSFILE, or as the owner: ALTER ROLE {user} PASSWORD '…'"
                );
                (Kind::Denied, advice)
            }
            Some("28") => {
                let advice = "; check pg_hba.conf, and that the role exists: `procledger fleet enroll` creates that of a host";
                (Kind::Denied, advice.to_owned())
            }
            // A configuration that the `postgres` crate reports by this text alone.
            None if reason.ends_with("password missing") => {
                let advice = "; pass it in PGPASSWORD, in a line for this login in the file that PGPASSFILE names, or as the \
                     systemd credential `pgpass`";
                (Kind::Denied, advice.to_owned())
            }
            Some("3D") => (Kind::NotFound, "; create it with createdb(1)".to_owned()),
            // A cause of another kind: the network, or a server that is starting or full.
            _ => (Kind::Busy, String::new()),
        };
        with_cause(kind, format!("cannot connect to {}: {reason}{advice}", self.shown), error)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Returns the error of a failed statement in one line, with what to do.
pub(crate) fn failed(what: &str, error: postgres::Error) -> Error {
    let code = error.code().cloned();
    // The server names a file, which is another one at each attempt.
    let is_full = code == Some(SqlState::DISK_FULL);
    let cause = if is_full { "the server's disk is full".to_owned() } else { cause(&error) };
    let (kind, advice) = match code {
        Some(SqlState::DISK_FULL) => (
            Kind::Busy,
            "; make room there: shippers continue by themselves, and nothing is lost meanwhile",
        ),
        Some(SqlState::INSUFFICIENT_PRIVILEGE) => (
            Kind::Denied,
            "; as the owner: GRANT fleet_read TO … (to read) or GRANT fleet_ship TO … (to ship); init, enroll, maintain and \
             forget are for the owner alone, a user that may create schemas and roles",
        ),
        Some(
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN | SqlState::INVALID_SCHEMA_NAME,
        ) => (Kind::NotFound, "; create or upgrade the schema with `procledger fleet init`"),
        Some(SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED) => {
            (Kind::Busy, "; it is safe to try again")
        }
        Some(SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT) => {
            (Kind::Unsupported, POOLER)
        }
        Some(SqlState::READ_ONLY_SQL_TRANSACTION) => (
            Kind::Busy,
            "; the server is a standby, or default_transaction_read_only is set for the role or the database",
        ),
        Some(_) => (Kind::Other, ""),
        None => (Kind::Busy, ""),
    };
    with_cause(kind, format!("failed to {what}: {cause}{advice}"), error)
}

/// Reads in one transaction: all of its statements see one state of the database.
pub(super) fn read<T>(
    client: &mut Client,
    what: &str,
    statements: impl FnOnce(&mut Client) -> Result<T>,
) -> Result<T> {
    client.batch_execute(SNAPSHOT).map_err(|error| failed(what, error))?;
    let found = statements(client);
    // After a statement that has failed, this is a ROLLBACK.
    let ended = client.batch_execute("COMMIT").map_err(|error| failed(what, error));
    found.and_then(|found| ended.map(|()| found))
}

/// Begins a transaction, if the session has the settings of [`Address::connect`].
pub(super) fn begin<'a>(client: &'a mut Client, what: &str) -> Result<Transaction<'a>> {
    let mut transaction = client.transaction().map_err(|error| failed(what, error))?;
    let search_path = transaction.query_one(include_str!("statements/search_path.sql"), &[]);
    if has_session(search_path.map_err(|error| failed(what, error))?.get(0)) {
        Ok(transaction)
    } else {
        Err(lost_session(what))
    }
}

/// Reports whether a transaction with this `search_path` has the settings of [`Address::connect`].
pub(super) fn has_session(search_path: &str) -> bool {
    search_path == SEARCH_PATH
}

/// Returns the error for a transaction that does not have them.
pub(super) fn lost_session(what: &str) -> Error {
    let message = format!("failed to {what}: the settings of the session are lost{POOLER}");
    Error::new(Kind::Unsupported, message)
}

/// Returns an error whose message contains its cause. The server's own is not repeated as a source:
/// it would follow the advice.
fn with_cause(kind: Kind, message: String, cause: postgres::Error) -> Error {
    let error = Error::new(kind, message);
    if cause.as_db_error().is_some() { error } else { error.with_source(cause) }
}

/// Returns the reason in one line: that of the server, or that of the connection.
fn cause(error: &postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return db.message().to_owned();
    }
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Quotes a name for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An address, split from the parameters that libpq knows and the `postgres` crate does not.
#[derive(Clone, Debug)]
struct Url {
    rest: String,
    mode: Option<String>,
    roots: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Url {
    fn split(url: &str) -> Result<Self> {
        if !["postgresql://", "postgres://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(Error::invalid(
                "the address of the fleet's database begins with postgresql://, as in postgresql://USER@HOST/DATABASE",
            ));
        }
        let (place, parameters) = url.split_once('?').unwrap_or((url, ""));
        let mut url =
            Self { rest: place.to_owned(), mode: None, roots: None, certificate: None, key: None };
        let mut separator = '?';
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let ours = match name {
                "sslmode" => &mut url.mode,
                "sslrootcert" => &mut url.roots,
                "sslcert" => &mut url.certificate,
                "sslkey" => &mut url.key,
                _ => {
                    url.rest.push(separator);
                    url.rest.push_str(parameter);
                    separator = '&';
                    continue;
                }
            };
            *ours = Some(decoded(value)?);
        }
        Ok(url)
    }

    fn tls(&self, stays: bool, unverified: bool) -> Result<Option<Tls>> {
        let client = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err(Error::invalid("sslcert and sslkey belong together: one is missing")),
        };
        let tls = Tls { roots: self.roots.as_ref().map(Into::into), client, unverified };
        let certificates =
            [("sslrootcert", &self.roots), ("sslcert", &self.certificate), ("sslkey", &self.key)];
        let certificate =
            certificates.iter().find(|(_, file)| file.is_some()).map(|(name, _)| name);
        match (self.mode.as_deref(), certificate) {
            (None | Some("disable"), Some(name)) if stays => Err(Error::invalid(format!(
                "{name} has no effect without TLS: add sslmode=verify-full, or remove {name}"
            ))),
            (None | Some("disable"), None) if stays => Ok(None),
            (Some(mode @ ("verify-full" | "verify-ca")), _) if unverified => {
                Err(contradiction(&format!("sslmode={mode}")))
            }
            _ if unverified && self.roots.is_some() => Err(contradiction("sslrootcert")),
            (None | Some("verify-full"), _) => Ok(Some(tls)),
            (Some("require"), _) if unverified => Ok(Some(tls)),
            (Some(mode), _) => Err(Error::invalid(format!(
                "sslmode={mode} is refused: a connection that leaves the machine is encrypted and verified (verify-full, the \
                 default); `--insecure-tls` accepts any certificate"
            ))),
        }
    }
}

fn contradiction(parameter: &str) -> Error {
    Error::invalid(format!(
        "`--insecure-tls` accepts any certificate, and {parameter} in the address verifies it: remove one of them"
    ))
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::invalid("the address is not UTF-8").with_source(error))
}

/// Percent-encodes all bytes that may have a meaning in a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Reports whether all hosts are Unix sockets or loopback addresses. The name `localhost` is
/// replaced by the addresses that it has now, so that the connection uses the addresses that were
/// checked.
fn stays_on_the_machine(config: &mut Config) -> Result<bool> {
    let mut addresses = config.get_hostaddrs().to_vec();
    if addresses.is_empty() && config.get_hosts() == [Host::Tcp("localhost".to_owned())] {
        let found = ("localhost", port(config)).to_socket_addrs();
        let found = found.map_err(|error| Error::os("failed to look up localhost", error))?;
        addresses.extend(found.map(|found| found.ip()).filter(IpAddr::is_loopback));
        use_addresses(config, &addresses);
    }
    if config.get_hosts().is_empty() && addresses.is_empty() {
        return Err(Error::invalid("the address names no host: postgresql://USER@HOST/DATABASE"));
    }
    let is_local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
    };
    Ok(if addresses.is_empty() {
        config.get_hosts().iter().all(is_local)
    } else {
        addresses.iter().all(IpAddr::is_loopback)
    })
}

/// Sets the addresses of a single host, which are tried one after the other: a server may listen on
/// only one of them.
fn use_addresses(config: &mut Config, addresses: &[IpAddr]) {
    let host = config.get_hosts().first().cloned();
    for (index, address) in addresses.iter().enumerate() {
        // Each address has a host of its own.
        if let (1.., Some(Host::Tcp(name))) = (index, &host) {
            config.host(name);
        }
        config.hostaddr(*address);
    }
}

fn port(config: &Config) -> u16 {
    config.get_ports().first().copied().unwrap_or(5432)
}

fn shown(config: &Config) -> String {
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => format!("{name}:{}", port(config)),
        Some(Host::Unix(folder)) => folder.display().to_string(),
        None => config.get_hostaddrs().first().map_or_else(String::new, ToString::to_string),
    };
    format!("database `{database}` at {host} as `{user}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_leaves_the_machine_is_verified() {
        for (url, tls) in [
            ("postgresql://u@db.example/fleet", true),
            ("postgres://u@10.0.0.1:5433/fleet?sslmode=verify-full&sslrootcert=%2Fca.pem", true),
            ("postgresql://u@127.0.0.1/fleet", false),
            ("postgresql://u@[::1]/fleet?sslmode=disable", false),
            ("postgresql://u@localhost/fleet", false),
            ("postgresql://u@127.0.0.1/fleet?sslmode=verify-full", true),
            ("postgresql://u@%2Frun%2Fpostgresql/fleet", false),
            ("postgresql:///fleet?host=/run/postgresql&user=u", false),
            ("postgresql://u@127.0.0.1,db.example/fleet", true),
            ("postgresql://u@localhost/fleet?hostaddr=10.0.0.1", true),
            ("postgresql://u@db.example/fleet?hostaddr=127.0.0.1", false),
            ("postgresql://u@localhost,127.0.0.1/fleet", true),
            ("postgresql://u@[::ffff:127.0.0.1]/fleet", true),
            ("postgresql://u@0.0.0.0/fleet", true),
            ("postgresql://u@localhost.example/fleet", true),
        ] {
            let address = Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error:?}"));
            assert_eq!(address.tls.is_some(), tls, "{url}");
            let verified = address.tls.is_none_or(|tls| !tls.unverified);
            assert!(verified, "{url}");
        }
    }

    #[test]
    fn each_address_of_a_host_is_tried() {
        let addresses = ["::1", "127.0.0.1"].map(|address| address.parse().expect("valid"));
        let mut config: Config = "postgresql://u@localhost:1/fleet".parse().expect("valid");
        use_addresses(&mut config, &addresses);
        assert_eq!(config.get_hostaddrs(), addresses);
        assert_eq!(config.get_hosts(), ["localhost"; 2].map(|name| Host::Tcp(name.to_owned())));
        let tried = config.connect_timeout(CONNECT).connect(NoTls).map(drop);
        let error = cause(&tried.expect_err("nothing listens"));
        assert!(error.contains("os error"), "as many hosts as addresses: {error}");
    }

    #[test]
    fn what_would_not_be_verified_is_refused() {
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            let url = format!("postgresql://u@db.example/fleet?sslmode={mode}");
            let error = Address::parse(&url).expect_err(mode);
            assert!(error.is_invalid_input() && error.to_string().contains(mode), "{error}");
        }
        for mode in ["disable", "allow", "prefer"] {
            let url = format!("postgresql://u@db.example/fleet?sslmode={mode}");
            Address::parse_unverified(&url).expect_err(mode);
        }
        for mode in ["allow", "prefer"] {
            let url = format!("postgresql://u@127.0.0.1/fleet?sslmode={mode}");
            Address::parse(&url).expect_err(mode);
        }
        let unverified =
            Address::parse_unverified("postgresql://u@db.example/fleet?sslmode=require");
        assert!(unverified.expect("valid").tls.expect("TLS").unverified);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (place, parameter) in [
            ("db.example", "sslmode=verify-full"),
            ("db.example", "sslmode=verify-ca"),
            ("127.0.0.1", "sslmode=verify-full"),
            ("db.example", "sslrootcert=/ca.pem"),
            ("db.example", "sslmode=require&sslrootcert=/ca.pem"),
        ] {
            let url = format!("postgresql://u@{place}/fleet?{parameter}");
            let error = Address::parse_unverified(&url).expect_err(&url).to_string();
            let named = parameter.rsplit('&').next().and_then(|it| it.split("=/").next());
            assert!(error.contains("`--insecure-tls`") && error.contains(named.expect("a name")));
        }
        for (url, named) in [
            ("postgresql://u@localhost/fleet?sslrootcert=/ca.pem", "sslrootcert has no effect"),
            ("postgresql://u@127.0.0.1/f?sslmode=disable&sslcert=/c&sslkey=/k", "sslcert has"),
            ("postgresql:///fleet?host=/run/postgresql&user=u&sslrootcert=/ca.pem", "sslrootcert"),
            ("postgresql://u@%2Frun%2Fpostgresql/fleet?sslmode=verify-full", "Unix socket"),
            ("postgresql://u@%2Frun%2Fpostgresql,db.example/fleet", "Unix socket"),
            ("postgresql:///fleet?host=/run/postgresql&hostaddr=10.0.0.1&user=u", "Unix socket"),
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(error.is_invalid_input() && error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for url in [
            "postgresql://u:hunter2@db.example/fleet",
            "postgresql://u@db.example/fleet?password=hunter2",
        ] {
            let error = Address::parse(url).expect_err("a password");
            assert!(error.to_string().contains("PGPASSFILE"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn an_address_can_be_that_of_another_user() {
        for (url, expected) in [
            ("postgresql://u@db.example:5433/fleet", "postgresql://web%401@db.example:5433/fleet"),
            (
                "postgresql:///fleet?host=/run/postgresql&user=u",
                "postgresql://web%401@/fleet?host=/run/postgresql",
            ),
            (
                "postgres://u@db/fleet?sslcert=%2Fc&sslkey=/k&sslrootcert=/a%20b&sslmode=verify-full",
                "postgres://web%401@db/fleet?sslmode=verify-full&sslrootcert=/a%20b",
            ),
            ("postgresql://u@db/o'brien", "postgresql://web%401@db/o%27brien"),
        ] {
            let other = Address::parse(url).expect("valid").url_of("web@1");
            assert_eq!(other, expected);
            let other = Address::parse(&other).expect("valid");
            assert_eq!(other.config.get_user(), Some("web@1"));
        }
    }

    #[test]
    fn an_address_is_shown_without_its_parameters() {
        let address = Address::parse("postgresql://web-1@db.example/fleet").expect("valid");
        assert_eq!(address.to_string(), "database `fleet` at db.example:5432 as `web-1`");
    }
}
