//! `doctor`: checks of the ledger, the machine and the rows.

use clap::Args;
use procledger::{Finding, Level};

use crate::{
    context::Context,
    exit::{Exit, Result},
    output,
    render::{Paint, escape},
};

/// Check the ledger, the machine and the records; exit with 1 if there is a problem
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  procledger doctor

--json: an array of {check, level (ok, warning, problem), detail, advice}.")]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit> {
        let findings = procledger::diagnose_trusting(
            &context.ledger,
            context.export.as_deref(),
            context.trust_folder(),
        );
        let text =
            if self.json { output::json(&findings)? } else { list(&findings, Paint::detect()) };
        output::print(text)?;
        let problem = findings.iter().any(|finding| finding.level == Level::Problem);
        Ok(if problem { Exit::FAILED } else { Exit::DONE })
    }
}

fn list(findings: &[Finding], paint: Paint) -> String {
    findings.iter().map(|finding| line(finding, paint)).collect()
}

fn line(finding: &Finding, paint: Paint) -> String {
    let level = match finding.level {
        Level::Ok => paint.good("ok     "),
        Level::Warning => paint.bold("warning"),
        Level::Problem => paint.bad("problem"),
    };
    let line = format!("{level}  {}: {}\n", escape(&finding.check), escape(&finding.detail));
    if finding.advice.is_empty() {
        line
    } else {
        format!("{line}         -> {}\n", escape(&finding.advice))
    }
}
