//! `examples/api.rs` over real HTTP, through the scenarios of the processor that it stands for:
//! clean restart, crash, process death, failed operations, clients that disconnect in the middle,
//! and clients and servers that end at random instants.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use procledger::{Ledger, LedgerEvent};
use procledger_testing::Chance;
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::{Value, json};

use crate::support::{Guard, PATIENCE, PidfdWatch, Place, is_alive, pidfd, skipped, until};

/// The example as `cargo test` builds it, beside the tests.
fn example() -> Option<PathBuf> {
    let tests = std::env::current_exe().expect("this binary");
    let path = tests.parent()?.parent()?.join("examples/api");
    if !path.is_file() {
        skipped("`examples/api` is not built: run `cargo test`, or `cargo build --examples`");
        return None;
    }
    Some(path)
}

/// The API, listening.
struct Api {
    process: Guard,
    address: String,
}

impl Api {
    /// `None` where the example is not built.
    fn start(place: &Place) -> Option<Self> {
        let log = File::options().create(true).append(true).open(place.path().join("log"));
        let mut process = Command::new(example()?)
            .arg(place.ledger())
            .args(["127.0.0.1:0", "processes.json"])
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .env_remove("PROCLEDGER_TOKEN")
            .current_dir(place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.expect("a log"))
            .spawn()
            .map(Guard)
            .expect("the API");
        let mut line = String::new();
        let mut stdout = BufReader::new(process.0.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("not listening: {line:?}")).to_owned();
        Some(Self { process, address })
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a bound");
        stream
    }

