//! Metrics of a server: many ledgers on one page, of several users, served by `watch`, read by a
//! real Prometheus.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
    time::Duration,
};

use procledger::Tracker;

use crate::{
    cli::{
        command::{self, answer, bare, clean},
        metrics::{check, file},
    },
    support::{Guard, Host, Place, eventually, need, root, until},
};

/// A uid without an account.
const USER: u32 = 61_238;

/// A port on which nothing listens.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}

/// Sends one request, and returns the answer; `None` while nothing listens.
fn request(port: u16, request: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn get(port: u16, path: &str) -> Option<String> {
    let answer = request(
        port,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

fn sample<'a>(page: &'a str, series: &str) -> Option<&'a str> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

/// `procledger watch` with these arguments, until the test ends.
fn watch(place: &Place, args: &[&str]) -> Guard {
    let mut command = bare(place);
    command.current_dir(place.path()).arg("watch").args(args);
    Guard(command.stdout(Stdio::null()).spawn().expect("procledger"))
}

#[test]
fn two_ledgers_have_distinct_series_on_a_page_that_promtool_accepts() {
    need!("promtool");
    let place = Place::new();
    let names = ["api.db", "a \"strange\" \\ name.db"];
    for name in names {
        Tracker::builder(place.path().join(name))
            .open()
            .expect("a ledger")
            .shutdown()
            .expect("closed");
    }
    let mut host = Host::start_on(&place, &place.path().join("api.db"), "");
    host.spawn("task", "exec sleep 3600");
    fs::write(place.path().join("damaged.db"), "not a database").expect("a file");
    fs::create_dir(place.path().join("folder.db")).expect("a folder");
    fs::write(place.path().join("other.txt"), "").expect("a file");
    let page = answer(bare(&place).current_dir(place.path()).args(["metrics", "--dir", "."]));
    assert_eq!(page.code(), 0, "{page:?}");
    assert!(page.err.contains("damaged.db: ") && page.err.lines().count() == 1, "{page:?}");
    check(&page.out);
    let label = |name: &str| {
        let path = place.path().join(name).display().to_string();
        format!("{{ledger=\"{}\"}}", path.replace('\\', r"\\").replace('"', "\\\""))
    };
    let executing =
        |name| sample(&page.out, &format!("procledger_ledger_executing{}", label(name)));
    assert_eq!(names.map(executing), [Some("1"), Some("0")]);
    assert_eq!(executing("damaged.db"), None);
    let readable = |name| sample(&page.out, &format!("procledger_ledger_readable{}", label(name)));
    assert_eq!(names.map(readable), [Some("1"), Some("1")]);
    assert_eq!(readable("damaged.db"), Some("0"));
    let samples = page.out.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.clone().all(|line| line.contains("{ledger=\"")), "{}", page.out);
    // A page of one ledger has the same series.
    let one =
        command::answer(bare(&place).args(["metrics", "--db"]).arg(place.path().join("api.db")));
    let series = |line: &str| line.rsplit_once(' ').map(|(series, _)| series.to_owned());
    for line in one.expect(0).out.lines().filter(|line| !line.starts_with('#')) {
        let series = series(line).expect("a value");
        assert!(sample(&page.out, &series).is_some(), "{series}");
    }
}

#[test]
fn options_of_one_ledger_and_folders_that_cannot_be_listed_are_refused_in_one_line() {
    let place = Place::new();
    let run = |args: &[&str]| answer(bare(&place).arg("metrics").args(args));
    let refused = run(&["x.db", "--export", "x.json"]);
    assert!(refused.complaint().contains("--export applies to a single ledger"), "{refused:?}");
    assert_eq!(refused.code(), 2);
    let missing = run(&["--dir", "/no/such/folder"]);
    assert!(missing.complaint().contains("failed to list /no/such/folder"), "{missing:?}");
    assert_eq!(missing.code(), 1);
}

/// As root, each ledger is read by a process of its owner's.
#[test]
fn root_reads_ledgers_of_users_as_their_owners() {
    if !root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let home = place.path().join("home");
    fs::create_dir(&home).expect("a folder");
    std::os::unix::fs::chown(&home, Some(USER), Some(USER)).expect("root may");
    let mut create = Command::new("setpriv");
    let user = USER.to_string();
    create.args(["--reuid", &user, "--regid", &user, "--clear-groups", command::PROCLEDGER]);
    create.args(["run", "--task", "t", "--containment", "session", "--db"]).arg(home.join("x.db"));
    create.args(["--", "true"]);
    clean(&mut create, &place);
    answer(&mut create).expect(0);
    // A ledger that only root may read, under a name in the user's folder.
    let secret = place.path().join("secret");
    fs::create_dir(&secret).expect("a folder");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).expect("a mode");
    Tracker::builder(secret.join("s.db")).open().expect("a ledger").shutdown().expect("closed");
    symlink(secret.join("s.db"), home.join("link.db")).expect("a link");
    std::os::unix::fs::lchown(home.join("link.db"), Some(USER), Some(USER)).expect("root may");

    let page = answer(bare(&place).args(["metrics", "--dir"]).arg(&home)).expect(0);
    let readable = |name: &str| {
        let path = home.join(name);
        let series = format!("procledger_ledger_readable{{ledger=\"{}\"}}", path.display());
        sample(&page.out, &series).map(str::to_owned)
    };
    assert_eq!(readable("x.db").as_deref(), Some("1"), "{page:?}");
    assert_eq!(readable("link.db").as_deref(), Some("0"), "{page:?}");
}

