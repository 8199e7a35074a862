//! Figures in the format that Prometheus reads.

use std::time::SystemTime;

use super::{
    counts::{COMPLETED, FAILED, WITH_ERRORS},
    families::{
        BUILD_INFO, DETECTION, ENDS, EXECUTING, EXPORT_FAILURES, EXPORT_WRITES, Family, LAST_PASS,
        LAST_PASS_AGE, LEAKS, LEDGER_ENDS, LEDGER_EXECUTING, LEDGER_INSTANCES, LEDGER_LAST_PASS,
        LEDGER_LAST_PASS_AGE, LEDGER_LAST_PASS_UP, LEDGER_LEAKED_BYTES, LEDGER_LEAKED_TIME,
        LEDGER_LEAKS, LEDGER_LIVE, LEDGER_ORPHANS, LEDGER_PASSES, LEDGER_SIZE, LEDGER_UP,
        LEDGER_WAL, LEDGER_WINDOW, MONITOR_UP, PASS_DURATION, PASSES, REAP_LATENCY, SPAWN_FAILURES,
        SPAWNS, SURVIVORS, UNWATCHED,
    },
    text_format::{Page, seconds, unix_seconds},
};
use crate::model::{
    EndCount, LeakCount, LedgerMetrics, LedgerPasses, Metrics, Millis, PassMetrics,
};

impl Metrics {
    /// Returns the figures as a page for Prometheus to scrape, to be served as `text/plain;
    /// version=0.0.4`.
    ///
    /// Every name begins with `procledger_`; `docs/metrics.md` lists them.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// let page = tracker.metrics().to_prometheus();
    /// assert!(page.contains("\nprocledger_executing 0\n"));
    /// # Ok(()) }
    /// ```
    pub fn to_prometheus(&self) -> String {
        let mut page = Page::default();
        page.family(BUILD_INFO).sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.family(EXECUTING).sample(&[], self.executing_count);
        page.family(UNWATCHED).sample(&[], self.unwatched);
        page.family(MONITOR_UP).sample(&[], u8::from(self.monitoring));
        page.family(SPAWNS).sample(&[], self.spawns);
        page.family(SPAWN_FAILURES).sample(&[], self.spawn_failures);
        ends(&mut page, ENDS, &self.ends);
        leaks(&mut page, LEAKS, &self.leaks);
        page.family(LEDGER_UP).sample(&[], u8::from(self.survivors.is_some()));
        page.family(SURVIVORS);
        if let Some(survivors) = self.survivors {
            page.sample(&[], survivors);
        }
        passes(&mut page, &self.passes);
        page.family(EXPORT_WRITES).sample(&[], self.export_writes);
        page.family(EXPORT_FAILURES).sample(&[], self.export_failures);
        page.family(REAP_LATENCY).histogram(&[], &self.reap_latency);
        page.family(DETECTION).histogram(&[], &self.death_detection_latency);
        page.finish()
    }
}

fn ends(page: &mut Page, family: Family, ends: &[EndCount]) {
    page.family(family);
    for end in ends {
        page.sample(&[("reason", end.reason.as_str())], end.count);
    }
}

fn leaks(page: &mut Page, family: Family, leaks: &[LeakCount]) {
    page.family(family);
    for leak in leaks {
        page.sample(
            &[("kind", leak.kind.as_str()), ("outcome", leak.outcome.as_str())],
            leak.count,
        );
    }
}

fn passes(page: &mut Page, passes: &[PassMetrics]) {
    page.family(PASSES);
    for pass in passes {
        let kind = ("kind", pass.kind.as_str());
        page.sample(&[kind, ("result", COMPLETED)], pass.completed);
        page.sample(&[kind, ("result", WITH_ERRORS)], pass.with_errors);
        page.sample(&[kind, ("result", FAILED)], pass.failed);
    }
    let now = unix_seconds(SystemTime::now());
    page.family(LAST_PASS);
    for pass in passes {
        if let Some(since) = pass.since_last {
            page.sample(&[("kind", pass.kind.as_str())], now - seconds(since));
        }
    }
    page.family(LAST_PASS_AGE);
    for pass in passes {
        if let Some(since) = pass.since_last {
            page.sample(&[("kind", pass.kind.as_str())], seconds(since));
        }
    }
    page.family(PASS_DURATION);
    for pass in passes {
        page.histogram(&[("kind", pass.kind.as_str())], &pass.duration);
    }
}

