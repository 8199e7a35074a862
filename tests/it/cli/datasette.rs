//! A ledger is inspected in a browser while its host runs: Datasette with docs/datasette.yaml, over
//! loopback.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use crate::{
    store::ledger_page::{recipes, with_a_past},
    support::{Guard, Host, PATIENCE, Place, eventually, need},
};

/// Datasette on a port that it chooses.
struct Browser {
    port: u16,
    _server: Guard,
}

impl Browser {
    fn open(place: &Place) -> Self {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/datasette.yaml");
        let mut server = Command::new("datasette")
            .arg("serve")
            .arg(place.ledger())
            .args(["--metadata", page, "--host", "127.0.0.1", "--port", "0"])
            // On a machine that many tests share, a query may take longer than the default limit of
            // a second.
            .args(["--setting", "sql_time_limit_ms", "20000"])
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("datasette");
        let stderr = BufReader::new(server.stderr.take().expect("piped"));
        let server = Guard(server);
        let (sender, ports) = channel();
        // Read to its end, so that a long log never blocks the server.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let port = line.split_once("http://127.0.0.1:").map(|(_, rest)| rest.to_owned());
                let digits = |rest: String| rest.chars().take_while(char::is_ascii_digit).collect();
                let _ = port.map(digits).map(|port: String| sender.send(port));
            }
        });
        let port = ports.recv_timeout(PATIENCE).expect("it says where it listens");
        Self { port: port.parse().expect("a port"), _server: server }
    }

    /// Status and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream =
            eventually("it listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // HTTP/1.0, so that the body comes in one piece.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
    }

    fn rows(&self, query: &str) -> Vec<serde_json::Value> {
        let (status, body) = self.get(&format!("/ledger/{query}"));
        assert_eq!(status, 200, "{query}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{query}: {error}: {body}"))
    }
}

#[test]
fn every_recipe_works_over_http_and_shows_new_commits_at_once() {
    need!("datasette");
    let place = with_a_past();
    let mut host = Host::start(&place, "");
    host.spawn("before", "exec sleep 3600");
    let browser = Browser::open(&place);
    for recipe in recipes() {
        let name = recipe.name;
        let rows = browser.rows(&format!("{name}.json?_shape=array&task=task-7"));
        assert!(!rows.is_empty(), "{name} has nothing to show");
        let (status, page) = browser.get(&format!("/ledger/{name}?task=task-7"));
        assert_eq!(status, 200, "{name}");
        assert!(page.contains("<title>") && page.contains("<table"), "{name}: no page");
    }
    let (status, page) = browser.get("/ledger");
    assert_eq!(status, 200);
    assert!(page.contains("What leaks most") && page.contains("/ledger/leaks_by_day"), "{page}");

    let runs = |task: &str| {
        let rows = browser.rows("what_runs.json?_shape=array");
        rows.iter().any(|row| row["task_id"] == task)
    };
    assert!(runs("before") && !runs("later"));
    host.spawn("later", "exec sleep 3600");
    assert!(runs("later"), "what is committed is seen, though it is in the WAL alone");
    host.stop();
    assert!(!runs("later"), "also when the host has gone, and its WAL with it");
}
