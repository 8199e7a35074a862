//! `fleet check` and `fleet metrics`: for cron, Nagios, a systemd timer and Prometheus.

use std::time::{Duration, SystemTime};

use clap::Args;
use procledger::fleet::FleetHost;

use super::address::From;
use crate::{
    exit::{Exit, Result},
    output,
    render::{escape, short_span},
    units,
};

/// Names in the line; the others are counted.
const NAMED: usize = 5;

/// Print one line on the state of the fleet, and exit with 0, 1 or 2
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger fleet check --max-silence 10min --max-leaks 100/1h || systemctl start page-someone

Exit codes, as Nagios expects: 0 OK; 1 WARNING: too many leaks; 2 CRITICAL: a host is silent, too \
many processes could not be ended, no host ships, or the database cannot be read.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    from: From,
    /// Longest time since the last batch of each host
    #[arg(long, value_name = "D", default_value = "5min", value_parser = units::duration)]
    max_silence: Duration,
    /// Most processes that could not be ended
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_survivors: u64,
    /// Most leaks within a time, as 100/1h
    #[arg(long, value_name = "N/D", value_parser = rate)]
    max_leaks: Option<(u64, Duration)>,
}

fn rate(text: &str) -> Result<(u64, Duration), String> {
    let (count, span) = text.split_once('/').ok_or("write a number and a time, as 100/1h")?;
    let count = count.parse().map_err(|_| format!("`{count}` is not a number"))?;
    Ok((count, units::duration(span)?))
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let (exit, line) = match self.look() {
            Ok(found) => found,
            Err(failure) if failure.exit == Exit::USAGE => return Err(failure),
            Err(failure) => (Exit::USAGE, format!("CRITICAL: {}", failure.message)),
        };
        output::print_line(&escape(&line))?;
        Ok(exit)
    }

    fn look(&self) -> Result<(Exit, String)> {
        let mut fleet = self.from.open()?;
        let hosts = fleet.hosts()?;
        let expected = hosts.iter().filter(|host| !host.forgotten).count();
        let silent: Vec<&FleetHost> =
            hosts.iter().filter(|host| host.is_silent(self.max_silence)).collect();
        let surviving: Vec<&FleetHost> =
            hosts.iter().filter(|host| !host.forgotten && host.survivors > 0).collect();
        let survivors: u64 = surviving.iter().map(|host| host.survivors).sum();
        let mut critical = Vec::new();
        if expected == 0 {
            critical.push("no host ships to this fleet".to_owned());
        }
        if !silent.is_empty() {
            let names = named(&silent, |host| short_span(host.silent));
            critical.push(format!("silent ledgers: {} of {expected} ({names})", silent.len()));
        }
        if survivors > self.max_survivors {
            let names = named(&surviving, |host| host.survivors.to_string());
            critical.push(format!("processes that could not be ended: {survivors} ({names})"));
        }
        let mut warnings = Vec::new();
        if let Some((most, span)) = self.max_leaks {
            let leaks = fleet.count_leaks(SystemTime::now().checked_sub(span))?;
            if leaks > most {
                warnings.push(format!("leaks within {}: {leaks}", short_span(span)));
            }
        }
        let running: u64 = hosts.iter().map(|host| host.live).sum();
        Ok(if !critical.is_empty() {
            critical.extend(warnings);
            (Exit::USAGE, format!("CRITICAL: {}", critical.join("; ")))
        } else if !warnings.is_empty() {
            (Exit::FAILED, format!("WARNING: {}", warnings.join("; ")))
        } else {
            let line =
                format!("OK: ledgers {expected}, live processes {running}, survived {survivors}");
            (Exit::DONE, line)
        })
    }
}

fn named(hosts: &[&FleetHost], figure: impl Fn(&FleetHost) -> String) -> String {
    let names = hosts.iter().take(NAMED).map(|host| format!("{}: {}", host.host, figure(host)));
    let mut names: Vec<String> = names.collect();
    if hosts.len() > NAMED {
        names.push(format!("and {} more", hosts.len() - NAMED));
    }
    names.join(", ")
}

/// Print metrics of all hosts in the Prometheus text format
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger fleet metrics > fleet.prom.new && mv fleet.prom.new fleet.prom

One scrape for all hosts: run it from a timer for the textfile collector of a node exporter. Every \
name begins with procledger_fleet_ (docs/fleet.md). If the database cannot be read nothing is \
printed: alert on the age of the file.")]
pub(super) struct MetricsArgs {
    #[command(flatten)]
    from: From,
    /// Window in which leaks are counted
    #[arg(long, value_name = "D", default_value = "1day", value_parser = units::duration)]
    since: Duration,
}

impl MetricsArgs {
    pub(super) fn run(self) -> Result<Exit> {
        output::print(self.from.open()?.to_prometheus(self.since)?)?;
        Ok(Exit::DONE)
    }
}