impl LedgerMetrics {
    /// Returns the figures as a page for Prometheus, as `procledger metrics` prints them.
    ///
    /// Every name begins with `procledger_ledger_`, so that it never collides with a tracker's
    /// figure of the same meaning.
    ///
    /// If Prometheus reads several ledgers, their samples need a label that distinguishes them: see
    /// [`to_prometheus_with`](Self::to_prometheus_with).
    pub fn to_prometheus(&self) -> String {
        self.to_prometheus_with(&[])
    }

    /// Returns the same page with labels added to every sample. Values may be any text; they are
    /// escaped.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// # procledger::Tracker::builder(&path).open()?.shutdown()?;
    /// use std::time::Duration;
    /// use procledger::Ledger;
    ///
    /// let metrics = Ledger::open(&path)?.metrics(Duration::from_hours(24))?;
    /// let page = metrics.to_prometheus_with(&[("ledger", "/srv/api.db")]);
    /// assert!(page.contains("\nprocledger_ledger_executing{ledger=\"/srv/api.db\"} 0\n"));
    /// # Ok(()) }
    /// ```
    pub fn to_prometheus_with(&self, labels: &[(&str, &str)]) -> String {
        let mut page = Page::with_labels(labels);
        page.family(LEDGER_EXECUTING).sample(&[], self.executing_count);
        page.family(LEDGER_LIVE);
        for (state, count) in &self.live {
            page.sample(&[("state", state.as_str())], count);
        }
        page.family(LEDGER_ORPHANS).sample(&[], self.orphans);
        page.family(LEDGER_INSTANCES);
        page.sample(&[("life", "alive")], self.instances.alive);
        page.sample(&[("life", "dead")], self.instances.dead);
        page.sample(&[("life", "unknown")], self.instances.unknown);
        page.family(LEDGER_WINDOW).sample(&[], seconds(self.window));
        ends(&mut page, LEDGER_ENDS, &self.ends);
        leaks(&mut page, LEDGER_LEAKS, &self.leaks);
        page.family(LEDGER_LEAKED_BYTES).sample(&[], self.leaked_bytes);
        page.family(LEDGER_LEAKED_TIME).sample(&[], seconds(self.leaked_time));
        ledger_passes(&mut page, &self.passes);
        page.family(LEDGER_SIZE).sample(&[], self.size_bytes);
        page.family(LEDGER_WAL).sample(&[], self.wal_bytes);
        page.finish()
    }
}

fn ledger_passes(page: &mut Page, passes: &[LedgerPasses]) {
    page.family(LEDGER_PASSES);
    for pass in passes {
        let kind = ("kind", pass.kind.as_str());
        page.sample(&[kind, ("result", COMPLETED)], pass.completed);
        page.sample(&[kind, ("result", WITH_ERRORS)], pass.with_errors);
    }
    let last = || {
        let last = |pass: &LedgerPasses| Some((pass.kind.as_str(), pass.last_started_at?));
        passes.iter().filter_map(last)
    };
    page.family(LEDGER_LAST_PASS);
    for (kind, at) in last() {
        page.sample(&[("kind", kind)], unix_seconds(at));
    }
    page.family(LEDGER_LAST_PASS_AGE);
    for (kind, at) in last() {
        page.sample(&[("kind", kind)], seconds(Millis::now().since(at)));
    }
    page.family(LEDGER_LAST_PASS_UP);
    for pass in passes {
        if let Some(well) = pass.last_went_well {
            page.sample(&[("kind", pass.kind.as_str())], u8::from(well));
        }
    }
}
