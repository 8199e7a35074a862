//! The worker's own side: what it does before and beside its work.
//!
//! It is executed as the supervisor's own user, which may be root, and becomes the owner of what it
//! watches. From then on that owner may signal it, and must not gain access to anything of root's
//! in it. So, in this order,
//!
//! 1. every inherited descriptor is closed, except for the connection and two pipes to the
//!    supervisor;
//! 2. if it is root's, it is made undumpable: only root can read its memory or environment, trace
//!    it or take its descriptors (ptrace(2), "Ptrace access mode checking"; `pidfd_getfd(2)`;
//!    `/proc/PID/{fd,mem,environ}`);
//! 3. it checks whether its ledger exists, and which user owns it. Only root can do that in any
//!    folder, and it may hang on a dead mount: then the supervisor kills it;
//! 4. it becomes the owner.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use nix::unistd::geteuid;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};

use super::{
    folder_events::add,
    isolation::shed_inherited,
    messages::{Connection, Order, WorkerReport},
    stop::pipe,
    target::LEDGERS,
};
use crate::{
    exit::{Exit, Failure, Result},
    output::warn,
    poll::poll_within,
    privilege,
    signals::{STOP, Signals},
    threads,
};

/// Interval of checks for changes that no event reports, such as a folder that appears.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The same if there are no events.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Interval at which a failed worker checks whether its file has changed.
const LOOK_FOR_CHANGE: Duration = Duration::from_millis(500);

/// What a worker received from its supervisor.
#[derive(Debug)]
pub(crate) struct StartingWorker {
    connection: Arc<Connection>,
    events: Events,
}

/// How the worker is notified of changes in its folder.
#[derive(Debug)]
enum Events {
    /// From the supervisor: from its inotify instance, or each second.
    Supervisor(Watch),
    /// From an inotify instance of its own, since another user may write the folder.
    Own,
}

/// The folder's watch in the supervisor's instance.
#[derive(Debug)]
struct Watch {
    inotify: Option<OwnedFd>,
    /// The folder (device, inode) that is watched.
    of: Option<(u64, u64)>,
}

impl Watch {
    /// Watches the folder, even if another one is in its place now. Returns `false` if a user other
    /// than root could fill the queue of root's instance there: the worker then needs one of its
    /// own.
    fn refresh(&mut self, connection: &Connection, folder: &Path) -> bool {
        let Ok(found) = fs::metadata(folder) else { return true };
        if geteuid().is_root() && (found.uid() != 0 || found.mode() & 0o022 != 0) {
            return false;
        }
        let id = (found.dev(), found.ino());
        if self.of == Some(id) {
            return true;
        }
        let watch = self.inotify.as_ref().ok_or(Errno::MFILE).and_then(|it| add(it, folder));
        self.of = watch.is_ok().then_some(id);
        // If the supervisor is gone, the next order is to stop.
        let _ = connection.report(&match watch {
            Ok(watch) => WorkerReport::Watch(watch),
            Err(error) => WorkerReport::NoWatch(error.raw_os_error()),
        });
        true
    }
}

/// Why a wait ended.
enum Woken {
    Stop,
    Look,
}

impl StartingWorker {
    /// Performs steps 1 and 2. Must be called before anything else, and while no other thread runs.
    pub(crate) fn begin() -> Result<Self> {
        let failed = |error: io::Error| Failure::because("failed to begin as a worker", &error);
        shed_inherited()?;
        let connection = Connection::of_worker().map_err(failed)?;
        let Some(Order::Inotify(inotify)) = connection.next_order() else {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        };
        let events = Events::Supervisor(Watch { inotify, of: None });
        Ok(Self { connection: Arc::new(connection), events })
    }

    /// Performs step 3: waits until the file exists. Returns `false` on the order to stop.
    pub(crate) fn wait_for(&mut self, path: &Path, signals: &Signals) -> Result<bool> {
        loop {
            // Watch before the check: a file that appears after it is reported.
            self.watch(folder_of(path));
            let found = fs::metadata(path);
            if let (Ok(file), Events::Supervisor(watch)) = (&found, &mut self.events)
                && geteuid().is_root()
                && file.uid() != 0
            {
                // The worker must not keep anything of root's.
                watch.inotify = None;
            }
            let is_missing = found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            // Any other error is reported when the ledger is opened.
            self.report(&if is_missing { WorkerReport::Missing } else { WorkerReport::Found })?;
            if !is_missing {
                return Ok(true);
            }
            if let Woken::Stop = self.wait(signals)? {
                return Ok(false);
            }
        }
    }

