//! `fleet init`: what it creates, and what it refuses.

use super::{fleet, printed, refused, server::database};

#[test]
fn a_schema_is_created_once() {
    let Some(database) = database() else { return };
    let init =
        |words: &[&str]| printed(fleet(&[&["init", "--to", &database.url()], words].concat()));
    let made = init(&["--keep", "30days"]);
    assert!(
        made.starts_with("created the schema `fleet`, version 2, in database `fleet_"),
        "{made}"
    );
    assert!(made.ends_with(", postgres, history is kept for 30days\n"), "{made}");
    let meta = "SELECT version, oldest_shipper, engine, keep_ms, fleet FROM fleet.meta";
    let first = database.rows(meta);
    assert!(first.starts_with("2|1|postgres|2592000000|"), "{first}");

    let again = init(&[]);
    assert!(again.contains("is up to date"), "{again}");
    assert_eq!(database.rows(meta), first, "the fleet stays the same one");
    assert!(init(&["--keep", "31days"]).contains("kept for 31days"));
    assert_ne!(database.rows(meta), first);
    let error = refused(2, fleet(&["init", "--to", &database.url(), "--keep", "0s"]));
    assert!(error.contains("write 1day or more"), "{error}");
    assert!(init(&[]).contains("kept for 31days"), "history is not deleted by an oversight");
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'fleet.ended'::regclass";
    // The default one, four weeks of history, this week and four weeks ahead.
    assert_eq!(database.rows(partitions), "10");
    let of_today = "INSERT INTO fleet.ended (stream, id, print, pid, origin, containment, program, command, started_at, ended_at, end_reason)
                      VALUES (1, 1, 1, 1, 'spawned', 'none', 'p', '[]', now(), now(), 'exited')
                    RETURNING tableoid::regclass <> 'fleet.ended_default'::regclass";
    assert_eq!(database.rows(of_today), "t", "it is in the partition of its week");
}

/// What is printed is what is executed.
#[test]
fn the_printed_sql_creates_the_schema() {
    let Some(database) = database() else { return };
    let sql = printed(fleet(&["init", "--print", "--keep", "7days"]));
    let without_roles: Vec<&str> =
        sql.lines().filter(|line| !line.starts_with("CREATE ROLE ")).collect();
    assert_eq!(sql.lines().count(), without_roles.len() + 2);
    // The roles belong to the whole server.
    let other = super::server::database().expect("there is one");
    printed(fleet(&["init", "--to", &other.url(), "--keep", "7days"]));
    database.client().batch_execute(&without_roles.join("\n")).expect("it is valid");
    let columns = "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
                   WHERE table_schema = 'fleet' ORDER BY 1, ordinal_position";
    assert_eq!(database.rows(columns), other.rows(columns));
    let policies =
        "SELECT tablename, policyname, roles, cmd, qual, with_check FROM pg_policies ORDER BY 1, 2";
    assert_eq!(database.rows(policies), other.rows(policies));
}

#[test]
fn a_newer_schema_is_left_as_it_is() {
    let Some(database) = database() else { return };
    printed(fleet(&["init", "--to", &database.url()]));
    database.client().batch_execute("UPDATE fleet.meta SET version = 1000").expect("set");
    let error = refused(1, fleet(&["init", "--to", &database.url(), "--keep", "1day"]));
    assert!(error.contains("version 1000") && error.contains("update the program"), "{error}");
    assert_eq!(database.rows("SELECT version, keep_ms FROM fleet.meta"), "1000|7776000000");
}

/// A name that the database cannot store would stop its host for good.
#[test]
fn a_database_of_another_encoding_is_refused() {
    let Some(database) = database() else { return };
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("{}_{}", database.name(), encoding.to_lowercase());
        let sql = format!("CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0");
        database.client().batch_execute(&sql).expect("made");
        let url = database.url().replacen(database.name(), &name, 1);
        let error = refused(1, fleet(&["init", "--to", &url]));
        assert!(error.contains(encoding) && error.contains("createdb --encoding=UTF8"), "{error}");
        database.client().batch_execute(&format!("DROP DATABASE {name}")).expect("dropped");
    }
}

/// A user who may create schemas waits for the superuser who sets up a fleet.
#[test]
fn a_superuser_runs_no_code_that_an_ordinary_role_added_to_the_schema() {
    let Some(database) = database() else { return };
    let other = format!("other-{}", database.name());
    let taken = format!(
        "CREATE ROLE \"{other}\"; CREATE SCHEMA fleet AUTHORIZATION \"{other}\"; SET ROLE \"{other}\";
         CREATE FUNCTION fleet.taken() RETURNS uuid LANGUAGE plpgsql AS
           'BEGIN ALTER ROLE \"{other}\" SUPERUSER; RETURN gen_random_uuid(); END';
         CREATE VIEW fleet.meta AS SELECT fleet.taken() AS fleet, 1 AS one, 2 AS version, 1 AS oldest_shipper, text 'postgres' AS engine,
           bigint '86400000' AS keep_ms"
    );
    database.client().batch_execute(&taken).expect("made");
    for words in [&["init"][..], &["maintain"], &["enroll", "web-1"], &["forget", "web-1"]] {
        let error = refused(1, fleet(&[words, &["--to", &database.url()]].concat()));
        let reason = format!("belongs to `{other}`, which is not a superuser");
        assert!(error.contains(&reason) && error.lines().count() == 1, "{words:?}: {error}");
    }
    let is_super = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{other}'");
    assert_eq!(database.rows(&is_super), "f");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_in_one_line() {
    let Some(database) = database() else { return };
    for (code, url, reason) in [
        (2, "mysql://u@h/d", "begins with postgresql://"),
        (2, "postgresql://u:secret@127.0.0.1/d", "PGPASSFILE"),
        (2, "postgresql://u@db.example/d?sslmode=prefer", "sslmode=prefer is refused"),
        (1, "postgresql://u@127.0.0.1:1/d", "database `d` at 127.0.0.1:1 as `u`"),
        (1, &database.url_as("no_such_login"), "; check pg_hba.conf, and that the role exists"),
        (1, &database.url().replacen("fleet_", "no_such_", 1), "createdb(1)"),
    ] {
        let error = refused(code, fleet(&["init", "--to", url]));
        assert!(error.contains(reason), "{url}: {error}");
        assert!(error.lines().count() == 1 && !error.contains("secret"), "{url}: {error}");
        assert!(!error.contains("db error"), "the cause is there once: {error}");
    }
    let verified = "postgresql://u@db.example/d?sslmode=verify-full";
    let error = refused(2, fleet(&["init", "--insecure-tls", "--to", verified]));
    assert!(error.contains("sslmode=verify-full") && error.lines().count() == 1, "{error}");
    let error = refused(1, fleet(&["hosts", "--from", &database.url()]));
    let cause = "procledger: failed to read the fleet's version: relation \"fleet.meta\" does not exist; create or upgrade the \
                 schema with `procledger fleet init`\n";
    assert_eq!(error, cause);
    let error = refused(2, fleet(&["init"]));
    assert!(error.contains("$PROCLEDGER_FLEET"), "{error}");
}