    /// Sends a request and reads nothing.
    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = self.connect();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        stream
    }

    /// Sends a request whose answer is sent as it comes, without chunks; returns the lines of its
    /// body.
    fn lines_of(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = self.connect();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nhost: api\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = Answer(BufReader::new(stream));
        let status = answer.line().expect("a status");
        assert!(status.contains(" 200 "), "{status}");
        while answer.line().is_some_and(|line| !line.is_empty()) {}
        answer
    }

    /// Reads the ids of the rows that `GET /events` reports as ended, on a thread of its own, until
    /// the API ends.
    fn ends(&self) -> JoinHandle<Vec<i64>> {
        let mut events = self.lines_of("GET", "/events", "");
        thread::spawn(move || {
            let mut ids = Vec::new();
            let mut kind = String::new();
            while let Some(line) = events.line() {
                if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut kind);
                } else if let Some(data) = line.strip_prefix("data: ")
                    && kind == "ended"
                {
                    let data: Value = serde_json::from_str(data).expect("JSON");
                    assert!(data["reason"].is_string(), "{data}");
                    ids.push(data["id"].as_i64().expect("a row"));
                }
            }
            ids
        })
    }

    /// Status and body of an answer.
    fn ask_for_text(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut answer = String::new();
        self.send(method, path, body).read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.ask_for_text(method, path, body);
        let json = serde_json::from_str(&body);
        (status, json.unwrap_or_else(|error| panic!("{error}: {status} {body}")))
    }

    /// Starts a shell script as a task; returns the shell.
    #[track_caller]
    fn post(&self, task: &str, script: &str) -> PidfdWatch {
        let (status, entry) = self.ask("POST", "/tasks", &body(task, script, false));
        assert_eq!(status, 201, "{entry}");
        PidfdWatch::on(
            entry["process_id"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid"),
        )
    }

    /// Ids of the tasks that run, in order.
    #[track_caller]
    fn tasks(&self) -> Vec<String> {
        let (status, tasks) = self.ask("GET", "/tasks", "");
        assert_eq!(status, 200, "{tasks}");
        let tasks = tasks.as_array().expect("a list").iter();
        let mut ids: Vec<String> =
            tasks.map(|task| task["task_id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids
    }

    #[track_caller]
    fn report(&self) -> Vec<Value> {
        let (status, report) = self.ask("GET", "/report", "");
        assert_eq!(status, 200, "{report}");
        report.as_array().expect("a list").clone()
    }

    #[track_caller]
    fn is_healthy(&self) -> bool {
        let (status, health) = self.ask("GET", "/health", "");
        assert_eq!(status == 200, health["healthy"] == true, "{health}");
        status == 200
    }

    fn signal(&self, signal: Signal) {
        let fd = pidfd(self.process.pid()).expect("it lives");
        pidfd_send_signal(&fd, signal).expect("signalled");
    }

    fn crash(mut self) {
        self.signal(Signal::KILL);
        self.process.0.wait().expect("reaped");
    }

    fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.process.0.wait().expect("reaped")
    }
}

/// An answer that is read while it is sent.
struct Answer(BufReader<TcpStream>);

impl Answer {
    /// The next whole line; `None` when the other side has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        // A server that is killed resets the connection.
        let read = self.0.read_line(&mut line).unwrap_or(0);
        (read > 0).then_some(())?;
        line.strip_suffix('\n').map(|line| line.trim_end_matches('\r').to_owned())
    }

    #[track_caller]
    fn json(&mut self) -> Value {
        let line = self.line().expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

fn streamed(task: &str, script: &str) -> String {
    json!({"task_id": task, "program": "sh", "args": ["-c", script], "stream": true}).to_string()
}

fn body(task: &str, script: &str, wait: bool) -> String {
    json!({"task_id": task, "program": "sh", "args": ["-c", script], "wait": wait}).to_string()
}

fn export(place: &Place) -> Option<String> {
    fs::read_to_string(place.path().join("processes.json")).ok()
}

#[test]
fn clean_restart_a_stopped_api_leaves_nothing() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let all_watched = [api.post("one", "exec sleep 3600"), api.post("two", "sleep 3600 & wait")];
    assert_eq!(api.tasks(), ["one", "two"]);
    until("the export follows", || export(&place).is_some_and(|text| text.contains("\"two\"")));
    assert!(api.is_healthy());
    assert!(api.stop().success());
    assert!(all_watched.iter().all(PidfdWatch::is_dead));
    assert_eq!(place.alive(), [0_u32; 0]);
    assert_eq!(export(&place), None, "the list is gone");

    let api = Api::start(&place).expect("built");
    assert_eq!(api.tasks(), [""; 0]);
    assert_eq!(api.report(), [Value::Null; 0], "nothing has leaked");
    assert!(api.stop().success());
}

#[test]
fn crash_restart_programs_of_a_killed_api_are_dead_before_the_next_one_answers() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let all_watched = [
        api.post("plain", "exec sleep 3600"),
        api.post("stubborn", "trap '' TERM; touch trap; while :; do sleep 1; done"),
        api.post("daemon", "setsid sleep 3600 & echo $! > daemon; wait"),
        place.watch("daemon"),
    ];
    place.wait_for("trap");
    api.crash();
    assert!(
        all_watched.iter().all(|watched| is_alive(watched.pid())),
        "SIGKILL of the API ends none of them"
    );

    let api = Api::start(&place).expect("built");
    assert!(all_watched.iter().all(PidfdWatch::is_dead), "all are dead before it answers");
    assert_eq!(api.tasks(), [""; 0]);
    let mut leaked: Vec<String> =
        api.report().iter().map(|group| group["key"].as_str().expect("a task").into()).collect();
    leaked.sort();
    assert_eq!(leaked, ["daemon", "plain", "stubborn"]);
    let (_, page) = api.ask_for_text("GET", "/metrics", "");
    let killed = "procledger_leaks_total{kind=\"orphan\",outcome=\"kill\"} ";
    assert!(page.lines().any(|line| line.strip_prefix(killed).is_some_and(|n| n != "0")), "{page}");
    let log = fs::read_to_string(place.path().join("log")).expect("a log");
    assert!(log.contains("Loaded 3 persisted processes from "), "{log}");
    assert!(log.contains(" orphaned processes from previous run"), "{log}");
    // The tasks can be started again.
    api.post("plain", "exec sleep 3600");
    assert!(api.stop().success());
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn process_death_a_killed_task_is_removed_from_the_list() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let watched = api.post("task", "exec sleep 3600");
    assert_eq!(api.tasks(), ["task"]);
    watched.kill();
    until("it is off the list", || api.tasks().is_empty());
    until("and out of the export", || export(&place).is_some_and(|text| text.trim() == "[]"));
    let row = "SELECT end_reason, exit_signal FROM process";
    assert_eq!(place.sqlite3(row), "exited|9");
    let (status, page) = api.ask_for_text("GET", "/metrics", "");
    assert_eq!(status, 200);
    assert!(page.contains("\nprocledger_executing 0\n"), "{page}");
    assert!(page.contains("\nprocledger_death_detection_latency_seconds_count 1\n"), "{page}");
    assert!(api.stop().success());
}

