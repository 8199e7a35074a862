//! A login of its own for a host.

use postgres_protocol::password::scram_sha_256;
use uuid::Uuid;

use super::{
    connection::{Address, begin, failed, quoted},
    schema,
};
use crate::error::{Error, Kind, Result};

/// Longer names are cut off by PostgreSQL, and could then be the same.
const LONGEST: usize = 63;

/// The login of a host: it can add to the streams that it has created, and cannot see those of
/// others.
#[derive(Debug)]
#[non_exhaustive]
pub struct Enrollment {
    /// The address of the database for this login.
    pub url: String,
    /// The login.
    pub login: String,
    /// Its password, which the database has only as a hash.
    pub password: String,
    /// Whether the login already existed: its former password is no longer valid.
    pub existed: bool,
}

/// Creates the login of a host, or gives it a new password.
///
/// # Errors
///
/// Invalid input if the name is empty or too long; denied if a role of this name exists for another
/// purpose, or if the user may not create roles.
pub fn enroll(address: &Address, host: &str) -> Result<Enrollment> {
    let login = format!("procledger-{host}");
    if host.is_empty() || login.len() > LONGEST || host.contains(char::is_control) {
        let message =
            format!("`{host}` cannot be the name of a host: at most 52 bytes, and not empty");
        return Err(Error::invalid(message));
    }
    let what = format!("create the login {login}");
    let mut client = schema::connect_as_owner(address)?;
    let mut transaction = begin(&mut client, &what)?;
    schema::meta(&mut transaction)?;
    let mut count = |statement| {
        let row = transaction.query_one(statement, &[&login]);
        row.map(|row| row.get::<_, i64>(0)).map_err(|error| failed(&what, error))
    };
    let existed = count(include_str!("statements/has_role.sql"))? > 0;
    if existed && count(include_str!("statements/role_is_ours.sql"))? == 0 {
        let message = format!(
            "the role {login} exists and is not the login of a host: it does not have fleet_ship"
        );
        return Err(Error::new(Kind::Denied, message));
    }
    let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    // The hash: what the server logs does not contain the password.
    let hash = scram_sha_256(password.as_bytes());
    let name = quoted(&login);
    let sql = if existed {
        format!("ALTER ROLE {name} LOGIN PASSWORD '{hash}'")
    } else {
        format!("CREATE ROLE {name} LOGIN PASSWORD '{hash}' IN ROLE fleet_ship")
    };
    transaction.batch_execute(&sql).map_err(|error| failed(&what, error))?;
    transaction.commit().map_err(|error| failed(&what, error))?;
    Ok(Enrollment { url: address.url_of(&login), login, password, existed })
}
