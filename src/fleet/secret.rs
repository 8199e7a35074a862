//! Passwords for the fleet's database: from the environment, from a file that only this user can
//! read, or from systemd.
//!
//! Never from an address: every user of the machine can read a command line in `/proc`.

use std::{
    env, fs,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::error::{Error, Kind, Result};

/// The credential that `LoadCredential=pgpass:/etc/procledger/pgpass` hands to a unit.
const CREDENTIAL: &str = "pgpass";

/// What a line of a password file has to match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// Returns the password of a login; `None` if there is none, as for client certificates or peer
/// authentication.
///
/// In this order: `PGPASSWORD`, the file `PGPASSFILE`, the credential `pgpass` of a systemd unit.
pub(super) fn password(login: Login<'_>) -> Result<Option<String>> {
    if let Some(password) = env::var("PGPASSWORD").ok().filter(|password| !password.is_empty()) {
        return Ok(Some(password));
    }
    if let Some(file) = env::var_os("PGPASSFILE").filter(|file| !file.is_empty()) {
        return Ok(find(&read_private(Path::new(&file), "password file")?, login));
    }
    if let Some(folder) = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) {
        // Its folder is accessible to the unit's user alone; the mode of the file depends on how
        // systemd could provide it.
        if let Ok(text) = fs::read_to_string(folder.join(CREDENTIAL)) {
            return Ok(find(&text, login));
        }
    }
    Ok(None)
}

/// Reads a file that belongs to this user and that no other one can read.
pub(super) fn read_private(path: &Path, what: &str) -> Result<String> {
    let failed =
        |error| Error::os(format!("failed to read the {what} `{}`", path.display()), error);
    let mut file = fs::File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    let mode = found.permissions().mode() & 0o777;
    let uid = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 || found.uid() != uid {
        let message = format!(
            "the {what} `{}` has mode {mode:o} and belongs to uid {}: it has to belong to uid {uid} with mode 600",
            path.display(),
            found.uid(),
        );
        return Err(Error::new(Kind::Denied, message));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Returns the password of the first line that matches: `host:port:database:user:password`, where
/// `*` matches everything and a backslash escapes a colon or a backslash.
fn find(text: &str, login: Login<'_>) -> Option<String> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.database, login.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = fields(line);
        let password = (fields.len() == 5).then(|| fields.pop())??;
        let matches = |(field, wanted): (&String, &&str)| field == "*" || field == wanted;
        fields.iter().zip(&wanted).all(matches).then_some(password)
    })
}

fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut chars) = (Vec::new(), String::new(), line.chars());
    while let Some(char) = chars.next() {
        match char {
            '\\' => field.extend(chars.next()),
            // The last field is the rest of the line.
            ':' if fields.len() < 4 => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_matches_has_the_password() {
        let text = "# comment\nother:5432:*:*:no\ndb:*:fleet:we\\:b:a\\\\b:c\n*:*:*:*:last\n";
        let login = |host, user| Login { host, port: 5432, database: "fleet", user };
        assert_eq!(find(text, login("db", "we:b")).as_deref(), Some("a\\b:c"));
        assert_eq!(find(text, login("db", "web")).as_deref(), Some("last"));
        assert_eq!(find("too:few:fields\n", login("db", "web")), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "*:*:*:*:secret\n").expect("written");
        assert!(read_private(file.path(), "password file").is_ok());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("its mode");
        let error = read_private(file.path(), "password file").expect_err("readable by a group");
        assert!(error.is_denied() && error.to_string().contains("mode 640"), "{error}");
    }
}
