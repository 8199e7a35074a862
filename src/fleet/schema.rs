//! The schema of a fleet's database: its migrations, roles and rights.
//!
//! Unlike a ledger's, this schema is upgraded by its owner alone, with `procledger fleet init`.
//! Columns are only added, and every statement names its columns, so shippers of the previous
//! version continue to work.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use postgres::{Client, GenericClient, error::SqlState};
use uuid::Uuid;

use super::connection::{Address, begin, failed};
use crate::error::{Error, Kind, Result};

/// The migrations in their order: the first one leads to version 1.
const MIGRATIONS: [&str; 2] =
    [include_str!("schema/01-fleet.sql"), include_str!("schema/02-hours.sql")];
/// The statements that Citus needs after each of them.
const CITUS: [&str; 2] =
    [include_str!("schema/01-fleet-citus.sql"), include_str!("schema/02-hours-citus.sql")];
const PARTITIONS: &str = include_str!("schema/partitions.sql");
const PARTITION: &str = include_str!("schema/partition.sql");
const RIGHTS: &str = include_str!("schema/rights.sql");
const RIGHTS_COCKROACH: &str = include_str!("schema/rights-cockroach.sql");
const POLICIES: &str = include_str!("schema/policies.sql");

/// The roles besides the owner: one reads everything, the other adds to its own streams.
const ROLES: [&str; 2] = ["fleet_read", "fleet_ship"];
/// The largest number of past weeks whose partitions are created, and the number of coming weeks.
const WEEKS_BACK: u64 = 53;
const WEEKS_AHEAD: u64 = 4;

/// The version that this program knows.
pub(crate) const VERSION: i32 = 2;
/// How long history is kept by default.
pub(super) const KEEP: Duration = Duration::from_hours(90 * 24);

/// An engine that speaks PostgreSQL's protocol. They differ in how tables are created, and in
/// nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL 13 or newer, and compatible databases.
    #[default]
    Postgres,
    /// PostgreSQL with Citus: each table is distributed by stream.
    Citus,
    /// CockroachDB.
    Cockroach,
}

impl Engine {
    /// Returns its name, as in the table `meta`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Citus => "citus",
            Self::Cockroach => "cockroach",
        }
    }

    pub(super) fn has_partitions(self) -> bool {
        self != Self::Cockroach
    }
}

/// A fleet, as its database describes it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Meta {
    /// Identifies the fleet.
    pub fleet: Uuid,
    /// Version of the schema.
    pub version: i32,
    /// The oldest version of the schema whose shippers may still write.
    pub oldest_shipper: i32,
    /// The engine that the schema was created for.
    pub engine: Engine,
    /// How long history is kept.
    pub keep: Duration,
}

/// How a schema is created or upgraded.
#[derive(Clone, Debug, Default)]
pub struct Init {
    engine: Option<Engine>,
    keep: Option<Duration>,
}

