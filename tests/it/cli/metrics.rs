//! Metrics: they match what happened, Prometheus can parse them, and dashboard and page name no
//! others.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use procledger::{EndReason, Job, LeakKind, Ledger, Outcome, PassKind, Tracker};

use crate::{
    cli::command,
    support::{Host, PidfdWatch, Place, need, until},
};

pub(crate) fn file(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names that a page declares.
fn declared(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Our names in any text; a histogram's series count under the name of the histogram.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let ours = words.filter(|word| word.starts_with("procledger_") && !word.ends_with('_'));
    let suffixes = ["_bucket", "_sum", "_count"];
    ours.map(|word| suffixes.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word))
        .map(str::to_owned)
        .collect()
}

#[track_caller]
pub(crate) fn check(page: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let answer = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success() && said.is_empty(), "{said}\n{page}");
}

/// Both pages, after an event of every kind.
fn pages() -> (String, String) {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    host.spawn("orphan", "exec sleep 3600");
    host.crash();
    let export = place.path().join("processes.json");
    let tracker = Tracker::builder(place.ledger()).export(&export).open().expect("a ledger");
    tracker.health_pass().expect("a pass");
    let mut process = tracker.spawn(place.job("short", "exit 0")).expect("spawned");
    process.wait().expect("waited");
    tracker.flush_export(Duration::from_secs(30)).expect("written");
    let page = tracker.metrics().to_prometheus();
    // As for several, so that the page is complete.
    let ledger = place.ledger().display().to_string();
    let answer = command::run(&place, &["metrics", &ledger]).expect(0);
    assert_eq!(answer.err, "");
    (page, answer.out)
}

#[test]
fn promtool_reports_no_problem() {
    need!("promtool");
    let (tracker, ledger) = pages();
    check(&tracker);
    check(&ledger);
}

#[test]
fn the_metrics_page_lists_every_name_and_no_other() {
    let (tracker, ledger) = pages();
    let emitted: BTreeSet<String> = declared(&tracker).union(&declared(&ledger)).cloned().collect();
    assert_eq!(declared(&tracker).intersection(&declared(&ledger)).count(), 0, "names that meet");
    // In the tables: a name in backquotes at the start of a line.
    let page = file("docs/metrics.md");
    let listed: String = page
        .lines()
        .filter(|line| line.starts_with("| `procledger_") && line.matches('|').count() == 5)
        .filter_map(|line| line.split('`').nth(1))
        .flat_map(|name| [name, " "])
        .collect();
    assert_eq!(named(&listed), emitted);
    assert!(named(&page).is_subset(&emitted), "{:?}", named(&page));
}

#[test]
fn the_dashboard_uses_every_family_of_a_tracker_and_no_unknown_name() {
    let text = file("docs/grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let (tracker, ledger) = pages();
    let emitted: BTreeSet<String> = declared(&tracker).union(&declared(&ledger)).cloned().collect();
    let unknown: Vec<_> = named(&text).difference(&emitted).cloned().collect();
    assert_eq!(unknown, [""; 0]);
    assert_eq!(declared(&tracker).difference(&named(&text)).count(), 0, "a figure without a panel");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["targets"][0]["expr"].is_string(), "{panel}");
    }
}

/// As recording rules, which promtool parses.
#[test]
fn the_queries_of_the_dashboard_are_valid_promql() {
    need!("promtool");
    let text = file("docs/grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.map(|target| target["expr"].as_str().expect("a query"));
    let queries = queries.map(|query| {
        query.replace("$__rate_interval", "5m").replace("$job", "x").replace("$ledger", "x")
    });
    // YAML accepts JSON.
    let rule = |(n, query)| serde_json::json!({"record": format!("rule:{n}"), "expr": query});
    let rules: Vec<_> = queries.enumerate().map(rule).collect();
    assert!(rules.len() > 20, "where are the queries?");
    let place = Place::new();
    let path = place.path().join("rules.yml");
    let groups = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&path, groups.to_string()).expect("a file");
    let promtool = Command::new("promtool").args(["check", "rules"]).arg(&path).output();
    let answer = promtool.expect("promtool");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
}

/// The value of a sample, by its name and labels.
fn sample<'a>(page: &'a str, name: &str) -> &'a str {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}"))
}

