//! Log output to stderr, as verbose as `-v` requests, and to a file.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Mutex,
    time::SystemTime,
};

use procledger::paths::{Account, controller};
use rustix::fs::OFlags;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    exit::{Failure, Result},
    output,
    render::{escape, rfc3339},
};

/// Levels by target, such as `warn,procledger::ends=debug`, as [`Targets`] parses them; overrides
/// `-v`.
const FILTER: &str = "PROCLEDGER_LOG";

/// Warnings, except that a tree exceeded a limit: `run` reports that itself, or must not report it.
const WARNINGS: &str = "warn,procledger::ends=error";

/// Starts logging: warnings to stderr, more with each `-v`; the file gets at least the information
/// level.
pub(crate) fn start(verbose: u8, file: Option<&Path>) -> Result<()> {
    let stderr = tracing_subscriber::fmt::layer()
        .event_format(Plain { dated: false })
        .with_writer(|| Stderr)
        .with_filter(filter(match verbose {
            0 => WARNINGS,
            1 => "info",
            2 => "debug",
            _ => "trace",
        })?);
    let file = file.map(|path| log_file(path, verbose)).transpose()?;
    tracing_subscriber::registry()
        .with(stderr)
        .with(file)
        .try_init()
        .map_err(|error| Failure::because("failed to start the log", &error))
}

fn log_file<S>(path: &Path, verbose: u8) -> Result<impl Layer<S> + use<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let file = open_to_append(path).map_err(|error| {
        Failure::because(format!("failed to open the log file {}", path.display()), &error)
    })?;
    Ok(tracing_subscriber::fmt::layer()
        .event_format(Plain { dated: true })
        .with_writer(Mutex::new(Escaping(file)))
        .with_filter(filter(match verbose {
            0 | 1 => "info",
            2 => "debug",
            _ => "trace",
        })?))
}

/// Opens a log file, or that of a program's output; if root names one in another user's folder,
/// with the access of the user that controls the path. A FIFO without a reader is an error, and not
/// waited for.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    let owner = controller(path)?;
    let _acting = owner.as_ref().map(Account::act).transpose().map_err(io::Error::other)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    // From here on, writes wait for a slow reader.
    let status = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, status - OFlags::NONBLOCK)?;
    Ok(file)
}

fn filter(default: &str) -> Result<Targets> {
    let wanted = std::env::var(FILTER).unwrap_or_default();
    let wanted = if wanted.is_empty() { default } else { &wanted };
    wanted.parse().map_err(|error| {
        Failure::usage(format!(
            "{FILTER} is not a valid filter: {error}: use one such as procledger=debug"
        ))
    })
}

/// Formats events as `INFO: Loaded 2 persisted processes ...`; in a file, the time comes first.
struct Plain {
    dated: bool,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.dated {
            write!(writer, "{} ", rfc3339(SystemTime::now()))?;
        }
        write!(writer, "{}: ", event.metadata().level())?;
        DefaultFields::new().format_fields(writer.by_ref(), event)?;
        writer.write_char('\n')
    }
}

/// Writes one event at a time to standard error, through the same outlet as the rest of the
/// command.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        output::to_stderr(&escape(text.strip_suffix('\n').unwrap_or(&text)));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes each event as a whole: the layer writes one at a time.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = escape(text.strip_suffix('\n').unwrap_or(&text)) + "\n";
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_printed_as_one_harmless_line() {
        let mut log = Escaping(Vec::new());
        log.write_all(b"WARN: task \x1b[31m\nfoo\n").expect("a vector");
        assert_eq!(log.0, b"WARN: task \\x1b[31m\\x0afoo\n");
    }
}
