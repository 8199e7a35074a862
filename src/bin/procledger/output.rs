//! Writing to stdout and stderr. Never `println!`: it panics when the reader has gone.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::{
    exit::{Failure, Result},
    render::escape_json,
};

/// Whether somebody still reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    /// As after `ps | head -1`: nothing more needs to be written, and nothing failed.
    Gone,
}

/// Writes `text` to stdout.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<Reader> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error.into()),
    }
}

/// `text` and a newline to stdout.
pub(crate) fn print_line(text: &str) -> Result<Reader> {
    print(format!("{text}\n"))
}

/// `value` as indented JSON and a newline, safe to look at on a terminal.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| escape_json(&text) + "\n")
        .map_err(|error| Failure::because("failed to write JSON", &error))
}

/// `text` and a newline to stderr; where that is gone, there is nobody to tell.
pub(crate) fn to_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}
