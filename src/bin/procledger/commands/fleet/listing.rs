//! `fleet ps`, `fleet hosts` and `fleet leaks`: what is in the fleet's database, row by row.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use clap::Args;
use procledger::{
    LeakKind,
    fleet::{FleetHost, FleetLeak, FleetProcess},
};

use super::address::From;
use crate::{
    commands::report::Window,
    exit::{Exit, Result},
    output,
    render::{Table, bytes, fleet_outcome, push_element, shell_words, short_span, since, span},
};

/// A host that has been silent for longer than this is not known to run anything. Shippers send
/// every 30 seconds by default.
pub(super) const SILENT: Duration = Duration::from_mins(5);
/// A clock that is further off is mentioned.
const SKEWED_MS: u64 = 5_000;

/// List what runs on all hosts, as of the last batch of each
#[derive(Debug, Args)]
#[command(after_help = "\
STATE is `as of` a time if the host has been silent for 5 minutes: whether the process still runs \
is unknown.
--json: an array of objects {host, stream, id, root, task_id, pid, state, origin, containment, \
owner, uid, survive, command, started_at, peak_rss_bytes, cpu_ms, last_error, seen_at, silent_ms}.")]
pub(super) struct PsArgs {
    #[command(flatten)]
    from: From,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show commands in full
    #[arg(long)]
    wide: bool,
}

impl PsArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let mut fleet = self.from.open()?;
        if self.json {
            let mut text = String::new();
            let objects = fleet.live(|process| {
                let start = text.len();
                push_process(&mut text, &process);
                start..text.len()
            })?;
            output::print_json_list(objects.into_iter().map(|object| &text[object]))?;
        } else {
            let header = ["HOST", "TASK", "PID", "STATE", "AGE", "COMMAND"];
            let mut table = Table::cut(&header, self.wide).right(2);
            let mut added = 0..;
            let rows = fleet.live(|process| {
                table.row(cells(&process));
                added.next().unwrap_or_default()
            })?;
            output::print(table.in_order(rows).text())?;
        }
        Ok(Exit::DONE)
    }
}

/// Appends a process as an element of a list in indented JSON.
fn push_process(text: &mut String, process: &FleetProcess<'_>) {
    let silent_ms = i64::try_from(process.silent.as_millis()).unwrap_or(i64::MAX);
    push_element!(text,
        host: process.host,
        stream: process.stream,
        id: process.id,
        root: process.root,
        task_id: process.task_id,
        pid: process.pid,
        state: process.state,
        origin: process.origin,
        containment: process.containment,
        owner: process.owner,
        uid: process.uid,
        survive: process.survive,
        command: process.command.as_slice(),
        started_at: process.started_at,
        peak_rss_bytes: process.peak_rss_bytes,
        cpu_ms: process.cpu_ms,
        last_error: process.last_error,
        seen_at: process.seen_at,
        silent_ms: silent_ms,
    );
}

/// Returns the row of a process.
fn cells<'a>(process: &FleetProcess<'a>) -> [Cow<'a, str>; 6] {
    // The time from the last batch is by the clock of the database.
    let age = since(process.seen_at, process.started_at) + process.silent;
    [
        process.host.into(),
        process.task_id.unwrap_or("-").into(),
        process.pid.to_string().into(),
        if process.silent > SILENT {
            format!("as of {} ago", short_span(process.silent)).into()
        } else {
            process.state.into()
        },
        short_span(age).into(),
        shell_words(&process.command).into(),
    ]
}

/// List all ledgers of the fleet: when each last sent a batch, and what was lost
#[derive(Debug, Args)]
#[command(after_help = "\
--json: an array of objects {host, stream, ledger, login, made_at, seen_at, silent_ms, skew_ms, \
live, survivors, gap, leak_gap, lost, lost_leaks, restarts, health_at, orphan_at, version, \
copy_of, copied, forgotten}.")]
pub(super) struct HostsArgs {
    #[command(flatten)]
    from: From,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl HostsArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let hosts = self.from.open()?.hosts()?;
        let text = if self.json { output::json(&hosts)? } else { host_table(&hosts) };
        output::print(text)?;
        Ok(Exit::DONE)
    }
}

