//! `ship --to -`: JSON lines for a pipeline of the user's own.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use procledger::{
    fleet::{Batch, Position, Stream},
    paths::refuse_as_output,
};
use serde::{Deserialize, Serialize};

use super::{ps_json, report_lines::LeakLine};
use crate::{
    context::Context,
    exit::{Exit, Failure, Result},
    output::{self, Reader},
    render::escape_json,
};

/// How a ledger is shipped.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) host: String,
    pub(super) cursor: Option<PathBuf>,
    pub(super) interval: Duration,
    pub(super) once: bool,
    pub(super) no_commands: bool,
}

/// The content of the cursor file.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    stream: String,
    position: Position,
}

/// What distinguishes a line, and its origin. Stable: docs/ship-jsonl.md documents it.
#[derive(Debug, Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    stream: &'a str,
    host: &'a str,
    #[serde(flatten)]
    row: T,
}

#[derive(Debug, Serialize)]
struct Printed<T> {
    print: u32,
    #[serde(flatten)]
    row: T,
}

#[derive(Debug, Serialize)]
struct Leak<'a> {
    id: i64,
    #[serde(flatten)]
    row: LeakLine<'a>,
}

#[derive(Debug, Serialize)]
struct Gap {
    processes: u64,
    leaks: u64,
}

/// Ships until it is ended by a signal, or with `once` until there is nothing more. A kill at any
/// time costs nothing but that the last batch comes again.
pub(super) fn ship(context: &Context, options: &Options) -> Result<Exit> {
    if let Some(file) = &options.cursor {
        refuse_as_output(&context.ledger, file, "the cursor")?;
    }
    let mut stream = Stream::open(&context.ledger)?;
    let mut position = match &options.cursor {
        Some(file) => read(file, &stream)?,
        None => stream.start().clone(),
    };
    loop {
        if !stream.continues(&position)? {
            output::warn(
                "the ledger does not continue what was shipped: it was restored; shipping it again from the start",
            );
            let Position { open, open_leaks, .. } = position;
            position = Position { open, open_leaks, ..stream.start().clone() };
        }
        let batch = stream.next(&position)?;
        let text = lines(&stream, options, &batch)?;
        if !text.is_empty() && output::print(text)? == Reader::Gone {
            return Ok(Exit::DONE);
        }
        let next = position.clone().after(&batch);
        if let (Some(file), true) = (&options.cursor, next != position) {
            write(file, &stream, &next)?;
        }
        position = next;
        match (batch.more, options.once) {
            (true, _) => {}
            (false, true) => return Ok(Exit::DONE),
            (false, false) => thread::sleep(options.interval),
        }
        // A backup may have taken its place.
        let before = std::mem::replace(&mut stream, Stream::open(&context.ledger)?);
        if stream.uuid() != before.uuid() {
            output::warn(
                "another ledger has taken the place of this one; shipping that from the start",
            );
            position = stream.start().clone();
        }
    }
}

/// Returns the position from which the ledger is continued: its start if the file does not exist or
/// belongs to another ledger.
fn read(file: &Path, stream: &Stream) -> Result<Position> {
    let shown = file.display();
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(stream.start().clone()),
        Err(error) => return Err(Failure::because(format!("failed to read {shown}"), &error)),
    };
    let cursor: Cursor = serde_json::from_slice(&text).map_err(|error| {
        let what =
            format!("{shown} is not a cursor: remove it to ship the ledger again from the start");
        Failure::because(what, &error)
    })?;
    if cursor.stream == stream.uuid() {
        return Ok(cursor.position);
    }
    output::warn(&format!("{shown} belongs to another ledger; shipping this one from the start"));
    Ok(stream.start().clone())
}

fn write(file: &Path, stream: &Stream, position: &Position) -> Result<()> {
    let cursor = Cursor { stream: stream.uuid().to_owned(), position: position.clone() };
    let text = serde_json::to_vec(&cursor)
        .map_err(|error| Failure::because("failed to write the cursor", &error))?;
    output::to_file(file, &text)
}

/// Lines of one batch, in the order in which a receiver has to apply them: a number that is lost
/// may be used again.
struct Lines<'a> {
    stream: &'a str,
    host: &'a str,
    text: String,
}

impl Lines<'_> {
    fn add(&mut self, kind: &'static str, row: impl Serialize) -> Result<()> {
        let line = Line { kind, stream: self.stream, host: self.host, row };
        let line = serde_json::to_string(&line)
            .map_err(|error| Failure::because("failed to write JSON", &error))?;
        self.text += &escape_json(line);
        self.text.push('\n');
        Ok(())
    }
}

fn lines(stream: &Stream, options: &Options, batch: &Batch) -> Result<String> {
    let mut lines = Lines { stream: stream.uuid(), host: &options.host, text: String::new() };
    if batch.gap + batch.leak_gap > 0 {
        lines.add("gap", Gap { processes: batch.gap, leaks: batch.leak_gap })?;
    }
    for row in &batch.lost {
        lines.add("lost_process", row)?;
    }
    for row in &batch.lost_leaks {
        lines.add("lost_leak", row)?;
    }
    for process in batch.ended.iter().chain(&batch.live) {
        let mut row = process.row.clone();
        if options.no_commands {
            row.spec.command = program(&row.spec.command);
        }
        let row = ps_json::Line::new(&row, None);
        lines.add("process", Printed { print: process.print, row })?;
    }
    for leak in &batch.leaks {
        let mut row = leak.row.clone();
        if options.no_commands {
            row.command = program(&row.command);
        }
        let row = Leak { id: leak.id, row: LeakLine::from(&row) };
        lines.add("leak", Printed { print: leak.print, row })?;
    }
    Ok(lines.text)
}

/// Returns the last part of a command's first word, without its arguments.
fn program(command: &[String]) -> Vec<String> {
    command
        .iter()
        .take(1)
        .map(|word| word.rsplit('/').next().unwrap_or_default().to_owned())
        .collect()
}
