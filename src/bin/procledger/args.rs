//! The command line. Parsers check single values; each subcommand checks combinations of values
//! before it does anything.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    commands::{
        completions, demo, demo_host, doctor, export, fleet, forget, health, import, kill, man,
        metrics, prune, ps, reap, report, run, scan, ship, tree, wait, watch,
    },
    context::{Access, Context},
    exit::{Exit, Result},
    global_args::GlobalArgs,
    logging,
};

const AFTER_HELP: &str = "\
Examples:
  procledger run --task nightly -- ./backup.sh   run a program and own it until it ends
  procledger ps                                  list what runs now
  procledger reap --dry-run                      list what dead owners left
  procledger scan                                list what looks orphaned, without any ledger
  procledger demo                                watch a crash being cleaned up

The ledger is --db FILE, else $PROCLEDGER_DB, else $XDG_STATE_HOME/procledger/ledger.db, else \
$HOME/.local/state/procledger/ledger.db. If root uses another user's ledger, the command becomes \
that user first. $PROCLEDGER_TRUST_FOLDER is --trust-folder for all commands. $PROCLEDGER_LOG \
takes log filters (procledger=debug).

Exit codes: 0 done, 1 failed, 2 usage, 3 something survived. `run` and `wait` exit with the code of \
the program.
Exits with 0 if its output is closed early, as in `procledger ps | head -1`.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "procledger", version, about, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    /// The task that this process supervises.
    #[arg(skip)]
    supervise: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// The command line of `run`.
#[derive(Debug, Parser)]
#[command(name = "procledger")]
struct RunCli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    Run(run::RunArgs),
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Ps(ps::PsArgs),
    Tree(tree::TreeArgs),
    Kill(kill::KillArgs),
    Wait(wait::WaitArgs),
    Forget(forget::ForgetArgs),
    Health(health::HealthArgs),
    Reap(reap::ReapArgs),
    Scan(scan::ScanArgs),
    Watch(watch::WatchArgs),
    Ship(ship::ShipArgs),
    Report(report::ReportArgs),
    Metrics(metrics::MetricsArgs),
    Fleet(fleet::FleetArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Doctor(doctor::DoctorArgs),
    Prune(prune::PruneArgs),
    Completions(completions::CompletionsArgs),
    #[command(name = "__tasks", hide = true)]
    Tasks(completions::TasksArgs),
    Man(man::ManArgs),
    Demo(demo::DemoArgs),
    DemoHost(demo_host::DemoHostArgs),
}

impl Cli {
    /// Parses a command line. A valid `run`, which is used in front of other programs, is parsed
    /// without building the options of all other subcommands.
    pub(crate) fn parse_words(words: &[OsString]) -> clap::error::Result<Self> {
        if words.get(1).is_some_and(|word| word == "run")
            && let Ok(RunCli { global, command: RunCommand::Run(args) }) =
                RunCli::try_parse_from(words)
        {
            return Ok(Self { global, supervise: None, command: Command::Run(args) });
        }
        Self::try_parse_from(words)
    }

    /// Makes this process the supervisor of a task, if there is one.
    pub(crate) fn supervising(self, task: Option<String>) -> Self {
        Self { supervise: task, ..self }
    }