#[test]
fn failed_operations_leave_nothing_running() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let missing = json!({"task_id": "missing", "program": "/no/such/program"}).to_string();
    for wait in ["false", "true"] {
        let body = missing.replace('}', &format!(",\"wait\":{wait}}}"));
        let (status, answer) = api.ask("POST", "/tasks", &body);
        assert_eq!(status, 422, "{answer}");
        assert!(answer["error"].as_str().is_some_and(|text| text.contains("/no/such/program")));
    }
    let (status, answer) = api.ask("POST", "/tasks", &body("", "exit 0", false));
    assert_eq!(status, 400, "{answer}");
    assert_eq!(api.ask_for_text("POST", "/tasks", "{\"task_id\":").0, 400);
    assert_eq!(api.ask("DELETE", "/tasks/nobody", "").0, 404);

    let first = api.post("twice", "exec sleep 3600");
    assert_eq!(api.ask("POST", "/tasks", &body("twice", "exec sleep 3600", false)).0, 409);
    assert_eq!(api.tasks(), ["twice"]);
    let (status, answer) = api.ask("DELETE", "/tasks/twice", "");
    assert_eq!((status, &answer["ended"], &answer["survived"]), (200, &json!(1), &json!(0)));
    assert!(first.is_dead());
    assert_eq!(
        place.sqlite3("SELECT DISTINCT end_reason FROM history ORDER BY 1"),
        "failed\nterminated"
    );
    assert!(api.stop().success());
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn a_request_that_waits_for_its_task_returns_the_output() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let (status, answer) = api.ask("POST", "/tasks", &body("task", "echo hello; exit 3", true));
    assert_eq!(status, 200);
    let expected = json!({"task_id": "task", "reason": "exited", "status": {"exited": 3}, "stdout": "hello\n"});
    assert_eq!(answer, expected);
    assert!(api.stop().success());
}

#[test]
fn a_client_that_disconnects_while_it_sends_starts_nothing() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let whole = body("half", "exec sleep 3600", false);
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        let mut stream = api.connect();
        let (head, length) = ("POST /tasks HTTP/1.1\r\nhost: api", whole.len());
        let half = &whole[..cut];
        let kind = "content-type: application/json";
        write!(stream, "{head}\r\n{kind}\r\ncontent-length: {length}\r\n\r\n{half}").expect("sent");
    }
    // Later requests are answered: the earlier ones were processed, or wait for something that
    // never comes.
    assert_eq!(api.tasks(), [""; 0]);
    assert!(api.is_healthy());
    assert!(api.stop().success());
    assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0", "no row, no program");
}

#[test]
fn a_client_that_disconnects_while_it_waits_has_its_tree_ended() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let script = "setsid sleep 3600 & echo $! > daemon; sleep 3600 & echo $! > child; wait";
    let waiting = api.send("POST", "/tasks", &body("long", script, true));
    let tree = [place.watch("daemon"), place.watch("child")];
    let other = api.post("other", "exec sleep 3600");
    assert_eq!(api.tasks(), ["long", "other"], "the API answers others meanwhile");
    drop(waiting);
    until("the tree is ended", || tree.iter().all(PidfdWatch::is_dead));
    until("it is off the list", || api.tasks() == ["other"]);
    assert!(!other.is_dead());
    let row = "SELECT end_reason FROM process WHERE task_id = 'long' AND root IS NULL";
    assert_eq!(place.sqlite3(row), "terminated");
    assert!(api.is_healthy());
    assert!(api.stop().success());
}

