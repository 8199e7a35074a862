//! Reports of a pass or a call, process by process.

use std::time::Duration;

use procledger::{Ending, LeakRecord, Outcome, Report, Suspect, TaskId, fleet::FleetLeak};

use super::{Table, escape, shell_words};
use crate::{exit::Exit, output::warn, units::signal_name};

/// Whether a report shows what was done or what would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tense {
    Done,
    Planned,
}

/// Returns how a process ended, or would end; [`by_signal`] adds the signal.
pub(crate) fn outcome(outcome: Outcome, tense: Tense) -> &'static str {
    match (tense, outcome) {
        (Tense::Done, Outcome::Gone) => "already gone",
        (Tense::Done, Outcome::Term) => "ended",
        (Tense::Done, Outcome::Kill) => "ended by KILL",
        (Tense::Done, Outcome::Survived) => "survived",
        (Tense::Done, Outcome::Kept) => "kept running",
        (Tense::Planned, Outcome::Gone) => "record as gone",
        (Tense::Planned, Outcome::Term | Outcome::Kill) => "end",
        (Tense::Planned, Outcome::Survived) => "try again",
        (Tense::Planned, Outcome::Kept) => "leave running",
    }
}

/// Returns how the process of a leak ended, on whichever host that was: it may have shipped any
/// text.
pub(crate) fn fleet_outcome(leak: &FleetLeak) -> String {
    let how = match Outcome::parse(&leak.outcome) {
        Some(known) => by_signal(known, leak.stop_signal),
        None => leak.outcome.clone(),
    };
    after(&how, leak.died_after_ms.map(Duration::from_millis))
}

/// Returns how the process of a leak ended.
pub(crate) fn leak_outcome(leak: &LeakRecord) -> String {
    after(&by_signal(leak.outcome, leak.stop_signal), leak.died_after)
}

/// Returns how a process ended, with the stop signal that ended it, if known.
fn by_signal(how: Outcome, stop_signal: Option<i32>) -> String {
    match (how, stop_signal) {
        (Outcome::Term, Some(signal)) => format!("ended by {}", signal_name(signal)),
        (other, _) => outcome(other, Tense::Done).to_owned(),
    }
}

/// Formats tables of the processes that were ended and that were left running, then a line of
/// figures.
pub(crate) fn report_text(report: &Report, tense: Tense) -> String {
    let mut text = String::new();
    if !report.endings.is_empty() {
        text.push_str(&endings(report, tense));
        text.push('\n');
    }
    if !report.suspects.is_empty() {
        text.push_str("Left running (could not be identified with certainty):\n");
        text.push_str(&suspects(&report.suspects));
        text.push('\n');
    }
    text + &summary(report, tense) + "\n"
}

/// Returns exit code 3 if something survived or may have, and 1 if there were errors; prints those
/// to stderr, and the number of processes that may still run.
pub(crate) fn report_exit(report: &Report) -> Exit {
    for error in &report.errors {
        warn(error);
    }
    let unverified = report.unverified;
    if unverified > 0 {
        let processes = if unverified == 1 { "process" } else { "processes" };
        warn(&format!(
            "{unverified} {processes} could not be examined and may still run: the report says why. Try again where `/proc` \
             shows them (mounted without hidepid, or in their PID namespace), or close the rows with `procledger forget`"
        ));
    }
    if report.survived() > 0 || unverified > 0 {
        Exit::SURVIVED
    } else if report.errors.is_empty() {
        Exit::DONE
    } else {
        Exit::FAILED
    }
}

/// Returns how a process was ended.
pub(crate) fn how_ended(ending: &Ending) -> String {
    by_signal(ending.outcome, ending.stop_signal)
}

/// Formats an ended process in one line, for a log.
pub(crate) fn ending_line(ending: &Ending) -> String {
    line_of(ending, &how_ended(ending))
}

/// Does the same for an end that was requested by this signal.
pub(crate) fn ending_line_after(ending: &Ending, signal: &str) -> String {
    match ending.outcome {
        Outcome::Term => line_of(ending, &format!("ended by {signal}")),
        _ => ending_line(ending),
    }
}

fn line_of(ending: &Ending, how: &str) -> String {
    let line = format!(
        "{} pid {}: {} ({}): {}",
        escape(&task(ending.task_id.as_ref())),
        ending.pid,
        after(how, ending.died_after),
        escape(&ending.rule),
        shell_words(&ending.command)
    );
    match &ending.obstacle {
        Some(obstacle) => format!("{line}: {}", escape(obstacle)),
        None => line,
    }
}

/// Formats a process that was left running in one line.
pub(crate) fn suspect_line(suspect: &Suspect) -> String {
    format!(
        "{} pid {}: left running: {}: {}",
        escape(&task(suspect.task_id.as_ref())),
        suspect.pid,
        escape(&suspect.why),
        shell_words(&suspect.command)
    )
}

