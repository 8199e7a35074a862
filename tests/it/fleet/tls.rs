//! Connections over TCP: encrypted, verified by a certificate authority of the test's own, and with
//! a password.

use std::{fs, path::Path, process::Command};

use super::{
    fleet, printed, refused,
    server::{OWNER, Server, Setup},
};
use crate::support::{Place, need};

/// Host name in the certificate of the server.
pub(super) const NAME: &str = "db.fleet.test";

fn openssl(folder: &Path, words: &[&str]) {
    let mut command = Command::new("openssl");
    let output = command.args(words).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// Makes `NAME.crt` and `NAME.key` of a certificate authority.
fn authority(folder: &Path, name: &str) {
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let subject = format!("/CN={name}");
    let own = ["-keyout", &key, "-out", &certificate, "-subj", &subject, "-days", "2"];
    openssl(folder, &[&["req", "-x509"], &NEW_KEY[..], &own].concat());
}

/// Makes `NAME.crt` and `NAME.key`, signed by an authority.
fn certificate(folder: &Path, by: &str, name: &str, subject: &str, days: &str) {
    let (key, request, certificate) =
        (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    let full = format!("/CN={subject}");
    let own = ["-keyout", &key, "-out", &request, "-subj", &full];
    openssl(folder, &[&["req", "-new"], &NEW_KEY[..], &own].concat());
    fs::write(folder.join("names"), format!("subjectAltName=DNS:{subject}\n")).expect("written");
    let (ca, ca_key) = (format!("{by}.crt"), format!("{by}.key"));
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    openssl(
        folder,
        &[&sign[..], &["-out", &certificate, "-days", days, "-extfile", "names"]].concat(),
    );
}

/// An address of the loopback network that no other test uses.
fn loopback() -> String {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    format!("127.{}.{}.{}", bytes[0] | 1, bytes[1], bytes[2] % 254 + 1)
}

/// A server whose certificate is of this name and of this authority, with passwords and client
/// certificates over TCP.
fn server(place: &Place, address: &str, of: &str) -> Option<Server> {
    let read = |name: &str| fs::read(place.path().join(name)).expect("a file");
    Server::start(&Setup {
        address: address.to_owned(),
        access: "local all all trust\n\
                 hostssl all by_certificate all cert\n\
                 hostssl all all all scram-sha-256\n"
            .to_owned(),
        files: vec![
            ("server.crt", read(&format!("{of}.crt"))),
            ("server.key", read(&format!("{of}.key"))),
            ("root.crt", read("ours.crt")),
        ],
        ..Setup::default()
    })
}

/// A server whose certificate is of [`NAME`] and of the authority whose certificate is `ours.crt`
/// in the place.
pub(super) fn server_at(place: &Place, address: &str) -> Option<Server> {
    authority(place.path(), "ours");
    certificate(place.path(), "ours", "server", NAME, "2");
    server(place, address, "server")
}

#[test]
fn a_server_is_verified_and_a_host_has_a_password() {
    need!("openssl");
    let place = Place::new();
    let folder = place.path();
    for name in ["ours", "theirs"] {
        authority(folder, name);
    }
    certificate(folder, "ours", "server", NAME, "2");
    certificate(folder, "ours", "client", "by_certificate", "2");
    certificate(folder, "theirs", "foreign", "by_certificate", "2");
    let address = loopback();
    let Some(server) = server(&place, &address, "server") else { return };
    let database = server.database();
    printed(fleet(&["init", "--to", &database.url()]));
    let sql = "CREATE ROLE by_certificate SUPERUSER LOGIN";
    database.client().batch_execute(sql).expect("made");
    let path = |name: &str| folder.join(name).display().to_string();
    let url = |user: &str, name: &str, rest: &str| {
        let database = database.name();
        format!(
            "postgresql://{user}@{name}/{database}?hostaddr={address}&sslmode=verify-full{rest}"
        )
    };
    let roots = format!("&sslrootcert={}", path("ours.crt"));

    // The file of a host, as `enroll` writes it.
    let owner = url("by_certificate", NAME, &roots);
    let (client, key) = (path("client.crt"), path("client.key"));
    let owner = format!("{owner}&sslcert={client}&sslkey={key}");
    let file = folder.join("fleet.env");
    let mut enroll = fleet(&["enroll", "--to", &owner, "web-1", "-o"]);
    enroll.arg(&file);
    printed(enroll);
    let text = fs::read_to_string(&file).expect("written");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.expect(name).trim_matches('\'').to_owned()
    };
    let (host_url, password) = (value("PROCLEDGER_FLEET"), value("PGPASSWORD"));
    assert!(!host_url.contains("sslcert") && !host_url.contains("sslkey"), "{host_url}");
    // It is let in, and may not do what only the owner may.
    let as_host = |password: &str| {
        let mut init = fleet(&["init", "--keep", "1day"]);
        init.env("PROCLEDGER_FLEET", &host_url).env("PGPASSWORD", password);
        refused(1, init)
    };
    let let_in = as_host(&password);
    assert!(let_in.contains("permission denied for table meta"), "{let_in}");
    let wrong = as_host("wrong");
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    assert!(
        wrong.contains("ALTER ROLE \"procledger-web-1\" PASSWORD") && wrong.lines().count() == 1
    );
    let none = refused(1, fleet(&["init", "--to", &host_url]));
    assert!(none.contains("password missing; pass it in PGPASSWORD"), "{none}");
    // In a file, for which the mode counts.
    let pass = folder.join("pgpass");
    fs::write(&pass, format!("{NAME}:5432:*:procledger-web-1:{password}\n")).expect("written");
    let by_file = |mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&pass, fs::Permissions::from_mode(mode)).expect("its mode");
        let mut init = fleet(&["init", "--keep", "1day", "--to", &host_url]);
        init.env("PGPASSFILE", &pass);
        refused(1, init)
    };
    assert!(by_file(0o600).contains("permission denied for table meta"));
    assert!(by_file(0o644).contains("mode 644"));

    for (url, reason) in [
        (url(OWNER, NAME, &format!("&sslrootcert={}", path("theirs.crt"))), "UnknownIssuer"),
        (url(OWNER, NAME, ""), "UnknownIssuer"),
        (url(OWNER, "other.fleet.test", &roots), "not valid for name"),
        (url(OWNER, NAME, &format!("&sslrootcert={}", path("missing"))), "failed to read"),
        (url("by_certificate", NAME, &roots), "certificate"),
        (
            format!(
                "{}&sslcert={}&sslkey={}",
                url("by_certificate", NAME, &roots),
                path("foreign.crt"),
                path("foreign.key")
            ),
            "cannot connect",
        ),
    ] {
        let error = refused(1, fleet(&["init", "--to", &url]));
        assert!(error.contains(reason), "{url}: {error}");
    }
    // Said so explicitly, an unknown certificate is accepted, and the connection is still
    // encrypted: `hostssl` demands it.
    let unverified = host_url.replace("verify-full", "require").replace(&roots, "");
    let mut init = fleet(&["init", "--keep", "1day", "--insecure-tls", "--to", &unverified]);
    init.env("PGPASSWORD", &password);
    assert!(refused(1, init).contains("permission denied for table meta"));
}

#[test]
fn a_server_without_tls_or_with_an_expired_certificate_is_refused() {
    need!("openssl");
    let place = Place::new();
    authority(place.path(), "ours");
    certificate(place.path(), "ours", "server", NAME, "-1");
    let roots = place.path().join("ours.crt").display().to_string();
    let connect = |address: &str| {
        let url = format!(
            "postgresql://u@{NAME}/d?hostaddr={address}&sslmode=verify-full&sslrootcert={roots}"
        );
        refused(1, fleet(&["init", "--to", &url]))
    };
    let address = loopback();
    let Some(_expired) = server(&place, &address, "server") else { return };
    let error = connect(&address);
    assert!(error.contains("Expired"), "{error}");
    let address = loopback();
    let plain = Setup { address: address.clone(), ..Setup::default() };
    let Some(_plain) = Server::start(&plain) else { return };
    let error = connect(&address);
    assert!(error.contains("does not support TLS"), "{error}");
}