    /// Runs the subcommand.
    pub(crate) fn run(self) -> Result<Exit> {
        use Access::{Create, Existing, Inspect};
        let context = |access| Context::prepare(&self.global, access);
        match self.command {
            Command::Run(args) => args.run(self.supervise.clone(), || context(Create)),
            Command::Ps(args) => args.run(&context(Existing)?),
            Command::Tree(args) => args.run(&context(Existing)?),
            Command::Kill(args) => args.run(&context(Existing)?),
            Command::Wait(args) => args.run(context(Existing)),
            Command::Forget(args) => args.run(&context(Existing)?),
            Command::Health(args) => args.run(&context(Existing)?),
            Command::Reap(args) => {
                let context = context(args.access())?;
                args.run(&context)
            }
            Command::Scan(args) => args.run(&self.global),
            Command::Watch(args) => args.run(&self.global),
            Command::Ship(args) => args.run(&self.global),
            Command::Report(args) => args.run(&context(Existing)?),
            Command::Metrics(args) => args.run(&self.global),
            Command::Fleet(args) => args.run(&self.global),
            Command::Export(args) => args.run(&context(Existing)?),
            Command::Import(args) => args.run(&context(Create)?),
            Command::Doctor(args) => args.run(&context(Inspect)?),
            Command::Prune(args) => args.run(&context(Existing)?),
            Command::Completions(args) => args.run(Self::command()),
            Command::Tasks(args) => args.run(&context(Inspect)?),
            Command::Man(args) => args.run(Self::command()),
            Command::Demo(args) => {
                logging::start(self.global.verbose, self.global.log_file.as_deref())?;
                args.run()
            }
            Command::DemoHost(args) => args.run(&context(Create)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_program_takes_its_own_options() {
        for line in [
            &["procledger", "run", "--task", "t", "--", "sleep", "-v"][..],
            &["procledger", "run", "--task", "t", "sleep", "-v", "--db", "x"],
        ] {
            let cli = Cli::try_parse_from(line).expect("valid");
            assert!(cli.global.db.is_none());
            assert_eq!(cli.global.verbose, 0);
        }
    }

    #[test]
    fn the_fast_parser_of_run_agrees_with_the_whole_command_line() {
        for line in [
            &["run", "true"][..],
            &["run", "--task", "t", "--db", "x", "-vv", "--", "sleep", "-v"],
            &["run", "-v", "--env", "A=b", "--grace", "2s", "run", "--db", "y"],
        ] {
            let words: Vec<OsString> =
                ["procledger"].iter().chain(line).map(OsString::from).collect();
            let short = RunCli::try_parse_from(&words).expect("valid");
            let whole = Cli::try_parse_from(&words).expect("valid");
            let parsed = Cli::parse_words(&words).expect("valid");
            assert_eq!(format!("{parsed:?}"), format!("{whole:?}"));
            assert_eq!(format!("{:?}", short.global), format!("{:?}", whole.global));
        }
        for line in
            [&["run"][..], &["run", "--help"], &["run", "--tsk", "t"], &["run", "--version"]]
        {
            let words: Vec<OsString> =
                ["procledger"].iter().chain(line).map(OsString::from).collect();
            let whole = Cli::try_parse_from(&words).expect_err("no command").to_string();
            assert_eq!(Cli::parse_words(&words).expect_err("no command").to_string(), whole);
        }
    }

    #[test]
    fn empty_files_are_usage_errors() {
        for line in [
            &["procledger", "ps", "--db", ""][..],
            &["procledger", "ps", "--export", ""],
            &["procledger", "ps", "--log-file", ""],
            &["procledger", "ps", "--trust-folder", ""],
            &["procledger", "export", ""],
            &["procledger", "import", ""],
            &["procledger", "report", "-o", ""],
        ] {
            let error = Cli::try_parse_from(line).expect_err("empty");
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn kill_needs_tasks_or_all_and_not_both() {
        for (line, valid) in [
            (&["procledger", "kill"][..], false),
            (&["procledger", "kill", "--protect", "name"], false),
            (&["procledger", "kill", "a", "--all"], false),
            (&["procledger", "kill", "a", "b"], true),
            (&["procledger", "kill", "--all"], true),
        ] {
            assert_eq!(Cli::try_parse_from(line).is_ok(), valid, "{line:?}");
        }
    }

    #[test]
    fn global_options_may_follow_the_subcommand() {
        let cli = Cli::try_parse_from(["procledger", "ps", "--db", "x", "-vv"]).expect("valid");
        assert_eq!(cli.global.db, Some(PathBuf::from("x")));
        assert_eq!(cli.global.verbose, 2);
    }
}
