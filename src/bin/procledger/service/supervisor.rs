//! The supervisor of all ledgers: picks them up when they appear, runs their workers, reports to
//! the service manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{
    folder_events::{FolderEvent, FolderEvents},
    http::{Ledgers, serve},
    messages::Order,
    scrape::Scraper,
    service_command::ServiceCommand,
    target::Target,
};
use crate::{
    exit::{Exit, Failure, Result},
    notify::Notify,
    output::{self, Reader, to_stderr},
    poll::poll_within,
    signals::{STOP, Signals},
};

/// Maximum time between two checks of the workers.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Interval at which workers without events are ordered to check.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Maximum number of workers that start at the same time: a thousand at once would all be slow, and
/// would seem to hang.
const STARTS: usize = 32;
/// Wait before the next start while more workers are due than may start at once.
const STARTS_AGAIN: Duration = Duration::from_millis(20);
/// A worker stops within milliseconds, or after the pass that it is in; one that takes longer is
/// killed, which loses nothing: the next one takes over what it had claimed.
const STOP_LIMIT: Duration = Duration::from_secs(4);
/// A killed process is dead within this time, or hangs in the kernel and is left to die.
const DEATH_LIMIT: Duration = Duration::from_millis(500);
/// Maximum length of the list of problems in the status: a datagram is limited, and a person has to
/// read it.
const TROUBLES: usize = 2 << 10;

/// Serves ledgers, those named and those in folders, until it is asked to stop. `arguments` are
/// those of each worker; `metrics` is where to serve metrics.
pub(crate) fn supervise(
    service: &'static ServiceCommand,
    named: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    arguments: Vec<String>,
    metrics: Option<(SocketAddr, Scraper)>,
) -> Result<Exit> {
    let signals = Signals::block(&STOP)?;
    output::write_from_threads()?;
    let served = Ledgers::default();
    if let Some((address, scraper)) = metrics {
        serve(address, Arc::clone(&served), scraper)?;
    }
    let named: BTreeSet<PathBuf> = named.into_iter().collect();
    let ledger = |path: &PathBuf| (path.clone(), Target::ledger(service, path.clone()));
    let ledgers = named.iter().map(ledger).collect();
    let folders = folders.into_iter().collect::<BTreeSet<_>>();
    let folders = folders.into_iter().map(|path| Target::folder(service, path)).collect();
    let (events, notify) = (FolderEvents::new(), Notify::from_environment());
    let last_look = Instant::now();
    Supervisor {
        service,
        named,
        folders,
        ledgers,
        signals,
        events,
        notify,
        arguments,
        last_look,
        served,
    }
    .run()
}

struct Supervisor {
    service: &'static ServiceCommand,
    named: BTreeSet<PathBuf>,
    folders: Vec<Target>,
    ledgers: BTreeMap<PathBuf, Target>,
    signals: Signals,
    events: FolderEvents,
    notify: Notify,
    arguments: Vec<String>,
    /// When workers without events were last ordered to check.
    last_look: Instant,
    /// The ledgers whose metrics are served.
    served: Ledgers,
}

