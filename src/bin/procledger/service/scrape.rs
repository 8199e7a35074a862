//! Metrics of many ledgers on one page.
//!
//! Each ledger is read by a process of its own, `procledger metrics --worker --db LEDGER`, which
//! becomes the ledger's owner: root must not follow a user's path, and one process cannot act for
//! several users. The worker acts as that user, so its page is untrusted. It is bounded in time and
//! size, each line is parsed, and the label with the ledger's path is added here, where no user can
//! forge it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};

use super::{isolation::ENVIRONMENT, worker_output::OutputLines};
use crate::{exit::Result, poll::poll_within, threads};

/// A ledger is read in milliseconds; a dead mount never answers.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// A killed process is dead within this time, or hangs in the kernel.
const DEATH_LIMIT: Duration = Duration::from_millis(500);
/// Interval of checks whether a killed process is dead.
const DEATH_PAUSE: Duration = Duration::from_millis(2);
/// Ledgers that are read at the same time.
const AT_ONCE: usize = 8;
/// A page has some 60 lines.
const LINES: usize = 256;
/// The beginning of all names that a worker may print.
const PREFIX: &str = "procledger_ledger_";
/// Whether a ledger could be read: a figure of this page, not of a worker's.
const READABLE: &str = "procledger_ledger_readable";

/// Returns the path as a label shows it: the same wherever the command runs.
pub(crate) fn absolute(ledger: PathBuf) -> PathBuf {
    // It fails if the current folder is gone.
    std::path::absolute(&ledger).unwrap_or(ledger)
}

/// Reads the metrics of ledgers.
#[derive(Debug)]
pub(crate) struct Scraper {
    /// The window of the recent figures, as an argument.
    since: String,
    trust_folder: Option<PathBuf>,
    /// Workers that did not die when they were killed, by ledger: that ledger is not read until its
    /// worker is dead.
    stuck: Mutex<BTreeMap<PathBuf, Child>>,
}

impl Scraper {
    pub(crate) fn new(since: Duration, trust_folder: Option<PathBuf>) -> Self {
        let since = humantime::format_duration(since).to_string();
        Self { since, trust_folder, stuck: Mutex::default() }
    }

    /// Returns a page in the Prometheus text format, each sample with the label `ledger`, an
    /// absolute path, and why ledgers could not be read.
    pub(crate) fn page(&self, ledgers: impl IntoIterator<Item = PathBuf>) -> (String, Vec<String>) {
        let ledgers: BTreeSet<PathBuf> = ledgers.into_iter().map(absolute).collect();
        let queue: Mutex<VecDeque<&PathBuf>> = Mutex::new(ledgers.iter().collect());
        let answers = Mutex::new(BTreeMap::new());
        let work = || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(ledger) = next else { return };
                let answer = self.read(ledger);
                answers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(ledger.clone(), answer);
            }
        };
        thread::scope(|scope| {
            for _ in 1..ledgers.len().min(AT_ONCE) {
                // Without a thread this one reads them all, only slower.
                if threads::start_in(scope, "procledger-metrics", work).is_err() {
                    break;
                }
            }
            work();
        });
        merge(answers.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&self, ledger: &Path) -> Result<Vec<Sample>, String> {
        let stuck = || self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = stuck().get_mut(ledger)
            && matches!(child.try_wait(), Ok(None))
        {
            return Err("its worker hangs in the kernel, as on a dead mount".to_owned());
        }
        stuck().remove(ledger);
        let mut child = (self.command(ledger).spawn())
            .map_err(|error| format!("failed to start a worker: {error}"))?;
        let answer = listen(&mut child);
        // It has ended, or has exceeded a limit.
        let _ = child.kill();
        let deadline = Instant::now() + DEATH_LIMIT;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                stuck().insert(ledger.to_owned(), child);
                break;
            }
            thread::sleep(DEATH_PAUSE);
        }
        answer
    }

    fn command(&self, ledger: &Path) -> Command {
        #[expect(
            clippy::disallowed_methods,
            reason = "a worker is not tracked; it is killed after 5 s"
        )]
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("procledger")
            .args(["metrics", "--worker", "--since", &self.since, "--db"])
            .arg(ledger)
            .process_group(0)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(folder) = &self.trust_folder {
            command.arg("--trust-folder").arg(folder);
        }
        command
    }
}

/// Returns what a worker prints until it has closed its output, or why that is not a page.
fn listen(child: &mut Child) -> Result<Vec<Sample>, String> {
    let piped = || "its output is not a pipe".to_owned();
    let failed = |error: rustix::io::Errno| format!("failed to read from its worker: {error}");
    let mut out = OutputLines::new(child.stdout.take().ok_or_else(piped)?).map_err(failed)?;
    let mut err = OutputLines::new(child.stderr.take().ok_or_else(piped)?).map_err(failed)?;
    let deadline = Instant::now() + READ_LIMIT;
    let (mut lines, mut warning) = (Vec::new(), None);
    while out.pipe().is_some() || err.pipe().is_some() {
        let open = [out.pipe().map(AsFd::as_fd), err.pipe().map(AsFd::as_fd)];
        let mut fds: Vec<PollFd<'_>> = open
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("it could not be read within 5 s".to_owned());
        }
        let _ = poll_within(&mut fds, Some(left));
        lines.extend(out.read());
        warning = err.read().into_iter().next().or(warning);
        if lines.len() > LINES {
            return Err(format!("its worker printed more than {LINES} lines"));
        }
    }
    if lines.is_empty() {
        let why = warning.unwrap_or_else(|| "its worker printed nothing".to_owned());
        return Err(why.strip_prefix("procledger: ").unwrap_or(&why).to_owned());
    }
    let mut page = Vec::new();
    for line in &lines {
        page.push(Sample::parse(line).ok_or("its worker printed a line that is not a figure")?);
    }
    Ok(page)
}

