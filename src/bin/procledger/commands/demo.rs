//! `demo`: crashes a real host on purpose and shows its orphans being reaped.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use procledger::{Ledger, Outcome, ProcessRecord, Report, Tracker};

use super::{demo_guard::Host, report::leak_table};
use crate::{
    exit::{Exit, Failure, Result},
    inherited_fds::demand_descriptors,
    output,
    pinned::PinnedProcess,
    render::{Paint, Table, after, escape, how_ended, shell_words},
    signals::{STOP, Signals},
};

/// Crash a real host on purpose and watch its orphans being reaped
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger demo --keep

Uses a directory of its own below $TMPDIR. Exits with 1 if anything is left.")]
pub(crate) struct DemoArgs {
    /// Keep the directory with the ledger afterwards
    #[arg(long)]
    keep: bool,
}

/// A process of the demo, pinned so that it cannot be confused with another one.
struct Witness {
    row: ProcessRecord,
    /// `None` if it had already ended.
    pin: Option<PinnedProcess>,
}

impl DemoArgs {
    pub(crate) fn run(self) -> Result<Exit> {
        demand_descriptors()?;
        let signals = Signals::block(&STOP)?;
        let folder = tempfile::Builder::new()
            .prefix("procledger-demo-")
            .permissions(Permissions::from_mode(0o700))
            .disable_cleanup(self.keep)
            .tempdir()
            .map_err(|error| Failure::because("failed to create a folder for the demo", &error))?;
        // The host's guard is dropped when this returns, so the ledger's folder is removed last.
        let result = show(&folder.path().join("ledger.db"), &signals, self.keep);
        if self.keep {
            return result;
        }
        let path = folder.path().to_owned();
        let removed = folder.close().map_err(|error| {
            Failure::because(format!("failed to remove {}", path.display()), &error)
        });
        result.and_then(|exit| removed.map(|()| exit))
    }
}

/// Runs the demo in four steps. If stdout has lost its reader, the steps go on.
fn show(ledger: &Path, signals: &Signals, keep: bool) -> Result<Exit> {
    let paint = Paint::detect();
    let marker = marker(ledger);
    if keep {
        print(&format!("The ledger is {}.", ledger.display()))?;
    }
    heading(paint, "1. A host starts three tasks, each recorded before it runs.")?;
    let mut host = Host::start(ledger, &marker)?;
    let witnesses = witnesses(ledger)?;
    output::print(processes(&witnesses))?;
    check(signals)?;

    heading(paint, &format!("2. The host (pid {}) is killed with SIGKILL.", host.pid()))?;
    host.crash().map_err(|error| Failure::because("failed to crash the host", &error))?;
    let alive = alive(&witnesses, Duration::ZERO)?;
    print(&format!(
        "{} of its {} processes are still running, without an owner.",
        alive.len(),
        witnesses.len()
    ))?;
    check(signals)?;

    heading(paint, "3. The next host opens the ledger, which ends the orphans.")?;
    let since = Instant::now();
    let tracker = Tracker::builder(ledger).program("demo-host").monitor(false).open()?;
    let took = since.elapsed();
    output::print(reaped(tracker.startup_report(), &witnesses))?;
    print(&format!(
        "Done in {} ms, before anything new could have been started.",
        took.as_millis()
    ))?;

    heading(paint, "4. The ledger keeps a record.")?;
    output::print(leak_table(&tracker.ledger().leaks(procledger::Query::new())?))?;
    let left = verify(&tracker, &witnesses)?;
    if left.is_empty() {
        host.reaped();
    }
    tracker.shutdown()?;
    verdict(&left, ledger, keep, paint)
}

/// Returns the folder's name, which is unique to this demo.
fn marker(ledger: &Path) -> String {
    let folder = ledger.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

fn heading(paint: Paint, title: &str) -> Result<()> {
    print(&format!("\n{}", paint.bold(title)))
}

fn print(line: &str) -> Result<()> {
    output::print_line(line).map(drop)
}

/// Fails if Ctrl-C was pressed between two steps: the guards clean up.
fn check(signals: &Signals) -> Result<()> {
    match signals.pending() {
        Ok(Some(signal)) => {
            Err(Failure::new("interrupted; cleaning up").with_exit(Exit::signal(signal)))
        }
        _ => Ok(()),
    }
}

fn witnesses(ledger: &Path) -> Result<Vec<Witness>> {
    let rows = Ledger::open(ledger)?.processes()?;
    rows.into_iter()
        .map(|row| Ok(Witness { pin: PinnedProcess::of(&row)?, row }))
        .collect::<io::Result<_>>()
        .map_err(|error| Failure::because("failed to inspect the demo's processes", &error))
}

fn processes(witnesses: &[Witness]) -> String {
    let mut table =
        Table::cut(&["TASK", "PID", "FOUND AS", "CONTAINMENT", "COMMAND"], false).right(1);
    for Witness { row, .. } in witnesses {
        table.row([
            task(row),
            row.pid().to_string(),
            row.spec.origin.to_string(),
            row.spec.containment.to_string(),
            shell_words(&row.spec.command),
        ]);
    }
    table.text()
}

/// Returns the processes that have not ended; waits up to `patience` for each.
fn alive(witnesses: &[Witness], patience: Duration) -> Result<Vec<String>> {
    let mut alive = Vec::new();
    for witness in witnesses {
        let Some(pin) = &witness.pin else { continue };
        let ended = pin
            .has_ended(patience)
            .map_err(|error| Failure::because("failed to inspect a process", &error))?;
        if !ended {
            alive.push(format!("{} pid {}", escape(&task(&witness.row)), witness.row.pid()));
        }
    }
    Ok(alive)
}

fn reaped(report: &Report, witnesses: &[Witness]) -> String {
    let mut table = Table::cut(&["TASK", "PID", "OUTCOME", "COMMAND"], false).right(1);
    for ending in &report.endings {
        let known = witnesses.iter().any(|witness| witness.row.pid() == ending.pid);
        let mut what = after(&how_ended(ending), ending.died_after);
        if !known && ending.outcome != Outcome::Gone {
            what.push_str(" (found just now)");
        }
        table.row([
            ending.task_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            ending.pid.to_string(),
            what,
            shell_words(&ending.command),
        ]);
    }
    table.text()
}

/// Returns what is left of the demo, according to its own pidfds and to the ledger.
fn verify(tracker: &Tracker, witnesses: &[Witness]) -> Result<Vec<String>> {
    let mut left = alive(witnesses, Duration::from_millis(500))?;
    let rows = tracker.ledger().processes()?;
    left.extend(rows.iter().map(|row| {
        format!(
            "{} pid {} is {} in the ledger",
            escape(&task(row)),
            row.pid(),
            row.life.state().as_str()
        )
    }));
    Ok(left)
}

fn verdict(left: &[String], ledger: &Path, keep: bool, paint: Paint) -> Result<Exit> {
    let look = format!("  sqlite3 -readonly {} 'SELECT * FROM leaks'", ledger.display());
    if keep {
        print(&format!("\nTo see for yourself:\n{look}"))?;
    } else {
        print(&format!(
            "\nTo see for yourself, run it with --keep (this folder is removed now) and then\n{look}"
        ))?;
    }
    print("")?;
    if left.is_empty() {
        print(&paint.good("Nothing is left."))?;
        return Ok(Exit::DONE);
    }
    print(&paint.bad(&format!("Left: {}", left.join(", "))))?;
    Err(Failure::new(format!(
        "{} processes of the demo are still running or recorded as such",
        left.len()
    )))
}

fn task(row: &ProcessRecord) -> String {
    row.spec.task_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}