impl Init {
    /// Creates the schema of this engine. The default is PostgreSQL, or the engine that the schema
    /// was created for.
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Keeps history for this long: 90 days by default, or what was set before.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = Some(keep);
        self
    }

    /// Returns the SQL that [`run`](Self::run) executes in a database without the schema.
    pub fn sql(&self) -> String {
        let roles = ROLES.map(|role| format!("CREATE ROLE {role};\n")).concat();
        let engine = self.engine.unwrap_or_default();
        format!("{roles}BEGIN;\n{}COMMIT;\n", self.steps(0, engine, Utc::now()))
    }

    /// Creates the schema, or upgrades an older one. Returns the version that it had, 0 for none,
    /// and what it is now. Running it again changes nothing but how long history is kept.
    ///
    /// # Errors
    ///
    /// Newer if a newer version of this crate has upgraded the schema; if the database cannot be
    /// reached, or the user may not create schemas and roles.
    pub fn run(&self, address: &Address) -> Result<(i32, Meta)> {
        let mut client = connect_as_owner(address)?;
        let mut transaction = begin(&mut client, "read the fleet's version")?;
        check_encoding(&mut transaction)?;
        let found = find(&mut transaction)?;
        drop(transaction);
        let before = found.as_ref().map_or(0, |found| found.version);
        if before > VERSION {
            return Err(newer(before));
        }
        if let (Some(found), Some(engine)) = (&found, self.engine)
            && found.engine != engine
        {
            let message = format!(
                "the schema was created for {}, and cannot become one for {}",
                found.engine.as_str(),
                engine.as_str()
            );
            return Err(Error::invalid(message));
        }
        for role in ROLES {
            make_role(&mut client, role)?;
        }
        let engine = found.map_or_else(|| self.engine.unwrap_or_default(), |found| found.engine);
        let what = "create the schema";
        let mut transaction = begin(&mut client, what)?;
        // An upgrade may read all leaks.
        let sql = "SET LOCAL statement_timeout = 0";
        transaction.batch_execute(sql).map_err(|error| failed(what, error))?;
        if before < VERSION {
            let steps = self.steps(before, engine, now(&mut transaction)?);
            transaction.batch_execute(&steps).map_err(|error| failed(what, error))?;
        }
        if let Some(keep) = self.keep {
            transaction
                .execute(include_str!("statements/keep.sql"), &[&milliseconds(keep)])
                .map_err(|error| failed("set how long history is kept", error))?;
        }
        let meta = meta(&mut transaction)?;
        transaction.commit().map_err(|error| failed(what, error))?;
        Ok((before, meta))
    }

    /// Returns the SQL that upgrades the schema from a version to the latest one.
    fn steps(&self, from: i32, engine: Engine, now: DateTime<Utc>) -> String {
        let done = usize::try_from(from).unwrap_or(0);
        let mut sql: String = MIGRATIONS[done..].concat();
        let postgres = engine.has_partitions();
        for (name, value) in [
            ("{fillfactor}", if postgres { " WITH (fillfactor = 70)" } else { "" }),
            ("{partitioned}", if postgres { " PARTITION BY RANGE (started_at)" } else { "" }),
            ("{fleet}", &Uuid::new_v4().to_string()),
            ("{engine}", engine.as_str()),
            ("{keep_ms}", &milliseconds(self.keep.unwrap_or(KEEP)).to_string()),
        ] {
            sql = sql.replace(name, value);
        }
        if from == 0 && postgres {
            sql.push_str(PARTITIONS);
            let keep = self.keep.unwrap_or(KEEP);
            for week in weeks(now, keep) {
                sql.push_str(&partition(week));
            }
        }
        if engine == Engine::Citus {
            sql.push_str(&CITUS[done..].concat());
        }
        sql.push_str(if postgres { RIGHTS } else { RIGHTS_COCKROACH });
        if from == 0 {
            sql.push_str(POLICIES);
        }
        sql
    }
}

/// Returns the Mondays of the weeks whose partitions should exist.
pub(super) fn weeks(now: DateTime<Utc>, keep: Duration) -> BTreeSet<NaiveDate> {
    let today = now.date_naive();
    let monday = today - Days::new(u64::from(today.weekday().num_days_from_monday()));
    let back = (keep.as_secs() / (7 * 86_400)).min(WEEKS_BACK);
    (0..=back + WEEKS_AHEAD)
        .map(|week| monday - Days::new(7 * back) + Days::new(7 * week))
        .collect()
}

/// Returns the SQL that creates the partition of a week.
pub(super) fn partition(monday: NaiveDate) -> String {
    let next = monday + Days::new(7);
    PARTITION
        .replace("{from}", &monday.format("%Y%m%d").to_string())
        .replace("{from_day}", &monday.to_string())
        .replace("{to_day}", &next.to_string())
}

/// Returns the time by the clock of the database: that of this machine must not decide which
/// history is old.
pub(super) fn now(client: &mut impl GenericClient) -> Result<DateTime<Utc>> {
    let row = client.query_one(include_str!("statements/now.sql"), &[]);
    Ok(row.map_err(|error| failed("read the clock of the database", error))?.get(0))
}