/// Formats an outcome, such as `ended by TERM, 3 ms`.
pub(crate) fn after(outcome: &str, died_after: Option<Duration>) -> String {
    let after = |span: Duration| format!("{outcome}, {} ms", span.as_millis());
    died_after.map_or_else(|| outcome.to_owned(), after)
}

fn endings(report: &Report, tense: Tense) -> String {
    let header = if tense == Tense::Done { "OUTCOME" } else { "WOULD" };
    let mut table = Table::new(&["TASK", "PID", header, "WHY", "COMMAND"], 2).right(1);
    for ending in &report.endings {
        let mut why = format!("{}: {}", ending.rule, ending.evidence);
        if let Some(obstacle) = &ending.obstacle {
            why = format!("{obstacle} ({why})");
        }
        table.row([
            task(ending.task_id.as_ref()),
            ending.pid.to_string(),
            match tense {
                Tense::Done => after(&how_ended(ending), ending.died_after),
                Tense::Planned => outcome(ending.outcome, tense).to_owned(),
            },
            why,
            shell_words(&ending.command),
        ]);
    }
    table.text()
}

/// Formats a table of processes that were left running.
pub(crate) fn suspects(suspects: &[Suspect]) -> String {
    let mut table = Table::new(&["TASK", "PID", "WHY", "COMMAND"], 2).right(1);
    for suspect in suspects {
        table.row([
            task(suspect.task_id.as_ref()),
            suspect.pid.to_string(),
            suspect.why.clone(),
            shell_words(&suspect.command),
        ]);
    }
    table.text()
}

fn summary(report: &Report, tense: Tense) -> String {
    let mut parts = vec![format!("checked {}", report.checked)];
    match tense {
        Tense::Done => {
            parts.push(format!(
                "ended {}",
                report.count(Outcome::Term) + report.count(Outcome::Kill)
            ));
            parts.push(format!("already gone {}", report.count(Outcome::Gone)));
        }
        Tense::Planned => {
            let planned = report.endings.iter().filter(|ending| ending.outcome != Outcome::Kept);
            parts.push(format!("nothing was changed; would act on {}", planned.count()));
        }
    }
    for (word, count) in [
        ("survived", if tense == Tense::Done { report.survived() } else { 0 }),
        ("adopted", report.adopted),
        ("kept", report.count(Outcome::Kept)),
        ("left alone", report.suspects.len() as u64),
        ("too young", report.young.len() as u64),
    ] {
        if count > 0 {
            parts.push(format!("{word} {count}"));
        }
    }
    parts.join(", ")
}

fn task(task: Option<&TaskId>) -> String {
    task.map_or_else(|| "-".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use procledger::Pid;

    use super::*;

    fn ending(outcome: Outcome) -> Ending {
        Ending {
            task_id: TaskId::new("t\x1b1").ok(),
            pid: Pid::new(7).expect("valid"),
            command: vec!["sleep".to_owned(), "300".to_owned()],
            rule: "orphan".to_owned(),
            evidence: "owner is dead".to_owned(),
            outcome,
            stop_signal: None,
            died_after: Some(Duration::from_millis(3)),
            obstacle: None,
        }
    }

    #[test]
    fn a_survivor_decides_the_exit_code() {
        let mut report = Report::default();
        assert_eq!(report_exit(&report), Exit::DONE);
        report.endings.push(ending(Outcome::Term));
        assert_eq!(report_exit(&report), Exit::DONE);
        report.endings.push(ending(Outcome::Survived));
        assert_eq!(report_exit(&report), Exit::SURVIVED);
    }

    #[test]
    fn a_line_is_escaped_and_shows_how_long_it_took() {
        assert_eq!(
            ending_line(&ending(Outcome::Kill)),
            "t\\x1b1 pid 7: ended by KILL, 3 ms (orphan): sleep 300"
        );
    }

    #[test]
    fn the_signal_that_was_sent_is_named() {
        let by = |signal| Ending { stop_signal: Some(signal), ..ending(Outcome::Term) };
        assert!(ending_line(&by(1)).contains(": ended by HUP, 3 ms ("));
        let report = Report { endings: vec![by(2), by(34)], ..Report::default() };
        let text = report_text(&report, Tense::Done);
        assert!(text.contains("ended by INT, 3 ms") && text.contains("ended by signal 34, 3 ms"));
    }

    #[test]
    fn a_plan_does_not_claim_to_have_acted() {
        let report =
            Report { checked: 2, endings: vec![ending(Outcome::Kill)], ..Report::default() };
        let text = report_text(&report, Tense::Planned);
        assert!(text.ends_with("checked 2, nothing was changed; would act on 1\n"), "{text}");
        assert!(text.contains("WOULD") && !text.contains("ended"), "{text}");
    }
}