/// A line of a worker's page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    family: String,
    kind: LineKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LineKind {
    /// A comment with the help text or the type.
    Header(String),
    Value {
        /// Without braces; may be empty.
        labels: String,
        value: String,
    },
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let is_name = |name: &str| {
            let rest = name.strip_prefix(PREFIX);
            rest.is_some_and(|rest| {
                rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            }) && name != READABLE
        };
        if let Some(header) = line.strip_prefix("# ") {
            let (keyword, rest) = header.split_once(' ')?;
            let (name, text) = rest.split_once(' ')?;
            let is_valid = match keyword {
                "TYPE" => text == "gauge",
                "HELP" => !text.contains(char::is_control),
                _ => false,
            };
            let sample = Self { family: name.to_owned(), kind: LineKind::Header(line.to_owned()) };
            return (is_valid && is_name(name)).then_some(sample);
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        // Labels of a worker are words of ours, such as `kind="orphan",outcome="kill"`.
        let is_label = |label: &str| {
            let word = |text: &str| {
                !text.is_empty()
                    && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            label.split_once('=').is_some_and(|(name, value)| {
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                word(name) && name != "ledger" && value.is_some_and(word)
            })
        };
        let is_valid = is_name(name)
            && (labels.is_empty() || labels.split(',').all(is_label))
            && value.parse::<f64>().is_ok();
        let kind = LineKind::Value { labels: labels.to_owned(), value: value.to_owned() };
        is_valid.then(|| Self { family: name.to_owned(), kind })
    }
}

/// Joins pages: all samples of a family must follow each other.
fn merge(answers: BTreeMap<PathBuf, Result<Vec<Sample>, String>>) -> (String, Vec<String>) {
    let mut families: Vec<(String, Vec<String>, String)> = Vec::new();
    let (mut readable, mut warnings) = (String::new(), Vec::new());
    for (ledger, answer) in answers {
        let label = format!("ledger=\"{}\"", escape_label(&ledger.to_string_lossy()));
        let _ = writeln!(readable, "{READABLE}{{{label}}} {}", u8::from(answer.is_ok()));
        let samples = answer.unwrap_or_else(|why| {
            warnings.push(format!("{}: {why}", ledger.display()));
            Vec::new()
        });
        for Sample { family, kind } in samples {
            let known = families.iter().position(|(name, ..)| *name == family);
            let index = known.unwrap_or_else(|| {
                families.push((family.clone(), Vec::new(), String::new()));
                families.len() - 1
            });
            let (_, headers, values) = &mut families[index];
            match kind {
                LineKind::Header(line) => {
                    let keyword = line.get(..6).unwrap_or_default();
                    if !headers.iter().any(|header| header.starts_with(keyword)) {
                        headers.push(line);
                    }
                }
                LineKind::Value { labels, value } => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let _ = writeln!(values, "{family}{{{label}{comma}{labels}}} {value}");
                }
            }
        }
    }
    let mut page = format!(
        "# HELP {READABLE} 1 when the ledger could be read for this page, 0 otherwise.\n# TYPE {READABLE} gauge\n{readable}"
    );
    for (_, headers, values) in families {
        for header in headers {
            let _ = writeln!(page, "{header}");
        }
        page.push_str(&values);
    }
    (page, warnings)
}

/// Escapes a label value as the format requires.
fn escape_label(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: &[&str]) -> Option<Vec<Sample>> {
        lines.iter().map(|line| Sample::parse(line)).collect()
    }

    #[test]
    fn a_worker_cannot_print_samples_of_another_ledger_or_of_other_names() {
        for line in [
            "procledger_ledger_orphans{ledger=\"/other.db\"} 0",
            "procledger_ledger_readable 1",
            "procledger_spawns_total 1",
            "up 1",
            "procledger_ledger_orphans{a=\"b\"} 1 extra",
            "procledger_ledger_orphans{a=\"b} 1",
            "procledger_ledger_orphans{a=\"b\\\",ledger=\\\"x\"} 1",
            "procledger_ledger_orphans x",
            "# TYPE procledger_ledger_orphans counter",
            "# EOF now",
            "",
        ] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_samples_of_a_family_follow_each_other_and_its_header_appears_once() {
        let lines = page(&[
            "# HELP procledger_ledger_orphans Live rows.",
            "# TYPE procledger_ledger_orphans gauge",
            "procledger_ledger_orphans 2",
            "procledger_ledger_processes{state=\"running\"} 1.5",
        ])
        .expect("valid");
        let answers =
            [("/b \"q\".db", Ok(lines.clone())), ("/a.db", Ok(lines)), ("/c", Err("no".into()))];
        let answers = answers.into_iter().map(|(path, page)| (PathBuf::from(path), page)).collect();
        let (page, warnings) = merge(answers);
        assert_eq!(warnings, ["/c: no"]);
        let lines: Vec<&str> = page.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "procledger_ledger_readable{ledger=\"/a.db\"} 1",
                "procledger_ledger_readable{ledger=\"/b \\\"q\\\".db\"} 1",
                "procledger_ledger_readable{ledger=\"/c\"} 0",
                "# HELP procledger_ledger_orphans Live rows.",
                "# TYPE procledger_ledger_orphans gauge",
                "procledger_ledger_orphans{ledger=\"/a.db\"} 2",
                "procledger_ledger_orphans{ledger=\"/b \\\"q\\\".db\"} 2",
                "procledger_ledger_processes{ledger=\"/a.db\",state=\"running\"} 1.5",
                "procledger_ledger_processes{ledger=\"/b \\\"q\\\".db\",state=\"running\"} 1.5",
            ]
        );
    }
}
