//! How much history the owner of a ledger keeps: options that `run` and `watch` share.

use std::time::Duration;

use clap::Args;
use procledger::Builder;

use crate::units;

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Keep history for this long [default: 90days]; the shortest setting of all programs that have
    /// the ledger open applies
    #[arg(long, value_name = "D", value_parser = units::duration, env = "PROCLEDGER_KEEP_HISTORY")]
    keep_history: Option<Duration>,
    /// Delete the oldest history when the ledger grows beyond this size (at least 1M)
    #[arg(long, value_name = "SIZE", value_parser = units::ledger_size, env = "PROCLEDGER_LIMIT_SIZE")]
    limit_size: Option<u64>,
}

impl HistoryArgs {
    pub(crate) fn apply(&self, mut builder: Builder) -> Builder {
        if let Some(time) = self.keep_history {
            builder = builder.keep_history(time);
        }
        if let Some(bytes) = self.limit_size {
            builder = builder.limit_size(bytes);
        }
        builder
    }

    /// The same options as command-line arguments.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let time = self.keep_history.map(|time| {
            ["--keep-history".to_owned(), humantime::format_duration(time).to_string()]
        });
        let size = self.limit_size.map(|bytes| ["--limit-size".to_owned(), bytes.to_string()]);
        time.into_iter().chain(size).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_worker_are_those_of_the_command_line() {
        let history = HistoryArgs {
            keep_history: Some(Duration::from_hours(24 * 400)),
            limit_size: Some(5 << 20),
        };
        let words = history.to_arguments();
        assert_eq!((words[0].as_str(), words[2].as_str()), ("--keep-history", "--limit-size"));
        assert_eq!(units::duration(&words[1]), Ok(Duration::from_hours(24 * 400)));
        assert_eq!(units::ledger_size(&words[3]), Ok(5 << 20));
        assert!(HistoryArgs { keep_history: None, limit_size: None }.to_arguments().is_empty());
    }
}
