//! An API that runs programs for others, and leaks none of them.
//!
//! ```sh
//! cargo run --example api -- ledger.db 127.0.0.1:8080 processes.json
//! curl -d '{"task_id": "task-42", "program": "sleep", "args": ["60"]}' -H content-type:application/json localhost:8080/tasks
//! curl localhost:8080/tasks
//! curl -X DELETE localhost:8080/tasks/task-42
//! ```
//!
//! | request | answer |
//! | --- | --- |
//! | POST /tasks | starts a program; with `"wait": true` answers with its output, and ends it when the client hangs up |
//! | GET /tasks | the running tasks, in the format of the JSON export |
//! | DELETE /tasks/ID | ends the whole tree |
//! | GET /health | 200 while deaths are noticed and the ledger can be read, 503 otherwise |
//! | GET /metrics | metrics for Prometheus |
//! | GET /report | leaks by task |
//!
//! Kill it with SIGKILL and start it again: the programs that it ran are dead before it answers, and are in the report. SIGTERM
//! and Ctrl-C shut it down in order.

use std::{error::Error as _, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use chrono::{DateTime, SecondsFormat, Utc};
use procledger::{AsyncTracker, Job, LeakGrouping, PassKind, ProcessRecord, Stdio, Tracker};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// Requests that have not finished this long after the programs have ended are cut off.
const DRAIN: Duration = Duration::from_secs(2);

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
    // Processes that a crash left behind are dead when this returns; only then are requests answered.
    let tracker = tokio::task::spawn_blocking(|| builder.open()).await??.into_async();
    let listener = tokio::net::TcpListener::bind(address.parse::<SocketAddr>()?).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes(tracker.clone())).with_graceful_shutdown(stopped(tracker)).await?;
    Ok(())
}

fn routes(tracker: AsyncTracker) -> Router {
    Router::new()
        .route("/tasks", post(start).get(list))
        .route("/tasks/{id}", delete(end))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/report", get(report))
        .with_state(tracker)
}

/// Completes when the programs have ended: requests that wait for one are answered then.
async fn stopped(tracker: AsyncTracker) {
    let mut term = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
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
}

async fn start(
    State(tracker): State<AsyncTracker>,
    Json(task): Json<NewTask>,
) -> Result<Response, Failure> {
    let job = Job::new(&task.task_id, task.program).args(task.args).stdin(Stdio::null());
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

async fn list(State(tracker): State<AsyncTracker>) -> Result<Json<Vec<Value>>, Failure> {
    let entry = |row: &ProcessRecord| {
        let started_at = DateTime::<Utc>::from(row.spec.started_at);
        json!({
            "task_id": row.spec.task_id,
            "process_id": row.spec.identity.pid.get(),
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