#[test]
fn each_metric_matches_what_happened() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    let orphan = host.spawn("orphan", "exec sleep 3600");
    host.crash();

    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    assert!(orphan.is_dead());
    let first = tracker.metrics();
    assert_eq!(first.ends_by(EndReason::Orphan), 1);
    assert_eq!(first.leaks_by(LeakKind::Orphan, Outcome::Term), 1);
    assert_eq!(first.reap_latency.count, 1);
    let passes = first.passes_of(PassKind::Orphan).expect("a kind");
    assert_eq!((passes.completed, passes.with_errors, passes.failed), (1, 0, 0));
    assert_eq!(passes.duration.count, 1);

    tracker.spawn(place.job("short", "exit 3")).expect("spawned").wait().expect("waited");
    let long = tracker.spawn(place.job("long", "exec sleep 3600")).expect("spawned");
    tracker.spawn(place.job("long", "exit 0")).expect_err("it runs already");
    tracker.spawn(Job::new("missing", "/no/such/program")).expect_err("not there");
    let then = tracker.metrics();
    assert_eq!((then.executing_count, then.spawns, then.spawn_failures), (1, 2, 2));
    assert_eq!((then.ends_by(EndReason::Exited), then.ends_by(EndReason::Failed)), (1, 1));
    assert_eq!(then.death_detection_latency.count, 1);
    assert_eq!(then.survivors, Some(0));

    let watched = PidfdWatch::on(long.pid().get());
    tracker.terminate("long").expect("ended");
    assert!(watched.is_dead());
    let last = tracker.metrics();
    assert_eq!((last.executing_count, last.ends_by(EndReason::Terminated)), (0, 1));
    assert_eq!(last.reap_latency.count, 2);
    assert_eq!(last.death_detection_latency.count, 1, "what we ended ourselves is no discovery");

    let page = last.to_prometheus();
    assert_eq!(sample(&page, "procledger_spawns_total"), "2");
    assert_eq!(sample(&page, "procledger_ends_total{reason=\"exited\"}"), "1");
    assert_eq!(sample(&page, "procledger_reap_latency_seconds_bucket{le=\"+Inf\"}"), "2");
    let age = sample(&page, "procledger_last_pass_age_seconds{kind=\"orphan\"}");
    assert!(age.parse::<f64>().expect("a number") < 600.0, "{age}");
}

/// Ends of every kind that a test can cause, compared with the rows that record them.
#[test]
fn each_end_and_each_leak_is_counted_once_and_under_its_name() {
    let place = Place::new();
    let mut host = Host::start(&place, "");
    host.spawn("orphan", "sleep 3600 & wait");
    let trap = place.path().join("trap");
    let stubborn = format!("trap '' TERM; touch {}; while :; do sleep 1; done", trap.display());
    host.spawn("stubborn", &stubborn);
    place.wait_for("trap");
    host.crash();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let spawn = |task: &str, script: &str| tracker.spawn(place.job(task, script)).expect("spawned");
    for n in 0..20 {
        spawn(&format!("exited {n}"), "exit 0").wait().expect("waited");
    }
    tracker.spawn(Job::new("failed", "/no/such/program")).expect_err("not there");
    spawn("left a stray", "sleep 3600 & exit 0").wait().expect("waited");
    spawn("terminated", "sleep 3600 & wait");
    tracker.terminate("terminated").expect("ended");
    spawn("killed", "exec sleep 3600");
    tracker.kill(&["killed"], "a test").expect("ended");
    let released = spawn("released", "exec sleep 3600");
    assert!(tracker.unregister("released").expect("let go"));
    released.signal(9).expect("ended");
    let job = place.job("too long", "exec sleep 3600").max_runtime(Duration::from_millis(50));
    let mut too_long = tracker.spawn(job).expect("spawned");
    too_long.wait().expect("waited");
    until("all are recorded", || tracker.executing_count() == 0);
    tracker.health_pass().expect("a pass");

    let metrics = tracker.metrics();
    let mut ends: Vec<String> = (metrics.ends.iter())
        .filter(|end| end.count > 0)
        .map(|end| format!("{}|{}", end.reason, end.count))
        .collect();
    ends.sort();
    let rows = place.sqlite3("SELECT end_reason, count(*) FROM process GROUP BY 1 ORDER BY 1");
    assert_eq!(ends, rows.lines().collect::<Vec<_>>());
    for reason in ["failed", "killed", "max_runtime", "orphan", "released", "stray", "terminated"] {
        assert!(rows.contains(&format!("{reason}|")), "{reason} did not happen: {rows}");
    }
    let mut leaks: Vec<String> = (metrics.leaks.iter())
        .filter(|leak| leak.count > 0)
        .map(|leak| format!("{}|{}|{}", leak.kind, leak.outcome, leak.count))
        .collect();
    leaks.sort();
    let rows = "SELECT kind, outcome, count(*) FROM leak GROUP BY 1, 2 ORDER BY 1, 2";
    assert_eq!(leaks, place.sqlite3(rows).lines().collect::<Vec<_>>());
    assert_eq!((metrics.spawns, metrics.spawn_failures), (25, 1));
}

