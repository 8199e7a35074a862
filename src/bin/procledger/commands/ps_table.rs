//! The tables of `ps` and `ps --watch`.

use std::time::SystemTime;

use procledger::{FigureSource, ProcessRecord, State, TreeRecord};

use crate::render::{Paint, Table, cpu_time, shell_words, short_bytes, short_span, since};

/// What the column `CPU` shows.
#[derive(Clone, Copy)]
pub(super) enum Cpu<'a> {
    /// The CPU time used so far.
    Time,
    /// The current share of each tree.
    Share(&'a dyn Fn(&TreeRecord) -> String),
}

/// Formats the trees, one line each, after a header. The state is shown only if one is not
/// `running`.
pub(super) fn table(trees: &[TreeRecord], wide: bool, cpu: Cpu<'_>) -> Vec<String> {
    let states = trees.iter().any(|tree| shown_state(tree) != State::Running.as_str());
    let mut header = vec!["TASK", "PID", "AGE", "MEMORY", "CPU", "BELOW", "CONTAINED", "COMMAND"];
    if states {
        header.insert(2, "STATE");
    }
    let mut table = Table::cut(&header, wide).right(1);
    for column in header.len() - 6..header.len() - 2 {
        table = table.right(column);
    }
    let now = SystemTime::now();
    for tree in trees {
        let root = &tree.root;
        let cpu = match cpu {
            Cpu::Time => cpu_time(tree.cpu),
            Cpu::Share(share) => share(tree),
        };
        let mut cells = vec![
            task(root),
            root.pid().to_string(),
            short_span(since(now, root.spec.started_at)),
            marked(tree, short_bytes(tree.rss_bytes)),
            marked(tree, cpu),
            marked(tree, tree.descendants().to_string()),
            root.spec.containment.to_string(),
            shell_words(&root.spec.command),
        ];
        if states {
            cells.insert(2, shown_state(tree).to_owned());
        }
        table.row(cells);
    }
    painted(table, trees.iter().map(|tree| tree.root.life.state()))
}

/// Formats the trees and then the ended processes, one line each, within 80 columns.
pub(super) fn history(trees: &[TreeRecord], ended: &[ProcessRecord], wide: bool) -> Vec<String> {
    let header = ["TASK", "PID", "STATE", "EXIT", "AGE", "MEMORY", "CPU", "COMMAND"];
    let mut table = (4..7).fold(Table::cut(&header, wide).right(1), Table::right);
    let now = SystemTime::now();
    for tree in trees {
        let figures = [marked(tree, short_bytes(tree.rss_bytes)), marked(tree, cpu_time(tree.cpu))];
        table.row(history_row(&tree.root, shown_state(tree), now, figures));
    }
    for row in ended {
        let how = row.life.end().map_or("ended", |end| end.reason.as_str());
        let figures = [short_bytes(row.peak_rss), cpu_time(row.cpu)];
        table.row(history_row(row, how, now, figures));
    }
    let states = trees.iter().map(|tree| tree.root.life.state());
    painted(table, states.chain(ended.iter().map(|row| row.life.state())))
}

fn history_row(
    row: &ProcessRecord,
    state: &str,
    now: SystemTime,
    [memory, cpu]: [String; 2],
) -> Vec<String> {
    let end = row.life.end();
    vec![
        task(row),
        row.pid().to_string(),
        state.to_owned(),
        end.map_or_else(|| "-".to_owned(), |end| exit(end.status)),
        short_span(since(end.map_or(now, |end| end.at), row.spec.started_at)),
        memory,
        cpu,
        shell_words(&row.spec.command),
    ]
}

/// An exit status in short: `3`, `TERM`, or `?` if it is unknown.
fn exit(status: procledger::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => nix::sys::signal::Signal::try_from(signal).map_or_else(
            |_| format!("sig{signal}"),
            |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
        ),
        (None, None) => "?".to_owned(),
    }
}

/// The task of a row, or `-`.
pub(super) fn task(row: &ProcessRecord) -> String {
    row.spec.task_id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// The state of a running process whose owner is dead.
pub(super) const NO_OWNER: &str = "no owner";

/// The state in the ledger, or `gone` if the process does not exist any more and its end is not
/// recorded yet.
pub(super) fn state(tree: &TreeRecord) -> &'static str {
    let alive = tree.members.first().is_none_or(|root| root.alive);
    if alive { tree.root.life.state().as_str() } else { "gone" }
}