#[test]
fn watch_serves_the_metrics_of_the_ledgers_that_it_watches() {
    let place = Place::new();
    let port = free_port();
    let _watch = watch(&place, &["--dir", ".", "--metrics", &port.to_string()]);
    let page = eventually("it listens", || get(port, "/metrics"));
    assert!(page.contains("# TYPE procledger_ledger_readable gauge"), "{page}");
    // A ledger that appears later is on the page.
    Tracker::builder(place.path().join("new.db"))
        .open()
        .expect("a ledger")
        .shutdown()
        .expect("closed");
    let series = format!(
        "procledger_ledger_readable{{ledger=\"{}\"}}",
        place.path().join("new.db").display()
    );
    until("the new ledger is read", || {
        get(port, "/metrics").is_some_and(|page| sample(&page, &series) == Some("1"))
    });
    let answer = |text: &str| request(port, text).expect("it listens");
    assert!(answer("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(answer("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(answer("HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(answer("\u{16}\u{3}\u{1}\r\n\r\n").starts_with("HTTP/1.1 400 "));
    // Peers that send nothing do not keep others from the page.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let _silent: Vec<TcpStream> =
        (0..4).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    assert!(get(port, "/metrics").is_some());
}

#[test]
fn watch_serves_its_single_ledger_and_refuses_a_port_in_use() {
    let place = Place::new();
    let port = free_port();
    let _watch = watch(&place, &["--db", "one.db", "--metrics", &format!("127.0.0.1:{port}")]);
    let page = eventually("it listens", || get(port, "/metrics"));
    let series = format!(
        "procledger_ledger_readable{{ledger=\"{}\"}}",
        place.path().join("one.db").display()
    );
    assert!(page.contains(&series), "{page}");
    let again = answer(bare(&place).args(["watch", "x.db", "--metrics", &port.to_string()]));
    assert!(again.complaint().contains("failed to serve metrics at 127.0.0.1:"), "{again:?}");
    assert_eq!(again.code(), 1);
}

/// A real Prometheus scrapes a `watch`, evaluates the alert rules, and answers the dashboard's
/// queries for a server without an embedding program.
#[test]
fn prometheus_scrapes_a_watch_and_alerts_on_an_unreadable_ledger() {
    need!("prometheus");
    let place = Place::new();
    Tracker::builder(place.path().join("good.db"))
        .open()
        .expect("a ledger")
        .shutdown()
        .expect("closed");
    fs::write(place.path().join("bad.db"), "not a database").expect("a file");
    let (ours, theirs) = (free_port(), free_port());
    let _watch = watch(&place, &["--dir", ".", "--metrics", &ours.to_string()]);
    // The rules as they are, but without the delays.
    let rules = file("docs/alerts.yml");
    let rules: String = (rules.lines())
        .filter(|line| !line.trim_start().starts_with("for: "))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(place.path().join("alerts.yml"), rules).expect("a file");
    let config = serde_json::json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{
            "job_name": "procledger",
            "static_configs": [{"targets": [format!("127.0.0.1:{ours}")]}],
        }],
    });
    fs::write(place.path().join("prometheus.yml"), config.to_string()).expect("a file");
    let mut prometheus = Command::new("prometheus");
    clean(&mut prometheus, &place);
    prometheus
        .current_dir(place.path())
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .arg(format!("--web.listen-address=127.0.0.1:{theirs}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _prometheus = Guard(prometheus.spawn().expect("prometheus"));
    let query = |query: &str| -> Option<Vec<serde_json::Value>> {
        let encoded: Vec<String> = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let encoded = encoded.concat();
        let body = get(theirs, &format!("/api/v1/query?query={encoded}"))?;
        // Its answer is chunked: the JSON is the line that begins with a brace.
        let json = body.lines().find(|line| line.starts_with('{'))?;
        let answer: serde_json::Value = serde_json::from_str(json).ok()?;
        answer["data"]["result"].as_array().cloned()
    };
    eventually("it has scraped both ledgers", || {
        query("procledger_ledger_readable").filter(|found| found.len() == 2)
    });
    let alerts = eventually("the alert fires", || {
        query("ALERTS{alertname=\"ProcledgerLedgerUnreadable\",alertstate=\"firing\"}")
            .filter(|found| !found.is_empty())
    });
    assert_eq!(alerts.len(), 1);
    let ledger = alerts[0]["metric"]["ledger"].as_str().expect("a label");
    assert!(ledger.ends_with("/bad.db"), "{ledger}");

    let dashboard: serde_json::Value =
        serde_json::from_str(&file("docs/grafana.json")).expect("valid JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<String> = targets
        .filter_map(|target| target["expr"].as_str())
        .filter(|query| {
            query.contains("procledger_ledger_") && !query.contains("procledger_ledger_up")
        })
        .map(|query| query.replace("$ledger", ".*"))
        .collect();
    assert!(queries.len() > 10, "{queries:?}");
    for text in queries {
        let found = query(&text).unwrap_or_else(|| panic!("no answer to {text}"));
        // Those with `> 0` list what has happened.
        assert!(!found.is_empty() || text.ends_with("> 0"), "no data for {text}");
    }
}

#[test]
fn the_alert_rules_fire_as_documented() {
    need!("promtool");
    let place = Place::new();
    fs::write(place.path().join("alerts.yml"), file("docs/alerts.yml")).expect("a file");
    fs::write(place.path().join("test.yml"), file("tests/fixtures/alerts_test.yml"))
        .expect("a file");
    let mut promtool = Command::new("promtool");
    promtool.current_dir(place.path()).args(["test", "rules", "test.yml"]);
    let tested = promtool.output().expect("promtool");
    let said = String::from_utf8_lossy(&tested.stdout) + String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
}