impl Supervisor {
    fn run(mut self) -> Result<Exit> {
        loop {
            self.pick_up();
            let is_more_due = self.advance();
            self.report();
            self.wait(if is_more_due { STARTS_AGAIN } else { self.limit() })?;
            if self.read_workers() || output::reader() == Reader::Gone {
                self.stop()?;
                return Ok(Exit::DONE);
            }
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Target> {
        self.folders.iter_mut().chain(self.ledgers.values_mut())
    }

    /// Starts the workers that are due, not too many at once; returns whether there are more.
    fn advance(&mut self) -> bool {
        let starting = self.all().filter(|it| it.is_starting()).count();
        let mut left = STARTS.saturating_sub(starting);
        for target in self.folders.iter_mut().chain(self.ledgers.values_mut()) {
            target.advance();
            if target.is_due() {
                if left == 0 {
                    return true;
                }
                left -= 1;
                target.start(&self.arguments, self.events.copy());
            }
        }
        false
    }

    /// Adds new ledgers of the folders, and removes those that are gone.
    fn pick_up(&mut self) {
        let mut there: BTreeSet<PathBuf> =
            self.folders.iter().flat_map(Target::ledgers).cloned().collect();
        self.ledgers.retain(|path, ledger| {
            let is_wanted = there.contains(path) || self.named.contains(path);
            // A ledger that vanished while it was open is reported by its worker first.
            if !is_wanted && (ledger.is_missing() || !ledger.is_watched()) {
                ledger.stop();
            }
            is_wanted || ledger.is_running()
        });
        there.retain(|path| !self.ledgers.contains_key(path));
        let service = self.service;
        self.ledgers
            .extend(there.into_iter().map(|path| (path.clone(), Target::ledger(service, path))));
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if !served.iter().eq(self.ledgers.keys()) {
            *served = self.ledgers.keys().cloned().collect();
        }
    }

    /// Reports to the service manager: ready once every existing ledger was opened and cleaned up,
    /// or has failed to open.
    fn report(&mut self) {
        let watched = self.ledgers.values().filter(|ledger| ledger.is_watched()).count();
        let all = self.ledgers.len();
        let (mut troubles, mut left_out) = (Vec::new(), 0);
        let mut room = TROUBLES;
        for it in self.folders.iter().chain(self.ledgers.values()) {
            let Some(trouble) = it.trouble() else { continue };
            let trouble = format!("; {}: {trouble}", it.path().display());
            match room.checked_sub(trouble.len()) {
                Some(left) => {
                    room = left;
                    troubles.push(trouble);
                }
                None => left_out += 1,
            }
        }
        if left_out > 0 {
            troubles.push(format!("; and {left_out} more"));
        }
        let status =
            format!("{} {watched} of {all} ledgers{}", self.service.doing, troubles.concat());
        if self.folders.iter().chain(self.ledgers.values()).all(Target::is_settled) {
            self.notify.ready(&status);
        } else {
            self.notify.status(&status);
        }
        self.notify.alive();
    }

    /// Returns how long it may sleep.
    fn limit(&self) -> Duration {
        let needs_looks = self
            .folders
            .iter()
            .chain(self.ledgers.values())
            .any(|target| target.without_watch.is_some());
        let limit = if needs_looks { LOOK_WITHOUT_EVENTS } else { LOOK_AGAIN };
        self.notify.interval().map_or(limit, |interval| interval.min(limit))
    }

    fn wait(&self, limit: Duration) -> Result<()> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.events.fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let all = self.folders.iter().chain(self.ledgers.values());
        let workers: Vec<_> = all.flat_map(Target::descriptors).collect();
        fds.extend(workers.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        poll_within(&mut fds, Some(limit))
            .map(drop)
            .map_err(|error| Failure::because("failed to wait for workers", &error))
    }

    /// Passes on the workers' output, and events in their folders to the workers; returns whether
    /// it is asked to stop. Workers come before events, so that a watch descriptor is known before
    /// its events are read.
    fn read_workers(&mut self) -> bool {
        let is_asked = |signals: &Signals| signals.pending().is_ok_and(|signal| signal.is_some());
        for target in self.folders.iter_mut().chain(self.ledgers.values_mut()) {
            target.read_worker();
            // React to a signal however much all of them print.
            if is_asked(&self.signals) {
                return true;
            }
        }
        for event in self.events.read() {
            self.pass_on(&event);
        }
        self.look_without_events();
        is_asked(&self.signals)
    }

    fn pass_on(&mut self, FolderEvent { watch, name }: &FolderEvent) {
        for folder in self.folders.iter_mut().filter(|it| watch.is_none() || it.watch == *watch) {
            if name.as_ref().is_none_or(|name| name.as_bytes().ends_with(b".db")) {
                folder.order(&Order::Look);
            }
        }
        for ledger in self.ledgers.values_mut() {
            if watch.is_some() && ledger.watch != *watch {
                continue;
            }
            match name {
                None => ledger.order(&Order::Look),
                // The ledger, or a file whose name begins with the ledger's, as those of its
                // instances' locks do.
                Some(name) => {
                    let own = ledger.path().file_name().unwrap_or_default().as_bytes();
                    if name.as_bytes().starts_with(own) {
                        ledger.order(&Order::Changed(name.clone()));
                    }
                }
            }
        }
    }

    /// Orders workers whose folders cannot be watched to check each second, and from time to time
    /// to try to watch again.
    fn look_without_events(&mut self) {
        let mut all = self.folders.iter().chain(self.ledgers.values());
        let Some(error) = all.find_map(|it| it.without_watch) else {
            // Not if all of them are between two workers.
            if self.folders.iter().chain(self.ledgers.values()).any(|it| it.watch.is_some()) {
                self.events.recover();
            }
            return;
        };
        self.events.warn(Errno::from_raw_os_error(error));
        let is_to_be_tried = self.events.is_to_be_tried();
        let is_time = self.last_look.elapsed() >= LOOK_WITHOUT_EVENTS;
        if is_time {
            self.last_look = Instant::now();
        }
        for it in self.folders.iter_mut().chain(self.ledgers.values_mut()) {
            if it.without_watch.is_none() {
                continue;
            }
            if is_to_be_tried {
                it.order(&Order::Inotify(self.events.copy()));
            }
            if is_time {
                it.order(&Order::Look);
            }
        }
    }

    /// Stops all workers within a bounded time, whatever their state; the next instance takes over
    /// what they claimed and did not end.
    fn stop(&mut self) -> Result<()> {
        self.notify.stopping();
        // 1. Ask.
        self.all().for_each(Target::stop);
        self.wait_for_the_last(STOP_LIMIT)?;
        // 2. Kill.
        self.all().for_each(Target::kill_now);
        self.wait_for_the_last(DEATH_LIMIT)?;
        // 3. Leave workers that hang in the kernel: the signal is pending already.
        for it in self.folders.iter().chain(self.ledgers.values()).filter(|it| it.is_running()) {
            let path = it.path().display();
            to_stderr(&crate::render::escape(&format!(
                "procledger: {path}: its worker hangs in the kernel and is left behind; it was killed, and ends once its system call returns"
            )));
        }
        Ok(())
    }

    fn wait_for_the_last(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.all().any(|it| it.is_running()) && Instant::now() < deadline {
            self.notify.alive();
            self.wait(LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now())))?;
            for it in self.all() {
                it.read_worker();
                if Instant::now() >= deadline {
                    break;
                }
            }
            // A signal that is not read would wake every wait.
            let _ = self.signals.pending();
        }
        Ok(())
    }
}
