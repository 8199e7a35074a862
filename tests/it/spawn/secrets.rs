//! Secrets in arguments reach neither the ledger with its WAL, nor the export, nor a log, nor an
//! answer; the programs receive them all the same.

use std::{fs, path::Path, process::Command};

use procledger::{Job, Stdio, Tracker};

use crate::support::{Host, PidfdWatch, Place, in_namespace, procledger, sqlite3, until};

/// Used in many forms, and in no other name. Assembled here, so that no list of files contains it.
fn secret(place: &Place) -> String {
    format!("s3cr3t{}", place.marker().rsplit('-').next().expect("a marker"))
}

/// Every file of the folder except those that the test itself created, byte for byte.
fn assert_nowhere(folder: &Path, secret: &str, but: &[&str]) {
    let mut looked = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_file() && !but.contains(&name.as_str()) {
            // By another process: closing a file of the ledger in this one would drop the locks
            // that SQLite has on it.
            let bytes = Command::new("cat").arg(&path).output().expect("cat").stdout;
            assert!(!bytes.is_empty() || fs::metadata(&path).is_ok_and(|file| file.len() == 0));
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "in {name}"
            );
            looked.push(name);
        }
    }
    assert!(looked.iter().any(|name| name == "ledger.db"), "{looked:?}");
}

#[test]
fn a_crash_leaves_no_secret_in_ledger_wal_export_and_log() {
    let place = Place::new();
    let secret = secret(&place);
    let options = format!("export={0}/export.json log={0}/log interval=50", place.path().display());
    let mut host = Host::start(&place, &options);
    // A root, a descendant that a pass records, and one that it does not.
    let script = format!(
        "PASSWORD='{secret}'; echo $PASSWORD > got; sh -c 'sleep 3600; : --password {secret}' & exec sh -c 'sleep 3600; : TOKEN={secret} https://u:{secret}@h'"
    );
    host.spawn("spawned", &format!("cd '{}'; {script}", place.path().display()));
    let outside = place.child(&format!("sleep 3600; : Authorization: Bearer {secret}"));
    host.ask(&format!("register registered {}", outside.pid()));
    host.ask(&format!("spawn failed exit 3; --api-key={secret}"));
    until("descendants are recorded", || {
        sqlite3(&place.ledger(), "SELECT count(*) FROM process WHERE root IS NOT NULL") != "0"
    });
    until("it runs", || place.path().join("got").exists());
    assert_nowhere(place.path(), &secret, &["got"]);
    host.crash();
    for name in ["ledger.db-wal", "ledger.db-shm", "export.json", "log"] {
        assert!(place.path().join(name).exists(), "{name} was looked at");
    }
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let text = format!("{:?}", tracker.startup_report());
    assert!(!tracker.startup_report().endings.is_empty() && text.contains("***"), "{text}");
    assert!(!text.contains(&secret), "{text}");
    assert_nowhere(place.path(), &secret, &["got"]);
    for args in [&["ps", "--all", "--json"][..], &["ps", "--all"], &["report", "--format", "json"]]
    {
        let answer = procledger(&place.ledger(), args);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.status.success() && !text.contains(&secret), "{args:?}: {text}");
    }
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn the_program_gets_the_real_arguments() {
    let place = Place::new();
    let secret = secret(&place);
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let job =
        Job::new("task", "/bin/echo").args(["--token", &secret, "-H", "Authorization: Bearer x7"]);
    let output = tracker.spawn(job.stdout(Stdio::piped())).expect("spawned").wait_with_output();
    let text = String::from_utf8(output.expect("its output").stdout).expect("text");
    assert_eq!(text, format!("--token {secret} -H Authorization: Bearer x7\n"));
    assert_eq!(
        sqlite3(&place.ledger(), "SELECT command FROM process"),
        r#"["/bin/echo","--token","***","-H","Authorization: Bearer ***"]"#
    );
    assert_nowhere(place.path(), &secret, &[]);
}

#[test]
fn an_error_message_contains_no_secret() {
    let place = Place::new();
    let secret = secret(&place);
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let nul = Job::new("nul", "echo").args(["--token", &format!("{secret}\0")]);
    let variable = Job::new("variable", "echo").env("TOKEN", format!("{secret}\0"));
    let missing = Job::new("missing", place.path().join("no-such")).args(["--token", &secret]);
    for job in [nul, variable, missing] {
        let error = tracker.spawn(job).expect_err("refused");
        assert!(!format!("{error:?}").contains(&secret), "{error:?}");
    }
    assert_nowhere(place.path(), &secret, &[]);
}