    fn watch(&mut self, folder: &Path) {
        if let Events::Supervisor(watch) = &mut self.events
            && !watch.refresh(&self.connection, folder)
        {
            self.events = Events::Own;
        }
    }

    fn report(&self, report: &WorkerReport) -> Result<()> {
        self.connection
            .report(report)
            .map_err(|error| Failure::because("failed to reach the supervisor", &error))
    }

    /// Waits until a check is due.
    fn wait(&mut self, signals: &Signals) -> Result<Woken> {
        let limit = match &self.events {
            Events::Supervisor(watch) if watch.of.is_some() => LOOK_AGAIN,
            _ => LOOK_WITHOUT_EVENTS,
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.connection.as_fd(), PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        poll_within(&mut fds, Some(limit))
            .map_err(|error| Failure::because("failed to wait for the supervisor", &error))?;
        let (is_ordered, is_signalled) =
            (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if is_signalled {
            return Ok(Woken::Stop);
        }
        if is_ordered {
            match (self.connection.next_order(), &mut self.events) {
                (None, _) => return Ok(Woken::Stop),
                (Some(Order::Inotify(inotify)), Events::Supervisor(watch)) => {
                    watch.inotify = inotify;
                }
                _ => {}
            }
        }
        Ok(Woken::Look)
    }

    /// After step 4: receives the supervisor's orders in a thread of its own, for the ledger or
    /// folder at `path`.
    pub(crate) fn receive_orders(self, path: &Path, stopper: OwnedFd) -> Result<RunningWorker> {
        let (names, sink) = pipe()?;
        let (connection, folder) = (Arc::clone(&self.connection), folder_of(path).to_owned());
        let Self { connection: orders, events } = self;
        let (mut watch, has_names) = match events {
            // As another user it must not use the supervisor's instance.
            Events::Supervisor(watch) if privilege::has_become_another() => {
                (None, watch.of.is_some())
            }
            Events::Supervisor(watch) => (Some(watch), true),
            Events::Own => (None, false),
        };
        threads::start("procledger-orders", move || {
            while let Some(order) = orders.next_order() {
                match (order, &mut watch) {
                    // The pipe blocks while the watch has not read the names before. It fails once
                    // the watch has ended, and the worker waits for its own end.
                    (Order::Changed(name), _) => drop(write_name(&sink, name.as_bytes())),
                    (Order::Look, watch) => {
                        if let Some(watch) = watch {
                            watch.refresh(&orders, &folder);
                        }
                        let _ = write_name(&sink, b"");
                    }
                    (Order::Inotify(inotify), Some(watch)) => {
                        watch.inotify = inotify;
                        watch.refresh(&orders, &folder);
                    }
                    (Order::Inotify(_), None) => {}
                }
            }
            let _ = rustix::io::write(&stopper, b"x");
        })?;
        Ok(RunningWorker { connection, names: has_names.then_some(names) })
    }
}

fn write_name(sink: &OwnedFd, name: &[u8]) -> Result<usize, Errno> {
    // Shorter than PIPE_BUF, so the write is atomic (pipe(7)).
    rustix::io::write(sink, &[name, b"\0"].concat())
}

/// The worker's connection to the supervisor while it works.
#[derive(Debug)]
pub(crate) struct RunningWorker {
    connection: Arc<Connection>,
    /// Names of files that appear in the folder, if the supervisor reports them.
    pub(crate) names: Option<OwnedFd>,
}

impl RunningWorker {
    /// Reports that it is alive, after each check.
    ///
    /// # Errors
    ///
    /// Fails once the supervisor is gone.
    pub(crate) fn looked(&self) -> io::Result<()> {
        self.connection.report(&WorkerReport::Looked)
    }

    /// Reports the start of a pass, which may take long.
    ///
    /// # Errors
    ///
    /// Fails once the supervisor is gone.
    pub(crate) fn begins_pass(&self) -> io::Result<()> {
        self.connection.report(&WorkerReport::BeginsPass)
    }

    /// Reports that the work cannot be done, and waits until the file at `path` has changed, or the
    /// supervisor ends this worker to let another one try. The worker checks the file, since the
    /// supervisor would hang on a dead mount.
    pub(crate) fn wait_for_change(&self, path: &Path, stop: &OwnedFd) {
        let _ = self.connection.report(&WorkerReport::Failed);
        let before = mark(path);
        let mut fds = [PollFd::new(stop, PollFlags::IN)];
        loop {
            if poll_within(&mut fds, Some(LOOK_FOR_CHANGE)) != Ok(0) {
                return;
            }
            let now = mark(path);
            if now.is_none() || now != before {
                return;
            }
        }
    }
}

/// Runs a worker for a folder: lists its ledgers until it is ordered to stop.
pub(crate) fn serve_folder(folder: &Path) -> Result<Exit> {
    let mut worker = StartingWorker::begin()?;
    let signals = &Signals::block(&STOP)?;
    let mut last: Option<(BTreeSet<OsString>, u32)> = None;
    let mut is_owner = false;
    loop {
        worker.watch(folder);
        let listed = fs::metadata(folder).and_then(|_| {
            if !is_owner {
                privilege::act_as_owner(folder)
                    .map_err(|failure| io::Error::other(failure.message))?;
                is_owner = true;
            }
            list(folder)
        });
        let (found, is_missing) = match listed {
            Ok(found) => (found, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => ((BTreeSet::new(), 0), true),
            Err(error) => return fail_to_list(worker, folder, &error),
        };
        if last.as_ref() != Some(&found) {
            worker.report(&WorkerReport::ListBegins)?;
            for name in &found.0 {
                worker.report(&WorkerReport::Name(name.clone()))?;
            }
            worker.report(&WorkerReport::ListEnds(found.1))?;
            last = Some(found);
        }
        worker.report(&if is_missing { WorkerReport::Missing } else { WorkerReport::Looked })?;
        if let Woken::Stop = worker.wait(signals)? {
            return Ok(Exit::DONE);
        }
    }
}

fn fail_to_list(worker: StartingWorker, folder: &Path, error: &io::Error) -> Result<Exit> {
    warn(&format!("failed to list the folder: {error}"));
    let (stop, stopper) = pipe()?;
    let worker = RunningWorker { names: None, ..worker.receive_orders(folder, stopper)? };
    worker.wait_for_change(folder, &stop);
    Ok(Exit::FAILED)
}

/// Returns every `*.db` in a folder, and how many more there are than can be watched.
fn list(folder: &Path) -> io::Result<(BTreeSet<OsString>, u32)> {
    let (mut names, mut left_out) = (BTreeSet::new(), 0);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_ledger = path.extension().is_some_and(|extension| extension == "db")
            // A connection may lead to a ledger.
            && entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_symlink() && path.is_file());
        if is_ledger && names.len() < LEDGERS {
            names.insert(entry.file_name());
        } else if is_ledger {
            left_out += 1;
        }
    }
    Ok((names, left_out))
}

/// The metadata by which a change of a file is detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    file: (u64, u64),
    owner: (u32, u32),
    size: u64,
    changed: (i64, i64),
}

/// Returns `None` if there is no file.
fn mark(path: &Path) -> Option<Mark> {
    let file = fs::metadata(path).ok()?;
    Some(Mark {
        file: (file.dev(), file.ino()),
        owner: (file.uid(), file.mode()),
        size: file.size(),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

/// Returns the folder in which a ledger appears.
fn folder_of(ledger: &Path) -> &Path {
    ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_very_many_ledgers_is_listed_up_to_a_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        for index in 0..LEDGERS + 200 {
            fs::write(folder.path().join(format!("{index}.db")), "").expect("a file");
        }
        for other in ["x.json", "x.db-wal", "db"] {
            fs::write(folder.path().join(other), "").expect("a file");
        }
        fs::create_dir(folder.path().join("folder.db")).expect("a folder");
        let (names, left_out) = list(folder.path()).expect("a list");
        assert_eq!((names.len(), left_out), (LEDGERS, 200));
    }

    #[test]
    fn a_file_that_changes_gets_another_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.db");
        assert_eq!(mark(&path), None);
        fs::write(&path, "a").expect("a file");
        let first = mark(&path);
        assert_eq!(mark(&path), first);
        fs::write(&path, "ab").expect("a file");
        assert_ne!(mark(&path), first);
    }
}