/// Silence, trouble and failure are three different states.
#[test]
fn a_pass_that_never_ran_is_absent_and_a_failed_one_is_counted() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger())
        .monitor(false)
        .reap_on_open(false)
        .open()
        .expect("a ledger");
    let silent = tracker.metrics();
    assert!(!silent.monitoring);
    assert!(silent.passes.iter().all(|pass| pass.since_last.is_none()));
    let page = silent.to_prometheus();
    assert!(!page.contains("procledger_last_pass_age_seconds{"), "{page}");
    assert_eq!(sample(&page, "procledger_passes_total{kind=\"health\",result=\"failed\"}"), "0");
    assert_eq!(sample(&page, "procledger_monitor_up"), "0");

    tracker.health_pass().expect("a pass");
    let looked = tracker.metrics();
    let health = looked.passes_of(PassKind::Health).expect("a kind");
    assert_eq!((health.completed, health.failed), (1, 0));
    assert!(health.since_last.is_some());

    // Another process holds the ledger's lock longer than any timeout.
    let blocker = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    blocker.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    tracker.health_pass().expect("it is made, and not recorded");
    let failed = tracker.metrics();
    let health = failed.passes_of(PassKind::Health).expect("a kind");
    assert_eq!((health.completed, health.with_errors, health.failed), (1, 0, 1));
    blocker.execute_batch("ROLLBACK").expect("let go");
}

/// The upper bound matches the real time: here a pass finds the dead process after a known time.
#[test]
fn the_delay_of_a_death_that_a_pass_detects_counts_from_the_scan_before() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    tracker.health_pass().expect("a pass");
    let looked = std::time::Instant::now();
    PidfdWatch::on(process.pid().get()).kill();
    until("a while", || looked.elapsed() > Duration::from_millis(120));
    tracker.health_pass().expect("a pass");
    let detection = tracker.metrics().death_detection_latency;
    assert_eq!(detection.count, 1);
    assert!(detection.sum >= Duration::from_millis(120), "{detection:?}");
    assert!(detection.sum <= looked.elapsed() + Duration::from_secs(5), "{detection:?}");
}

