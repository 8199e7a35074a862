//! All ledgers: picks them up when they appear, keeps their workers, tells the service manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    io::Errno,
};

use super::{
    files::{folder_of, in_folder},
    watched::Watched,
};
use crate::{
    exit::{Exit, Failure, Result},
    notify::Notify,
    output::Reader,
    signals::{STOP, Signals},
};

/// What inotify does not tell, as a folder that appears, is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A worker that is in the middle of ending a tree needs a few seconds; who takes longer is killed, which loses nothing.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Watches ledgers, those named and those in folders, until it is asked to stop. `arguments` are those of each worker.
pub(crate) fn supervise(
    named: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    arguments: Vec<String>,
) -> Result<Exit> {
    let signals = Signals::block(&STOP)?;
    let arrivals = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .map_err(|error| Failure::because("failed to watch folders", &error))?;
    let named: BTreeSet<PathBuf> = named.into_iter().collect();
    let ledgers = named.iter().map(|path| (path.clone(), Watched::new(path.clone()))).collect();
    let notify = Notify::from_environment();
    Supervisor { named, folders, ledgers, signals, arrivals, notify, arguments }.run()
}

struct Supervisor {
    named: BTreeSet<PathBuf>,
    folders: Vec<PathBuf>,
    ledgers: BTreeMap<PathBuf, Watched>,
    signals: Signals,
    /// inotify on the folders in which a ledger may appear.
    arrivals: OwnedFd,
    notify: Notify,
    arguments: Vec<String>,
}

impl Supervisor {
    fn run(mut self) -> Result<Exit> {
        loop {
            self.watch_folders();
            self.pick_up();
            for ledger in self.ledgers.values_mut() {
                ledger.advance(&self.arguments);
            }
            self.tell();
            self.wait(self.notify.interval().map_or(LOOK_AGAIN, |limit| limit.min(LOOK_AGAIN)))?;
            let asked = self.signals.pending().is_ok_and(|signal| signal.is_some());
            let heard: Vec<Reader> = self.ledgers.values_mut().map(Watched::hear).collect();
            if asked || heard.contains(&Reader::Gone) {
                self.stop()?;
                return Ok(Exit::DONE);
            }
        }
    }

    /// Before the looks: what appears after a look is told.
    fn watch_folders(&self) {
        let missing = self.ledgers.values().filter(|ledger| !ledger.is_running());
        let folders = missing.map(|ledger| folder_of(ledger.path()));
        let events = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::ONLYDIR;
        for folder in folders.chain(self.folders.iter().map(PathBuf::as_path)) {
            // One that is not there is looked for at intervals; one that is watched already stays so.
            let _ = inotify::add_watch(&self.arrivals, folder, events);
        }
    }

    /// Takes on what is new in the folders, and lets go of what is gone from there.
    fn pick_up(&mut self) {
        let mut there: BTreeSet<PathBuf> =
            self.folders.iter().flat_map(|folder| in_folder(folder)).collect();
        self.ledgers.retain(|path, ledger| {
            ledger.is_running() || there.contains(path) || self.named.contains(path)
        });
        there.retain(|path| !self.ledgers.contains_key(path));
        self.ledgers.extend(there.into_iter().map(|path| (path.clone(), Watched::new(path))));
    }

    /// To the service manager: ready once every ledger that is there was opened and cleaned up, or could not be.
    fn tell(&mut self) {
        let watched = self.ledgers.values().filter(|ledger| ledger.is_watched()).count();
        let troubles = self.ledgers.values().filter_map(|ledger| {
            Some(format!("; {}: {}", ledger.path().display(), ledger.trouble()?))
        });
        let all = self.ledgers.len();
        let status = format!("watching {watched} of {all} ledgers{}", troubles.collect::<String>());
        if self.ledgers.values().all(Watched::is_settled) {
            self.notify.ready(&status);
        } else {
            self.notify.status(&status);
        }
        self.notify.alive();
    }

    fn wait(&self, limit: Duration) -> Result<()> {
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.arrivals, PollFlags::IN),
        ];
        let workers: Vec<_> = self.ledgers.values().flat_map(Watched::descriptors).collect();
        fds.extend(workers.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::because("failed to wait for workers", &error)),
        }
        // What arrived is looked for by name afterwards.
        let mut buffer = [0; 4096];
        while matches!(rustix::io::read(&self.arrivals, &mut buffer), Ok(1..)) {}
        Ok(())
    }

    /// Stops all workers; what they claimed and did not end is the next one's.
    fn stop(&mut self) -> Result<()> {
        self.notify.stopping();
        self.ledgers.values_mut().for_each(Watched::stop);
        let deadline = Instant::now() + STOP_LIMIT;
        while self.ledgers.values().any(Watched::is_running) && Instant::now() < deadline {
            self.notify.alive();
            self.wait(LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now())))?;
            self.ledgers.values_mut().for_each(Watched::hear_the_last);
        }
        Ok(())
    }
}
