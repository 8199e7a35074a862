//! `ship --status`: how far ledgers were shipped.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use procledger::fleet::{ShipmentStatus, last_error, statuses};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure, Result},
    output,
    render::{escape, rfc3339, short_span},
};

/// How far a ledger was shipped, in JSON. Stable: the help text documents it.
#[derive(Debug, Serialize)]
struct Line {
    ledger: String,
    fleet: Option<String>,
    acknowledged_at: Option<String>,
    shipped_until: Option<String>,
    lag_ms: Option<u128>,
    processes: Option<u64>,
    leaks: Option<u64>,
    last_error: Option<String>,
}

pub(super) fn run(ledgers: &[PathBuf], max_lag: Duration, json: bool) -> Result<Exit> {
    let (mut lines, mut texts, mut exit) = (Vec::new(), Vec::new(), Exit::DONE);
    for ledger in ledgers {
        let (found, error) =
            match statuses(ledger).and_then(|found| Ok((found, last_error(ledger)?))) {
                Ok(both) => both,
                Err(error) => {
                    output::warn(&Failure::from(error).message);
                    exit = Exit::FAILED;
                    continue;
                }
            };
        if found.is_empty() {
            let shown = and_error(error.as_deref());
            texts.push(format!("{}: was never shipped{shown}", ledger.display()));
            lines.push(line(ledger, None, error));
            exit = Exit::FAILED;
        }
        for status in found {
            if status.lag().is_none_or(|lag| lag > max_lag) {
                exit = Exit::FAILED;
            }
            texts.push(text(ledger, &status));
            lines.push(line(ledger, Some(&status), status.last_error.clone()));
        }
    }
    if json {
        output::print(output::json(&lines)?)?;
    } else if !texts.is_empty() {
        let texts: Vec<String> = texts.iter().map(|text| escape(text)).collect();
        output::print_line(&texts.join("\n"))?;
    }
    Ok(exit)
}

fn line(ledger: &Path, status: Option<&ShipmentStatus>, last_error: Option<String>) -> Line {
    Line {
        ledger: ledger.display().to_string(),
        fleet: status.map(|status| status.fleet.to_string()),
        acknowledged_at: status.map(|status| rfc3339(status.acknowledged_at)),
        shipped_until: status.and_then(|status| status.shipped_until).map(rfc3339),
        lag_ms: status.and_then(ShipmentStatus::lag).map(|lag| lag.as_millis()),
        processes: status.map(|status| status.processes),
        leaks: status.map(|status| status.leaks),
        last_error,
    }
}

fn text(ledger: &Path, status: &ShipmentStatus) -> String {
    let behind = match status.lag() {
        Some(lag) => format!("behind by {}", short_span(lag)),
        None => "not caught up yet".to_owned(),
    };
    format!(
        "{}: fleet {}: {behind}, {} processes and {} leaks to ship{}",
        ledger.display(),
        status.fleet.simple(),
        status.processes,
        status.leaks,
        and_error(status.last_error.as_deref())
    )
}

fn and_error(error: Option<&str>) -> String {
    error.map_or_else(String::new, |error| format!("; last error: {error}"))
}
