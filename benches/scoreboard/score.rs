//! The table: its lines, their targets, and their formatting.

use std::{fmt::Write, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    namespace,
    plot::{self, Point},
    samples::Samples,
    scale::Scale,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Nanoseconds,
    Bytes,
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value < 9.5e3 => format!("{:.1} µs", value / 1e3),
            Self::Nanoseconds if value < 1e6 => format!("{:.0} µs", value / 1e3),
            Self::Nanoseconds if value < 1e9 => format!("{:.2} ms", value / 1e6),
            Self::Nanoseconds => format!("{:.2} s", value / 1e9),
            Self::Bytes => format!("{value:.0} B"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) operation: String,
    unit: Unit,
    rounds: usize,
    ours: f64,
    p99: Option<f64>,
    /// A description of the limit.
    limit_is: String,
    limit: Option<f64>,
    ratio: Option<f64>,
    targets: Vec<String>,
    /// `None` for a line without a target that is shown for comparison only.
    met: Option<bool>,
    /// The time of the former implementation for the same operation, in nanoseconds.
    former: Option<f64>,
    /// How that figure was obtained, if it was not measured in full.
    former_note: Option<String>,
}

impl Line {
    pub(crate) fn new(operation: impl Into<String>, ours: &Samples) -> Self {
        Self {
            p99: Some(ours.p99()),
            rounds: ours.count(),
            ..Self::of(operation, ours.median(), Unit::Nanoseconds)
        }
    }

    pub(crate) fn of(operation: impl Into<String>, ours: f64, unit: Unit) -> Self {
        Self {
            operation: operation.into(),
            unit,
            rounds: 1,
            ours,
            p99: None,
            limit_is: String::new(),
            limit: None,
            ratio: None,
            targets: Vec::new(),
            met: None,
            former: None,
            former_note: None,
        }
    }

    pub(crate) fn beside(mut self, limit_is: impl Into<String>, limit: f64) -> Self {
        self.limit_is = limit_is.into();
        self.limit = Some(limit);
        self.ratio = Some(self.ours / limit);
        self
    }

    fn require(mut self, target: String, met: bool) -> Self {
        self.targets.push(target);
        self.met = Some(met && self.met.unwrap_or(true));
        self
    }

    /// The median is at most this many times the limit.
    pub(crate) fn at_most(self, ratio: f64) -> Self {
        let met = self.ratio.is_some_and(|is| is <= ratio);
        self.require(format!("≤ {ratio}×"), met)
    }

    /// The figure itself is at most this.
    pub(crate) fn within(self, most: f64) -> Self {
        let (text, met) = (format!("≤ {}", self.unit.show(most)), self.ours <= most);
        self.require(text, met)
    }

    /// The 99th percentile is at most this many times that of the limit.
    pub(crate) fn p99_at_most(self, ratio: f64, limit: &Samples) -> Self {
        let (is, limit) = (self.p99.unwrap_or(f64::NAN), limit.p99());
        let target = format!("p99 ≤ {ratio}× {}", self.unit.show(limit));
        self.require(target, is <= ratio * limit)
    }

    /// Another condition that has to hold.
    pub(crate) fn and(self, what: impl Into<String>, met: bool) -> Self {
        self.require(what.into(), met)
    }

    pub(crate) fn former(mut self, nanoseconds: f64) -> Self {
        self.former = Some(nanoseconds);
        self
    }

    pub(crate) fn former_scaled(mut self, nanoseconds: f64, note: impl Into<String>) -> Self {
        self.former = Some(nanoseconds);
        self.former_note = Some(note.into());
        self
    }

    fn cells(&self) -> [String; 8] {
        let show = |value: Option<f64>| value.map_or_else(String::new, |v| self.unit.show(v));
        let times = |ratio: f64| {
            if ratio < 10.0 { format!("{ratio:.2}×") } else { format!("{ratio:.0}×") }
        };
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let former = self.former.map_or_else(String::new, |former| {
            times(former / self.ours) + if self.former_note.is_some() { " *" } else { "" }
        });
        [
            self.operation.clone(),
            self.unit.show(self.ours),
            show(self.p99),
            if self.limit.is_some() {
                format!("{} ({})", show(self.limit), self.limit_is)
            } else {
                String::new()
            },
            self.ratio.map_or_else(String::new, times),
            self.targets.join(", "),
            met.to_owned(),
            former,
        ]
    }
}

/// The results of all groups.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Board {
    machine: String,
    scale: String,
    lines: Vec<Line>,
    growth: Vec<Point>,
    failed: Vec<String>,
}

impl Board {
    pub(crate) fn new(scale: Scale) -> Self {
        let machine = namespace::machine();
        Self { machine, scale: scale.word().to_owned(), ..Self::default() }
    }

    pub(crate) fn scale(&self) -> Scale {
        Scale::parse(&self.scale)
    }

    pub(crate) fn add(&mut self, line: Line) {
        eprintln!("  {}", line.cells().join(" | "));
        self.lines.push(line);
    }

    pub(crate) fn point(&mut self, cost: &str, axis: &str, size: usize, nanoseconds: f64) {
        eprintln!("  {cost} at {size} {axis}: {:.1} µs", nanoseconds / 1e3);
        let (cost, axis) = (cost.to_owned(), axis.to_owned());
        self.growth.push(Point { cost, axis, size: size as f64, nanoseconds });
    }

    /// The results of a group; a group that failed counts as a miss.
    pub(crate) fn absorb(&mut self, group: &str, answer: Result<String, String>) {
        let read = |text: String| {
            serde_json::from_str::<Self>(&text).map_err(|error| format!("unreadable: {error}"))
        };
        match answer.and_then(read) {
            Ok(board) => {
                self.lines.extend(board.lines);
                self.growth.extend(board.growth);
            }
            Err(error) => {
                eprintln!("{group} failed: {error}");
                self.failed.push(format!("{group}: {error}"));
            }
        }
    }

    pub(crate) fn has_missed(&self) -> bool {
        !self.failed.is_empty() || self.lines.iter().any(|line| line.met == Some(false))
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain figures")
    }

    /// The table as Markdown, for a terminal and for the page.
    pub(crate) fn table(&self) -> String {
        let head = [
            "operation",
            "ours",
            "p99",
            "limit, same run",
            "ratio",
            "target",
            "",
            "former implementation",
        ];
        let mut rows = vec![head.map(str::to_owned), [const { "---" }; 8].map(str::to_owned)];
        rows.extend(self.lines.iter().map(Line::cells));
        let mut text = String::new();
        for row in &rows {
            // Writing to memory cannot fail.
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        let notes = self.lines.iter().filter_map(|line| {
            line.former_note.as_ref().map(|note| format!("\n\\* {}: {note}", line.operation))
        });
        text.extend(notes);
        text.extend(self.failed.iter().map(|failed| format!("\nFAILED {failed}")));
        text
    }

    /// Writes the figures and the plot below `target`.
    pub(crate) fn save(&self) -> std::io::Result<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"),
            PathBuf::from,
        );
        let folder = target.join("scoreboard");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("scoreboard.json"), self.to_json())?;
        std::fs::write(folder.join("scoreboard.md"), self.table())?;
        if !self.growth.is_empty() {
            std::fs::write(folder.join("growth.svg"), plot::draw(&self.growth))?;
        }
        Ok(folder)
    }
}