#[test]
fn with_arguments_turned_off_those_of_descendants_are_not_recorded_either() {
    let place = Place::new();
    let bare = place.marker().to_owned();
    let mut host = Host::start(&place, "interval=50");
    let outcome =
        |place: &Place| sqlite3(&place.ledger(), "SELECT DISTINCT command FROM process ORDER BY 1");
    host.stop();
    // By the job, then by the builder.
    for builder in [false, true] {
        let tracker = Tracker::builder(place.ledger())
            .record_arguments(!builder)
            .monitor(false)
            .open()
            .expect("a ledger");
        let job = place.job(&format!("by-{builder}"), "sleep 3600 & wait");
        let job = if builder { job } else { job.record_arguments(false) };
        let task = format!("by-{builder}");
        let process = tracker.spawn(job).expect("spawned");
        until("its child has become its program", || {
            let pid = process.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let child = children.unwrap_or_default().trim().to_owned();
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "sleep\n")
        });
        tracker.health_pass().expect("a look");
        tracker.terminate(&task).expect("ended");
        tracker.shutdown().expect("an orderly end");
    }
    assert_eq!(outcome(&place), "[\"/bin/sh\"]\n[\"sleep\"]");
    // And after a crash, by an instance that knows only the row.
    host = Host::start(&place, "no-arguments no-monitor");
    let below = format!("sh -c 'echo > below; sleep 3600; : {bare}' & wait");
    let root = host.spawn("crashed", &format!("cd {}; {below}", place.path().display()));
    place.wait_for("below");
    host.crash();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    assert!(root.is_dead());
    assert!(!tracker.startup_report().endings.is_empty());
    assert_eq!(outcome(&place), "[\"/bin/sh\"]\n[\"sh\"]\n[\"sleep\"]");
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn the_command_masks_secrets_and_can_omit_arguments() {
    let place = Place::new();
    let secret = secret(&place);
    let run = |task: &str, options: &[&str], args: &[&str]| {
        let args = [&["run", "--task", task], options, &["--", "/bin/echo"], args].concat();
        let answer = place.procledger(&args);
        assert!(answer.status.success(), "{answer:?}");
        assert!(String::from_utf8_lossy(&answer.stdout).contains(&secret), "it runs with it");
    };
    run("masked", &[], &["--password", &secret]);
    run("alone", &["--no-arguments"], &[&secret]);
    assert_eq!(
        sqlite3(&place.ledger(), "SELECT command FROM process ORDER BY id"),
        "[\"/bin/echo\",\"--password\",\"***\"]\n[\"/bin/echo\"]"
    );
}

#[test]
fn a_name_match_uses_the_real_name_and_reports_a_masked_one() {
    if !in_namespace("spawn::secrets::a_name_match_uses_the_real_name_and_reports_a_masked_one") {
        return;
    }
    let place = Place::new();
    let secret = secret(&place);
    let name = "token-abcdef0123456789abcdef0123456789";
    let script = place.script(name, "sleep 3600");
    let left = place.child(&format!(
        "setsid '{}' --token {secret} >/dev/null 2>&1 & echo $! > pid",
        script.display()
    ));
    let watched: PidfdWatch = place.watch("pid");
    drop(left);
    until("it has its name", || {
        fs::read(format!("/proc/{}/cmdline", watched.pid()))
            .is_ok_and(|line| line.windows(7).any(|part| part == b"--token"))
    });
    // Its instance is this very process, whose descendants are all exempt: other instances search
    // for it.
    Tracker::builder(place.ledger()).open().expect("a ledger").shutdown().expect("closed");
    let plan = place.procledger(&[
        "reap",
        "--dry-run",
        "--json",
        "--orphan-name",
        name,
        "--min-age",
        "0s",
    ]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("***"), "{plan:?}");
    let real = place.procledger(&["reap", "--json", "--orphan-name", name, "--min-age", "0s"]);
    until("it is ended", || watched.is_dead());
    let text = format!("{plan:?}{real:?}");
    assert!(!text.contains(&secret), "{text}");
    assert_eq!(
        sqlite3(
            &place.ledger(),
            "SELECT count(*) FROM process WHERE origin = 'swept' AND command LIKE '%\"--token\",\"***\"%'"
        ),
        "1"
    );
    assert_nowhere(place.path(), &secret, &[]);
}
