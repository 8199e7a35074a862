//! `scan`: lists processes that look orphaned, without any ledger.

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use nix::unistd::{Uid, User, geteuid};
use procledger::{
    DEFAULT_MIN_AGE, OrphanMember, OrphanScan, OrphanTree, OrphansLeftOut, scan_orphans,
};
use serde::Serialize;

use super::tree::{Branch, stems};
use crate::{
    exit::{Exit, Failure, Result},
    global_args::GlobalArgs,
    logging, output, privilege,
    render::{Paint, Table, cpu_time, escape, shell_words, short_bytes, short_span},
    units,
};

/// List processes that look orphaned, whether or not a ledger has recorded them
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger scan --min-age 1h

A process looks orphaned if a process other than its original parent has adopted it (process 1, \
the user's service manager, or another subreaper), if it has no controlling terminal, and if its \
cgroup is not that of a systemd service. Processes that a live instance of a ledger tracks are \
left out, and so are the programs of procledger. The scan needs no ledger, ends nothing and \
changes nothing. You have to decide whether a process is still needed: a daemon that was started \
manually looks the same.

The last lines are the `reap --dry-run` commands that would find these processes by their ledgers \
or names. A shell or an interpreter without a script, such as `sh -c`, has no name of its own: its \
PID is listed instead.

--json: {systemd, min_age_ms, trees, left_out, errors, reap}; trees are {pid, parent (which has \
adopted it), why, name (by which reap would find it, or null), ledger (in its environment, if it \
carries the token of a task), age_ms, rss_bytes, cpu_ms, members}; members are {pid, parent, age_ms, rss_bytes, cpu_ms, cwd, command}, \
each followed by its children; left_out has the numbers of those that are young, in services, \
tracked, in containers, or on terminals; reap is an array of arguments, or null.")]
pub(crate) struct ScanArgs {
    /// Leave out processes that are younger than this [default: 10s]
    #[arg(long, value_name = "D", value_parser = units::duration)]
    min_age: Option<Duration>,
    /// As root: scan for the processes of this user, as that user (name or uid)
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show commands in full
    #[arg(long)]
    wide: bool,
}

impl ScanArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<Exit> {
        global.refuse_options_of_a_ledger("scan")?;
        // First of all, so that root reads nothing of the user's with its own privileges.
        if let Some(user) = &self.user {
            become_user(user)?;
        }
        logging::start(global.verbose, global.log_file.as_deref())?;
        let scan = scan_orphans(self.min_age.unwrap_or(DEFAULT_MIN_AGE))?;
        let reap = self.reap(&scan.trees);
        for error in &scan.errors {
            output::warn(error);
        }
        let text = if self.json { self.json(&scan, reap)? } else { self.text(&scan, reap) };
        output::print(text)?;
        Ok(if scan.errors.is_empty() { Exit::DONE } else { Exit::FAILED })
    }

    fn min_age(&self) -> Duration {
        self.min_age.unwrap_or(DEFAULT_MIN_AGE)
    }

    /// Returns the command that would list the trees; `None` if none of them has a name.
    fn reap(&self, trees: &[OrphanTree]) -> Option<Vec<String>> {
        let without_ledger = trees.iter().filter(|tree| tree.ledger.is_none());
        let names: BTreeSet<&str> =
            without_ledger.filter_map(|tree| tree.name.as_deref()).collect();
        let age = self.min_age.map(|age| humantime::format_duration(age).to_string());
        let age = age.into_iter().flat_map(|age| ["--min-age".to_owned(), age.replace(' ', "")]);
        let options = names.iter().map(|name| format!("--orphan-name={name}")).chain(age);
        let start = ["procledger", "reap", "--dry-run"].map(str::to_owned);
        (!names.is_empty()).then(|| start.into_iter().chain(options).collect())
    }

    fn json(&self, scan: &OrphanScan, reap: Option<Vec<String>>) -> Result<String> {
        output::json(&Line { scan, min_age_ms: self.min_age().as_millis(), reap })
    }

    fn text(&self, scan: &OrphanScan, reap: Option<Vec<String>>) -> String {
        let mut parts: Vec<String> = scan.trees.iter().map(|tree| text(tree, self.wide)).collect();
        parts.push(self.summary(scan));
        let ledgers: BTreeSet<&str> =
            scan.trees.iter().filter_map(|tree| tree.ledger.as_deref()).collect();
        let of_ledgers = ledgers.into_iter().map(|ledger| {
            ["procledger", "--db", ledger, "reap", "--dry-run"].map(str::to_owned).to_vec()
        });
        let commands: Vec<Vec<String>> = of_ledgers.chain(reap).collect();
        if !commands.is_empty() {
            let user = match self.user {
                Some(_) => format!(", as uid {}", geteuid()),
                None => String::new(),
            };
            let lines = commands.iter().map(|command| format!("  {}\n", shell_words(command)));
            let lines: String = lines.collect();
            parts.push(format!("To see what would be ended{user}:\n{lines}"));
        }
        parts.extend(unnamed(&scan.trees));
        parts.join("\n")
    }

    fn summary(&self, scan: &OrphanScan) -> String {
        let processes: usize = scan.trees.iter().map(|tree| tree.members.len()).sum();
        let memory = scan.trees.iter().map(|tree| tree.rss_bytes).sum();
        let mut text = match scan.trees.len() {
            0 => format!("No process of uid {} looks orphaned.\n", geteuid()),
            trees => format!(
                "{trees} {}, {processes} {}, {}. Nothing was ended.\n",
                if trees == 1 { "tree" } else { "trees" },
                if processes == 1 { "process" } else { "processes" },
                short_bytes(Some(memory)),
            ),
        };
        let OrphansLeftOut { young, services, tracked, containers, terminals } = scan.left_out;
        let parts: Vec<String> = [
            (young, format!("younger than {}", short_span(self.min_age()))),
            (services, "in services".to_owned()),
            (tracked, "tracked by ledgers".to_owned()),
            (containers, "in containers".to_owned()),
            (terminals, "on terminals".to_owned()),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        if !parts.is_empty() {
            let all_ages = if young > 0 { " (--min-age 0s lists the young ones)" } else { "" };
            text.extend(["Left out: ", &parts.join(", "), all_ages, ".\n"]);
        }
        if !scan.systemd {
            text += "There is no systemd here: services of another manager look orphaned, too.\n";
        }
        text
    }
}

/// Returns what remains for trees that no `reap` would find.
fn unnamed(trees: &[OrphanTree]) -> Option<String> {
    let has_none = |tree: &&OrphanTree| tree.name.is_none() && tree.ledger.is_none();
    let pids: Vec<String> =
        trees.iter().filter(has_none).map(|tree| tree.pid.to_string()).collect();
    let is = if pids.len() == 1 { "tree is" } else { "trees are" };
    (!pids.is_empty()).then(|| {
        format!(
            "The following {is} not found by name, since a shell or an interpreter has no name of its own; use kill(1) instead: {}\n",
            pids.join(" ")
        )
    })
}

/// Becomes the user for good; only root can.
fn become_user(name: &str) -> Result<()> {
    if !geteuid().is_root() {
        return Err(Failure::usage("--user needs root: without it your own processes are scanned"));
    }
    let by_uid = name.parse().ok().map(Uid::from_raw);
    let found = match by_uid {
        Some(uid) => User::from_uid(uid),
        None => User::from_name(name),
    };
    let found = found
        .map_err(|error| Failure::because(format!("failed to look up the user {name}"), &error))?;
    let uid = by_uid.or_else(|| found.as_ref().map(|user| user.uid));
    let uid = uid.ok_or_else(|| Failure::usage(format!("--user: there is no user {name}")))?;
    if !uid.is_root() {
        privilege::act_as(uid)?;
    }
    Ok(())
}

fn text(tree: &OrphanTree, wide: bool) -> String {
    let header = ["PID", "AGE", "MEMORY", "CPU", "DIRECTORY", "PROCESS"];
    let mut table = (0..4).fold(Table::cut(&header, wide), Table::right);
    let branches: Vec<Branch> = tree.members.iter().map(branch).collect();
    for (member, stem) in tree.members.iter().zip(stems(&branches)) {
        table.row([
            member.pid.to_string(),
            short_span(member.age),
            short_bytes(Some(member.rss_bytes)),
            cpu_time(Some(member.cpu)),
            member.cwd.clone().unwrap_or_else(|| "-".to_owned()),
            stem + &shell_words(&member.command),
        ]);
    }
    let command = tree.members.first().and_then(|root| root.command.first());
    let name = tree.name.as_deref().or(command.map(String::as_str)).unwrap_or("(no name)");
    let ledger = tree.ledger.as_ref().map_or_else(String::new, |path| format!(" of {path}"));
    let heading =
        Paint::detect().bold(&escape(name)) + ": " + &escape(&format!("{}{ledger}", tree.why));
    format!("{heading}\n{}", table.text())
}

fn branch(member: &OrphanMember) -> Branch {
    Branch { pid: member.pid, parent: member.parent }
}

/// A scan in JSON. Stable: the help text documents it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    scan: &'a OrphanScan,
    min_age_ms: u128,
    reap: Option<Vec<String>>,
}