#[test]
fn a_stopping_api_answers_waiting_clients_and_does_not_wait_for_unfinished_requests() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let script = "echo so far; touch up; exec sleep 3600";
    let mut waiting = api.send("POST", "/tasks", &body("long", script, true));
    place.wait_for("up");
    let mut never = api.connect();
    write!(never, "POST /tasks HTTP/1.1\r\nhost: api\r\ncontent-length: 10\r\n\r\n").expect("sent");
    assert!(api.stop().success());
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("so far") && answer.contains("\"signaled\":15"), "{answer}");
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn lines_are_sent_until_the_program_ends_or_the_client_disconnects() {
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    let script = "echo one; until [ -e go ]; do sleep 0.01; done; printf two; exit 3";
    let mut lines = api.lines_of("POST", "/tasks", &streamed("task", script));
    assert_eq!(lines.json(), json!({"line": "one"}));
    assert_eq!(api.tasks(), ["task"], "it runs");
    fs::write(place.path().join("go"), "").expect("a file");
    assert_eq!(lines.json(), json!({"line": "two"}));
    let end = lines.json();
    assert_eq!((&end["status"], &end["reason"]), (&json!({"exited": 3}), &json!("exited")));
    assert!(lines.line().is_none());

    let mut lines = api.lines_of("POST", "/tasks", &streamed("ended", "echo up; exec sleep 3600"));
    assert_eq!(lines.json(), json!({"line": "up"}));
    assert_eq!(api.ask("DELETE", "/tasks/ended", "").0, 200);
    let end = lines.json();
    assert_eq!((&end["reason"], &end["rule"]), (&json!("terminated"), &json!("its owner asked")));

    let script = "setsid sleep 3600 & echo $! > daemon; echo up; exec sleep 3600";
    let mut lines = api.lines_of("POST", "/tasks", &streamed("left", script));
    assert_eq!(lines.json(), json!({"line": "up"}));
    let daemon = place.watch("daemon");
    drop(lines);
    until("the tree of a client that has hung up is ended", || daemon.is_dead());
    until("it is off the list", || api.tasks().is_empty());
    assert!(api.stop().success());
}

/// Ends as another process's reader sees them in the ledger, whichever API has recorded them.
fn new_ends(events: &mut procledger::Subscription) -> Vec<i64> {
    let mut ids = Vec::new();
    while let Some(event) = events.try_next().expect("read") {
        match event {
            LedgerEvent::Ended(row) => ids.push(row.id.0),
            LedgerEvent::Leaked(_) => {}
            other => panic!("{other:?}"),
        }
    }
    ids
}

/// Clients hang up, and the API is killed or stopped, at instants that a seed chooses.
#[test]
fn random_disconnects_and_crashes_leave_nothing_and_each_end_is_reported_once() {
    const ROUNDS: usize = 8;
    let place = Place::new();
    let Some(api) = Api::start(&place) else { return };
    assert!(api.stop().success());
    let ledger = Ledger::open(place.ledger()).expect("a ledger");
    let mut all = ledger.subscribe().expect("subscribed");
    let mut reported = Vec::new();
    let mut chance = Chance::new(13);
    let (mut of_clients, mut kills) = (0, 0);
    for round in 0..ROUNDS {
        let api = Api::start(&place).expect("built");
        let ends = api.ends();
        let scripts = [
            "i=0; while :; do echo $((i += 1)); done",
            "setsid sleep 3600 & echo up; wait",
            "echo done; exit 4",
        ];
        let mut clients: Vec<TcpStream> = Vec::new();
        for i in 0..4 {
            let script = *chance.pick(&scripts);
            clients.push(api.send("POST", "/tasks", &streamed(&format!("{round}-{i}"), script)));
            thread::sleep(Duration::from_micros(chance.below(10_000)));
            if chance.below(2) == 0 {
                let gone = usize::try_from(chance.below(clients.len() as u64)).expect("small");
                drop(clients.swap_remove(gone));
            }
        }
        api.post(&format!("{round}-posted"), "sleep 3600 & exit 0");
        thread::sleep(Duration::from_micros(chance.below(30_000)));
        let killed = chance.below(2) == 0;
        if killed {
            kills += 1;
            api.crash();
        } else {
            // The trees of clients that have hung up are ended before the rest.
            drop(clients);
            assert!(api.stop().success());
            assert_eq!(place.alive(), [0_u32; 0]);
        }
        let mut ids = ends.join().expect("well-formed events");
        of_clients += ids.len();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "round {round}: an end was reported twice to a client");
        reported.extend(new_ends(&mut all));
    }
    assert!(kills > 0 && kills < ROUNDS, "both ways to end: {kills} kills");
    assert!(of_clients > 0, "clients were notified");
    // The last one may have been killed: this one ends what it left.
    assert!(Api::start(&place).expect("built").stop().success());
    reported.extend(new_ends(&mut all));
    assert_eq!(place.alive(), [0_u32; 0]);
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
    reported.sort_unstable();
    let recorded = place.sqlite3("SELECT id FROM process ORDER BY id");
    let recorded: Vec<i64> = recorded.lines().map(|id| id.parse().expect("a row")).collect();
    assert_eq!(reported, recorded, "each once");
}