#[test]
fn metrics_of_a_ledger_cover_all_instances_and_the_orphans_of_a_dead_one() {
    let place = Place::new();
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    let _mine = tracker.spawn(place.job("mine", "exec sleep 3600")).expect("spawned");
    let mut host = Host::start(&place, "program=other");
    host.spawn("theirs", "exec sleep 3600");
    host.ask("spawn short exit 0");
    host.ask("wait short");
    let ledger = Ledger::open(place.ledger()).expect("a ledger");
    let hour = Duration::from_hours(1);
    let both = ledger.metrics(hour).expect("figures");
    assert_eq!((both.executing_count, both.orphans), (2, 0));
    assert_eq!((both.instances.alive, both.instances.dead, both.instances.unknown), (2, 0, 0));
    let exited = |metrics: &procledger::LedgerMetrics| {
        metrics.ends.iter().find(|end| end.reason == EndReason::Exited).map(|end| end.count)
    };
    assert_eq!(exited(&both), Some(1));
    assert_eq!(exited(&ledger.metrics(Duration::ZERO).expect("figures")), Some(0), "no window");
    assert!(both.size_bytes > 0);

    host.crash();
    let page = command::run(&place, &["metrics", "--since", "1h"]).expect(0).out;
    let label = format!("ledger=\"{}\"", place.ledger().display());
    let page = page.replace(&format!("{{{label}}}"), "").replace(&format!("{label},"), "");
    assert_eq!(sample(&page, "procledger_ledger_orphans"), "1");
    assert_eq!(sample(&page, "procledger_ledger_instances{life=\"dead\"}"), "1");
    assert_eq!(sample(&page, "procledger_ledger_executing"), "2");
    assert_eq!(sample(&page, "procledger_ledger_window_seconds"), "3600");
    tracker.reap_orphans().expect("reaped");
    let after = ledger.metrics(hour).expect("figures");
    assert_eq!((after.executing_count, after.orphans, after.instances.dead), (1, 0, 0));
    let orphans = after.leaks.iter().filter(|leak| leak.kind == LeakKind::Orphan);
    assert_eq!(orphans.map(|leak| leak.count).sum::<u64>(), 1);
}

/// What the facade received, in the thread of the test.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<String>>>);

impl Received {
    fn add(&self, key: &metrics::Key, what: &str) -> Arc<Handle> {
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{what} {}{{{}}}", key.name(), labels.join(","));
        Arc::new(Handle { name, received: self.clone() })
    }
}

struct Handle {
    name: String,
    received: Received,
}

impl Handle {
    fn note(&self) {
        self.received.0.lock().expect("unpoisoned").push(self.name.clone());
    }
}

impl metrics::CounterFn for Handle {
    fn increment(&self, _: u64) {
        self.note();
    }
    fn absolute(&self, _: u64) {
        self.note();
    }
}

impl metrics::GaugeFn for Handle {
    fn increment(&self, _: f64) {
        self.note();
    }
    fn decrement(&self, _: f64) {
        self.note();
    }
    fn set(&self, _: f64) {
        self.note();
    }
}

impl metrics::HistogramFn for Handle {
    fn record(&self, _: f64) {
        self.note();
    }
}

impl metrics::Recorder for Received {
    fn describe_counter(
        &self,
        key: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
        self.0.lock().expect("unpoisoned").push(format!("described {}", key.as_str()));
    }
    fn describe_gauge(
        &self,
        key: metrics::KeyName,
        unit: Option<metrics::Unit>,
        help: metrics::SharedString,
    ) {
        self.describe_counter(key, unit, help);
    }
    fn describe_histogram(
        &self,
        key: metrics::KeyName,
        unit: Option<metrics::Unit>,
        help: metrics::SharedString,
    ) {
        self.describe_counter(key, unit, help);
    }
    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        metrics::Counter::from_arc(self.add(key, "counter"))
    }
    fn register_gauge(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::from_arc(self.add(key, "gauge"))
    }
    fn register_histogram(
        &self,
        key: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::from_arc(self.add(key, "histogram"))
    }
}

#[test]
fn the_metrics_facade_receives_the_same_events_under_the_same_names() {
    let place = Place::new();
    let received = Received::default();
    let page = metrics::with_local_recorder(&received, || {
        let tracker = Tracker::builder(place.ledger()).monitor(false).open().expect("a ledger");
        tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
        tracker.terminate("task").expect("ended");
        tracker.health_pass().expect("a pass");
        tracker.metrics().to_prometheus()
    });
    let received = received.0.lock().expect("unpoisoned");
    for event in [
        "described procledger_death_detection_latency_seconds",
        "counter procledger_spawns_total{}",
        "gauge procledger_executing{}",
        "counter procledger_ends_total{reason=terminated}",
        "histogram procledger_reap_latency_seconds{}",
        "counter procledger_passes_total{kind=health,result=completed}",
        "gauge procledger_last_pass_timestamp_seconds{kind=health}",
        "histogram procledger_pass_duration_seconds{kind=health}",
    ] {
        assert!(received.iter().any(|line| line == event), "{event} is not in {received:#?}");
    }
    let names: BTreeSet<String> = received.iter().flat_map(|line| named(line)).collect();
    assert!(names.is_subset(&declared(&page)), "{names:?}");
}
