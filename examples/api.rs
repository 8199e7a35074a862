//! An API that runs programs for others, and leaks none of them.
//!
//! ```sh
//! cargo run --example api -- ledger.db 127.0.0.1:8080 processes.json
//! curl -d '{"task_id": "task-42", "program": "sleep", "args": ["60"]}' -H content-type:application/json localhost:8080/tasks
//! curl localhost:8080/tasks
//! curl -X DELETE localhost:8080/tasks/task-42
//! curl -N localhost:8080/events
//! ```
//!
//! | request | answer |
//! | --- | --- |
//! | POST /tasks | starts a program; with `"wait": true` answers with its output, and ends it when the client hangs up |
//! | | with `"stream": true` the same, but each line of its output is sent while it runs, and then how and why it ended |
//! | GET /tasks | the running tasks, in the format of the JSON export |
//! | DELETE /tasks/ID | ends the whole tree |
//! | GET /health | 200 while deaths are detected and the ledger can be read, 503 otherwise |
//! | GET /metrics | metrics for Prometheus |
//! | GET /report | leaks by task |
//! | GET /events | ends, leaks and survivors from now on, as server-sent events, until the API stops |
//!
//! Kill it with SIGKILL and start it again: the programs that it ran are dead before it answers,
//! and are in the report. SIGTERM and Ctrl-C shut it down in order.