fn host_table(hosts: &[FleetHost]) -> String {
    let header = ["HOST", "LEDGER", "LIVE", "SURVIVED", "SEEN", "VERSION", "NOTES"];
    let mut table = Table::new(&header, 1).right(2).right(3);
    for host in hosts {
        let mut ledger = host.ledger.simple().to_string();
        ledger.truncate(8);
        table.row([
            host.host.clone(),
            ledger,
            host.live.to_string(),
            host.survivors.to_string(),
            format!("{} ago", short_span(host.silent)),
            host.version.clone(),
            notes(host).join("; "),
        ]);
    }
    table.text()
}

fn notes(host: &FleetHost) -> Vec<String> {
    let mut notes = Vec::new();
    if host.forgotten {
        notes.push("given up".to_owned());
    } else if host.is_silent(SILENT) {
        notes.push(format!("silent since {}", crate::render::clock(host.seen_at)));
    }
    if let Some(original) = &host.copy_of {
        notes.push(format!("copy of {original}"));
        if host.copied > 0 {
            notes.push(format!("rows that are in both: {}", host.copied));
        }
    }
    if host.skew_ms.unsigned_abs() > SKEWED_MS {
        let by = short_span(Duration::from_millis(host.skew_ms.unsigned_abs()));
        notes.push(format!("clock {by} {}", if host.skew_ms > 0 { "ahead" } else { "behind" }));
    }
    if host.gap + host.leak_gap > 0 {
        let rows = host.gap + host.leak_gap;
        notes.push(format!("gap: rows pruned before they were shipped: {rows}"));
    }
    if host.lost + host.lost_leaks > 0 {
        notes.push(format!("open rows lost: {}", host.lost + host.lost_leaks));
    }
    if host.restarts > 0 {
        notes.push("shipped again from the start: nothing is counted twice".to_owned());
    }
    notes
}

/// List the newest leaks of all hosts
#[derive(Debug, Args)]
#[command(after_help = "\
--json: an array of objects {host, stream, id, process, root, verified, task_id, pid, kind, rule, \
rule_key, evidence, evidence_key, found_at, age_ms, rss_bytes, outcome, died_after_ms, \
stop_signal, command}.")]
pub(super) struct LeaksArgs {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    window: Window,
    /// Show at most N leaks
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl LeaksArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let leaks = self.from.open()?.leaks(self.window.start(), self.limit)?;
        let text = if self.json { output::json(&leaks)? } else { leak_table(&leaks) };
        output::print(text)?;
        if u32::try_from(leaks.len()) == Ok(self.limit) {
            output::to_stderr(&format!(
                "showing the newest {} leaks: --limit N shows more",
                self.limit
            ));
        }
        Ok(Exit::DONE)
    }
}

/// Formats leaks as the table of `report`, with a column for the host.
pub(super) fn leak_table(leaks: &[FleetLeak]) -> String {
    let header = ["HOST", "TASK", "PID", "KIND", "FOUND", "OUTCOME", "WHY", "COMMAND"];
    let mut table = Table::new(&header, 2).right(2);
    let now = SystemTime::now();
    for leak in leaks {
        let memory =
            leak.rss_bytes.map_or_else(String::new, |rss| format!(", {}", bytes(Some(rss))));
        table.row([
            leak.host.clone(),
            leak.task_id.clone().unwrap_or_else(|| "-".to_owned()),
            leak.pid.to_string(),
            // A host may have shipped anything.
            LeakKind::parse(&leak.kind).map_or(leak.kind.clone(), |kind| kind.to_string()),
            format!("{} ago", span(since(now, leak.found_at))),
            fleet_outcome(leak),
            format!("{}: {} ({} old{memory})", leak.rule, leak.evidence, span(leak.age)),
            shell_words(&leak.command),
        ]);
    }
    table.text()
}