pub(super) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Connects as the owner of the schema. It checks who owns the schema before anything in it is
/// used.
///
/// # Errors
///
/// Denied to a superuser if the schema belongs to an ordinary role: a view or a trigger of that
/// role would have all rights.
pub(super) fn connect_as_owner(address: &Address) -> Result<Client> {
    let what = "look for the owner of the schema `fleet`";
    let mut client = address.connect()?;
    let owner =
        begin(&mut client, what)?.query_opt(include_str!("statements/foreign_owner.sql"), &[]);
    match owner.map_err(|error| failed(what, error))? {
        None => Ok(client),
        Some(owner) => {
            let owner: String = owner.get(0);
            let message = format!(
                "the schema `fleet` belongs to `{owner}`, which is not a superuser: whatever it contains would run with the rights \
                 of `{}`; connect as `{owner}`",
                address.user()
            );
            Err(Error::new(Kind::Denied, message))
        }
    }
}

/// Refuses a database that cannot store every text: one name that it cannot represent would stop a
/// host permanently.
fn check_encoding(client: &mut impl GenericClient) -> Result<()> {
    let encoding = client.query_one(include_str!("statements/encoding.sql"), &[]);
    let encoding: String =
        encoding.map_err(|error| failed("read the encoding of the database", error))?.get(0);
    if encoding == "UTF8" {
        return Ok(());
    }
    let message = format!(
        "the database has the encoding {encoding}, and the names of tasks and programs may be of any: create it with \
         `createdb --encoding=UTF8 --template=template0`"
    );
    Err(Error::new(Kind::Unsupported, message))
}

fn make_role(client: &mut Client, role: &str) -> Result<()> {
    let what = format!("create the role {role}");
    let mut transaction = begin(client, &what)?;
    let found = transaction.query_one(include_str!("statements/has_role.sql"), &[&role]);
    if found.map_err(|error| failed(&what, error))?.get::<_, i64>(0) > 0 {
        return Ok(());
    }
    let made = transaction.batch_execute(&format!("CREATE ROLE {role}"));
    match made.and_then(|()| transaction.commit()) {
        // Roles belong to all databases of a server: another `init` may have been faster.
        Err(error)
            if [Some(&SqlState::DUPLICATE_OBJECT), Some(&SqlState::UNIQUE_VIOLATION)]
                .contains(&error.code()) =>
        {
            Ok(())
        }
        made => made.map_err(|error| failed(&what, error)),
    }
}

/// Reads the description of the fleet, if the database has one.
fn find(client: &mut impl GenericClient) -> Result<Option<Meta>> {
    let found = client.query_one(include_str!("statements/has_schema.sql"), &[]);
    let found = found.map_err(|error| failed("look for the schema `fleet`", error))?;
    if found.get::<_, i64>(0) == 0 { Ok(None) } else { meta(client).map(Some) }
}

/// Reads the description of the fleet.
pub(crate) fn meta(client: &mut impl GenericClient) -> Result<Meta> {
    let row = client.query_one(include_str!("statements/meta.sql"), &[]);
    let row = row.map_err(|error| failed("read the fleet's version", error))?;
    let engine = match row.get("engine") {
        "cockroach" => Engine::Cockroach,
        "citus" => Engine::Citus,
        _ => Engine::Postgres,
    };
    let keep = u64::try_from(row.get::<_, i64>("keep_ms")).unwrap_or(0);
    Ok(Meta {
        fleet: row.get("fleet"),
        version: row.get("version"),
        oldest_shipper: row.get("oldest_shipper"),
        engine,
        keep: Duration::from_millis(keep),
    })
}

/// Returns the uuid of the fleet, if this version may write to it.
///
/// # Errors
///
/// Newer if the schema has changed so much that shippers of this version may not write any more.
pub(super) fn shippable(client: &mut Client) -> Result<Uuid> {
    let meta = meta(client)?;
    if meta.oldest_shipper > VERSION {
        return Err(newer(meta.version));
    }
    Ok(meta.fleet)
}

pub(super) fn newer(version: i32) -> Error {
    let message = format!(
        "the fleet's schema has version {version}, and this program knows version {VERSION}: update the program"
    );
    Error::new(Kind::Newer, message)
}