use std::{error::Error as _, io, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{delete, get, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::stream::unfold;
use procledger::{
    AsyncProcess, AsyncTracker, Exit, Job, LeakGrouping, LedgerEvent, PassKind, ProcessRecord,
    Stdio, Tracker,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe::Receiver,
    signal::unix::{Signal, SignalKind, signal},
};

/// How long after the programs have ended the remaining requests are dropped.
const DRAIN: Duration = Duration::from_secs(2);
/// A longer line is sent in parts of this many bytes: a program may print without end.
const LONGEST_LINE: u64 = 64 << 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let (Some(ledger), Some(address)) = (args.next(), args.next()) else {
        return Err("usage: api LEDGER ADDRESS [EXPORT]".into());
    };
    // The processor of the ecosystem-manager would call `.ecosystem_manager()` here instead.
    let mut builder = Tracker::builder(ledger).program("api");
    if let Some(export) = args.next() {
        builder = builder.export(export);
    }
    // Processes that a crash left behind are dead when this returns; only then are requests
    // answered.
    let tracker = tokio::task::spawn_blocking(|| builder.open()).await??.into_async();
    let listener = tokio::net::TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    // Installed before the API reports that it is listening: a signal without a handler would end
    // it without a shutdown.
    let (term, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    println!("listening on http://{}", listener.local_addr()?);
    let stopped = stopped(tracker.clone(), term, interrupt);
    axum::serve(listener, routes(tracker)).with_graceful_shutdown(stopped).await?;
    Ok(())
}

fn routes(tracker: AsyncTracker) -> Router {
    Router::new()
        .route("/tasks", post(start).get(list))
        .route("/tasks/{id}", delete(end))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/report", get(report))
        .route("/events", get(events))
        .with_state(tracker)
}

/// Completes when the programs have ended, so that requests that wait for one are answered first.
async fn stopped(tracker: AsyncTracker, mut term: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    match tracker.shutdown().await {
        Ok(report) => tracing::info!("ended {} processes", report.ended()),
        Err(error) => tracing::error!("failed to shut down: {error}"),
    }
    tokio::spawn(async {
        tokio::time::sleep(DRAIN).await;
        std::process::exit(0)
    });
}

#[derive(Deserialize)]
struct NewTask {
    task_id: String,
    program: String,
    #[serde(default)]
    args: Vec<String>,
    /// Answer when the program has ended, with its output.
    #[serde(default)]
    wait: bool,
    /// Answer at once, with each line of its output as it comes.
    #[serde(default)]
    stream: bool,
}

async fn start(
    State(tracker): State<AsyncTracker>,
    Json(task): Json<NewTask>,
) -> Result<Response, Failure> {
    let job = Job::new(&task.task_id, task.program).args(task.args).stdin(Stdio::null());
    if task.stream {
        // Also without a handle, in case the client hangs up before there is one.
        let job = job.stdout(Stdio::piped()).terminate_on_drop(true);
        return Ok(streamed(tracker.spawn(job).await?));
    }
    if !task.wait {
        let process = tracker.spawn(job.stdout(Stdio::null())).await?;
        let entry = json!({"task_id": task.task_id, "process_id": process.pid().get()});
        return Ok((StatusCode::CREATED, Json(entry)).into_response());
    }
    // When the client hangs up, this future is dropped, and the handle with it.
    let process = tracker.spawn(job.stdout(Stdio::piped())).await?;
    let output = process.terminate_on_drop(true).wait_with_output().await?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let answer = json!({
        "task_id": task.task_id, "status": output.exit.status, "reason": output.exit.reason, "stdout": stdout
    });
    Ok(Json(answer).into_response())
}

/// A program whose output is sent while it runs.
struct Streamed {
    process: AsyncProcess,
    stdout: Option<BufReader<Receiver>>,
}

/// Answers with a JSON object for each line, and a last one with the end. When the client hangs up,
/// the body is dropped, and the handle with it. A client that does not read stops the program's
/// output, like a full pipe.
fn streamed(mut process: AsyncProcess) -> Response {
    let stdout = process.stdout.take().map(BufReader::new);
    let lines = unfold(Some(Streamed { process, stdout }), async |state| {
        let mut program = state?;
        let (line, rest) = match program.next_line().await {
            Ok(Some(line)) => (Ok(json!({"line": line})), Some(program)),
            Ok(None) => {
                let exit = program.process.wait().await;
                (exit.map(|exit| end_of(&exit)).map_err(io::Error::other), None)
            }
            Err(error) => (Err(error), None),
        };
        Some((line.map(|line| format!("{line}\n")), rest))
    });
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

impl Streamed {
    /// Cancel-safe only as a whole: the body polls it until it is ready, or drops it.
    async fn next_line(&mut self) -> io::Result<Option<String>> {
        let Some(stdout) = &mut self.stdout else { return Ok(None) };
        let mut line = Vec::new();
        stdout.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }
}

fn end_of(exit: &Exit) -> Value {
    json!({
        "status": exit.status,
        "reason": exit.reason,
        "rule": exit.because.as_ref().map(|because| &because.rule),
        "requested_by": exit.requested_by,
    })
}

async fn events(State(tracker): State<AsyncTracker>) -> Result<Response, Failure> {
    let subscription = tracker.subscribe().await?;
    // The stream ends when the tracker is shut down.
    let events = unfold(Some(subscription), async |state| {
        let mut subscription = state?;
        Some(match subscription.next().await? {
            Ok(event) => {
                (Event::default().event(name(&event)).json_data(data(&event)), Some(subscription))
            }
            Err(error) => (Err(axum::Error::new(error)), None),
        })
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn name(event: &LedgerEvent) -> &'static str {
    match event {
        LedgerEvent::Ended(_) => "ended",
        LedgerEvent::Survived(_) => "survived",
        LedgerEvent::Leaked(_) => "leaked",
        LedgerEvent::Skipped(_) => "skipped",
        _ => "other",
    }
}

fn data(event: &LedgerEvent) -> Value {
    match event {
        LedgerEvent::Ended(row) => {
            let end = row.life.end();
            let because = end.and_then(|end| end.because.as_ref());
            json!({
                "id": row.id,
                "task_id": row.spec.task_id,
                "process_id": row.pid().get(),
                "status": end.map(|end| end.status),
                "reason": end.map(|end| end.reason),
                "rule": because.map(|because| &because.rule),
                "requested_by": row.requested_by,
            })
        }
        LedgerEvent::Survived(row) => json!({
            "id": row.id,
            "task_id": row.spec.task_id,
            "process_id": row.pid().get(),
            "error": row.last_error,
        }),
        LedgerEvent::Leaked(leak) => json!(leak),
        LedgerEvent::Skipped(events) => json!({"events": events}),
        _ => Value::Null,
    }
}

async fn list(State(tracker): State<AsyncTracker>) -> Result<Json<Vec<Value>>, Failure> {
    let entry = |row: &ProcessRecord| {
        let started_at = DateTime::<Utc>::from(row.spec.started_at);
        json!({
            "task_id": row.spec.task_id,
            "process_id": row.pid().get(),
            "start_time": started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        })
    };
    let running = tracker.run(|tracker| tracker.ledger().roots()).await?;
    Ok(Json(running.iter().map(entry).collect()))
}

async fn end(
    State(tracker): State<AsyncTracker>,
    Path(task_id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let report = tracker.terminate(task_id).await?;
    Ok(Json(json!({"ended": report.ended(), "survived": report.survived()})))
}

async fn health(State(tracker): State<AsyncTracker>) -> Result<Response, Failure> {
    let metrics = tracker.run(|tracker| Ok(tracker.metrics())).await?;
    let healthy = metrics.monitoring && metrics.survivors.is_some();
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let last = metrics.passes_of(PassKind::Health).and_then(|pass| pass.since_last);
    let answer = json!({
        "healthy": healthy,
        "executing_count": metrics.executing_count,
        "survivors": metrics.survivors,
        "seconds_since_health_pass": last.map(|since| since.as_secs()),
    });
    Ok((status, Json(answer)).into_response())
}

async fn metrics(State(tracker): State<AsyncTracker>) -> Result<Response, Failure> {
    let page = tracker.run(|tracker| Ok(tracker.metrics().to_prometheus())).await?;
    Ok(([("content-type", "text/plain; version=0.0.4")], page).into_response())
}

async fn report(State(tracker): State<AsyncTracker>) -> Result<Response, Failure> {
    let by_task = |tracker: &Tracker| tracker.ledger().leak_groups(None, LeakGrouping::Task);
    Ok(Json(tracker.run(by_task).await?).into_response())
}

/// An error of the tracker, as an HTTP response.
struct Failure(procledger::Error);

impl From<procledger::Error> for Failure {
    fn from(error: procledger::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = if error.is_invalid_input() {
            StatusCode::BAD_REQUEST
        } else if error.is_not_found() {
            StatusCode::NOT_FOUND
        } else if error.is_already_running() {
            StatusCode::CONFLICT
        } else if error.is_not_started() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else if error.is_closed() || error.is_busy() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        let cause = error.source().map(ToString::to_string);
        (status, Json(json!({"error": error.to_string(), "cause": cause}))).into_response()
    }
}