/// The same for a table, in which a running process whose owner is dead has [`NO_OWNER`].
pub(super) fn shown_state(tree: &TreeRecord) -> &'static str {
    match state(tree) {
        "running" if tree.owner_alive == Some(false) => NO_OWNER,
        state => state,
    }
}

fn marked(tree: &TreeRecord, figure: String) -> String {
    if tree.source == FigureSource::Recorded { figure + "*" } else { figure }
}

/// Formats the header in bold and survivors in red.
fn painted(table: Table, states: impl Iterator<Item = State>) -> Vec<String> {
    let paint = Paint::detect();
    let mut lines = table.lines().into_iter();
    let header = lines.next().map(|line| paint.bold(&line));
    let rows = lines.zip(states).map(|(line, state)| match state {
        State::Survived => paint.bad(&line),
        State::Ending | State::Ended => paint.faint(&line),
        State::Running => line,
    });
    header.into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use procledger::{ExitStatus, Life, TreeMember};

    use super::*;
    use crate::commands::ps_json::tests::row;

    fn tree(root: ProcessRecord, alive: bool) -> TreeRecord {
        let member = TreeMember {
            process: Some(root.id),
            pid: root.pid(),
            parent: None,
            evidence: "identity".into(),
            command: root.spec.command.clone(),
            alive,
            is_root: true,
            age: Duration::ZERO,
            rss_bytes: None,
            cpu: None,
        };
        TreeRecord {
            root,
            owner_alive: Some(true),
            source: FigureSource::Live,
            obstacle: None,
            members: vec![member],
            suspects: Vec::new(),
            rss_bytes: Some(3 << 20),
            cpu: Some(Duration::from_millis(1250)),
        }
    }

    #[test]
    fn a_row_of_the_history_is_one_escaped_line() {
        let lines = history(&[], &[row()], true);
        assert_eq!(lines.len(), 2, "{lines:?}");
        for part in ["evil\\x0a\\u{9b}task", " exited ", " 1 ", "4s", "1.0M", "sh -c 'exit 1'"] {
            assert!(lines[1].contains(part), "{part} in {lines:?}");
        }
    }

    #[test]
    fn the_state_is_shown_only_if_one_is_not_running() {
        let running = || ProcessRecord { life: Life::Running, ..row() };
        let plain = table(&[tree(running(), true)], true, Cpu::Time);
        assert!(!plain[0].contains("STATE") && plain[1].contains(" 3.0M  1.25s "), "{plain:?}");
        let survived = ProcessRecord { life: Life::Survived, ..running() };
        let lines = table(&[tree(survived, true), tree(running(), false)], true, Cpu::Time);
        assert!(lines[0].contains("STATE") && lines[1].contains(" survived "), "{lines:?}");
        assert!(lines[2].contains(" gone "), "{lines:?}");
        let orphan = TreeRecord { owner_alive: Some(false), ..tree(running(), true) };
        let lines = table(&[orphan], true, Cpu::Time);
        assert!(lines[1].contains(" no owner "), "{lines:?}");
        let unknown = TreeRecord { owner_alive: None, ..tree(running(), true) };
        assert!(!table(&[unknown], true, Cpu::Time)[0].contains("STATE"));
    }

    #[test]
    fn recorded_figures_are_marked() {
        let recorded = TreeRecord { source: FigureSource::Recorded, ..tree(row(), true) };
        let lines = table(&[recorded], true, Cpu::Share(&|_| "-".to_owned()));
        assert!(lines[1].contains("3.0M*") && lines[1].contains("0*"), "{lines:?}");
    }

    #[test]
    fn an_exit_status_is_one_word() {
        for (status, word) in [
            (ExitStatus::Exited(3), "3"),
            (ExitStatus::Signaled(15), "TERM"),
            (ExitStatus::Signaled(40), "sig40"),
            (ExitStatus::Unobserved, "?"),
        ] {
            assert_eq!(exit(status), word);
        }
    }
}
