//! Opens a ledger, in the order of the former implementation: set up, load, clean up, start
//! monitoring.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Tracker,
    caller::Caller,
    core::Core,
    end::spared::check_names,
    monitor,
    options::{Options, trusted_or_by_environment},
    passes::{
        import, orphans,
        retention::{DEFAULT_KEEP_HISTORY, SMALLEST_LIMIT},
    },
    runtime::instance::Instance,
};
use crate::{
    error::{Error, Result},
    metrics::Counters,
    model::{ContainmentMode, Report},
    store::{READERS, Store, Upgrade},
    sys::{Proc, current_pid_scope, reserved_paths::refuse_as_output},
};

/// Where the former implementation keeps its list of processes.
pub const ECOSYSTEM_MANAGER_EXPORT: &str = "/tmp/ecosystem-manager-processes.json";
/// The program that the former implementation starts, and searches for as an orphan.
pub const ECOSYSTEM_MANAGER_NAME: &str = "resource-claude-code";
/// Interval between health checks in the former implementation.
const HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// Time between SIGTERM and SIGKILL: a program that flushes for a second is not cut off.
const GRACE: Duration = Duration::from_secs(5);
/// The same time in the former implementation.
const ECOSYSTEM_MANAGER_GRACE: Duration = Duration::from_millis(100);
/// A process younger than this may be about to be registered.
pub const DEFAULT_MIN_AGE: Duration = Duration::from_secs(10);

/// Options for opening a ledger. Created by [`Tracker::builder`].
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("ledger.db");
/// use std::time::Duration;
/// let tracker = procledger::Tracker::builder(path)
///     .program("build-api")
///     .health_interval(Duration::from_secs(10))
///     .grace(Duration::from_millis(500))
///     .open()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    path: PathBuf,
    pub(super) options: Options,
}

impl Tracker {
    /// Returns options for opening the ledger at `path`, which is created if it does not exist.
    pub fn builder(path: impl Into<PathBuf>) -> Builder {
        Builder {
            path: path.into(),
            options: Options {
                program: own_program(),
                export: None,
                orphan_names: Vec::new(),
                protected: Vec::new(),
                min_age: DEFAULT_MIN_AGE,
                health_interval: HEALTH_INTERVAL,
                grace: GRACE,
                monitor: true,
                reap_on_open: true,
                containment: None,
                cgroup: None,
                keeper: None,
                record_arguments: true,
                keep_history: DEFAULT_KEEP_HISTORY,
                limit_size: None,
                trust_folder: None,
                upgrade: Upgrade::Migrate,
                readers: READERS,
                caller: None,
                reap_all: false,
            },
        }
    }
}

impl Builder {
    /// Sets all options as in the former implementation: the export at
    /// [`ECOSYSTEM_MANAGER_EXPORT`], the orphan name [`ECOSYSTEM_MANAGER_NAME`], 30 s between
    /// health passes, 100 ms of grace.
    pub fn ecosystem_manager(self) -> Self {
        self.program("ecosystem-manager")
            .export(ECOSYSTEM_MANAGER_EXPORT)
            .orphan_name(ECOSYSTEM_MANAGER_NAME)
            .health_interval(HEALTH_INTERVAL)
            .grace(ECOSYSTEM_MANAGER_GRACE)
    }

    /// Sets the name of the embedding program; by default the file name of its executable.
    /// Processes that it marks `survive` are adopted by the next instance of the same name.
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.options.program = name.into();
        self
    }

    /// Keeps a JSON file in sync with the ledger.
    ///
    /// Each list is renamed into place, so that a reader always sees a complete list. If a rename
    /// is not possible, as for a file that is mounted into a container, the file is written in
    /// place: a reader that does not take flock(2) (`LOCK_SH`) may then see part of a list. An
    /// orderly shutdown removes the file, or leaves `[]` if it cannot be removed.
    pub fn export(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.export = Some(path.into());
        self
    }

    /// Adds a program name that the orphan pass searches for among unregistered processes.
    pub fn orphan_name(mut self, name: impl Into<String>) -> Self {
        self.options.orphan_names.push(name.into());
        self
    }

    /// Sets the minimum age of a process that is found by name; younger processes are left running.
    /// 10 s by default.
    pub fn min_age(mut self, age: Duration) -> Self {
        self.options.min_age = age;
        self
    }

    /// Sets the time between health passes; 30 s by default.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.options.health_interval = interval;
        self
    }

    /// Sets the time between SIGTERM and SIGKILL; 5 s by default. If all processes of a tree end
    /// earlier, nothing waits for the rest of the time.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Sets whether a thread notices deaths at once and runs the health pass; on by default.
    /// Without it, call [`health_pass`](Tracker::health_pass).
    pub fn monitor(mut self, on: bool) -> Self {
        self.options.monitor = on;
        self
    }

    /// Sets whether opening ends the processes that dead instances left; on by default. Without it,
    /// nothing can be spawned until [`reap_orphans`](Tracker::reap_orphans) has run.
    pub fn reap_on_open(mut self, on: bool) -> Self {
        self.options.reap_on_open = on;
        self
    }

    /// Sets the containment of the trees of spawned programs; by default the value of the
    /// environment variable `PROCLEDGER_CONTAINMENT` (`auto`, `cgroup`, `keeper`, `session`), else
    /// [`ContainmentMode::Auto`].
    ///
    /// Its own cgroup v2 contains every process that a program starts, whichever session that is
    /// in. With a session alone, a daemon is lost if it leaves the session, clears its environment
    /// and loses its parent before a health pass has recorded it. Each row records its containment.
    pub fn containment(mut self, mode: ContainmentMode) -> Self {
        self.options.containment = Some(mode);
        self
    }

    /// Sets the cgroup v2 folder in which cgroups are created. By default it is the nearest one
    /// that a manager has delegated (systemd's `Delegate=`, detected by its extended attribute),
    /// else the one that this process is in.
    ///
    /// The process that opens the tracker must be able to create folders there, and to write the
    /// `cgroup.procs` of the nearest common ancestor of that folder and its own (cgroups(7)).
    pub fn cgroup(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.cgroup = Some(folder.into());
        self
    }

    /// Sets the executable that is used as the keeper; see [`keeper`](crate::keeper). By default
    /// `procledger-keeper` is searched for beside this program's executable, then in the folders of
    /// `PATH`.
    ///
    /// It is opened when the ledger is opened, and tested before it is first used. For root, and
    /// under `AT_SECURE`, it must be given by an absolute path, and the file and all folders above
    /// it must belong to root and be writable by root only. If the keeper cannot be used, this is
    /// logged and programs get only a session; with [`ContainmentMode::Keeper`], opening the ledger
    /// fails.
    pub fn keeper(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.keeper = Some(path.into());
        self
    }

    /// Trusts all users that own this folder, or can write to it, not to replace the ledger by
    /// another file. By default the environment variable `PROCLEDGER_TRUST_FOLDER` names the folder
    /// (not under `AT_SECURE`); otherwise no folder is trusted.
    ///
    /// Intended for a container's volume that more users may write to than exist in the container,
    /// such as an `emptyDir` with mode 0777. An empty path trusts no folder, whatever the
    /// environment says. The trust covers this one folder alone, not those above or below it, and
    /// applies only if the folder is on the ledger's path. The ledger's file must still belong to
    /// the acting user and be writable only by that user. The setting has no effect if root opens
    /// another user's ledger.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # use std::os::unix::fs::PermissionsExt;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let data = folder.path();
    /// std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o777)).unwrap();
    /// let builder = procledger::Tracker::builder(data.join("ledger.db"));
    /// assert!(builder.clone().open().unwrap_err().is_denied());
    /// builder.trust_folder(data).open()?;
    /// # Ok(()) }
    /// ```
    pub fn trust_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.trust_folder = Some(folder.into());
        self
    }

    /// Sets whether opening migrates a ledger of an older version to the current schema; on by
    /// default, since the program that owns a ledger opens it in this way.
    ///
    /// A program that works on a ledger of another program sets this to `false`. The schema then
    /// stays as it is, columns of later versions are not recorded, and an older version of the
    /// owner can still open the ledger. A ledger that does not exist yet is created with the latest
    /// schema in both cases.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// let tracker = procledger::Tracker::builder(path).migrate(false).reap_on_open(false).open()?;
    /// # Ok(()) }
    /// ```
    pub fn migrate(mut self, on: bool) -> Self {
        self.options.upgrade = if on { Upgrade::Migrate } else { Upgrade::LeaveAsItIs };
        self
    }

    /// Protects programs with this name: they and their descendants are left running in every tree
    /// that this instance ends.
    ///
    /// This is meant for a program that should outlive the task that happened to start it, such as
    /// a build server or `tmux`. The protection applies in every case: when a root ended by itself,
    /// when a tree is terminated, at shutdown, to the orphans of a dead instance, and in the name
    /// match.
    ///
    /// The name is compared with the base name of the executable, of `argv[0]`, and of the script
    /// if `argv[0]` is an interpreter; never with other text in a command line. A task's root is
    /// never protected, and neither is a process that it forked and that still runs the same
    /// program: a request to end a task is honored, whatever its program is called. A new process
    /// has the name of its parent until it calls exec, and is not protected before that.
    ///
    /// Processes that are left running are recorded with the rule and the evidence: each as a leak
    /// with the outcome `kept`, and a row that ended as `released`. From then on no instance is
    /// responsible for them, and no later pass ends them.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("ledger.db");
    /// let tracker = procledger::Tracker::builder(path).protect("tmux").protect("sccache").open()?;
    /// # Ok(()) }
    /// ```
    pub fn protect(mut self, name: impl Into<String>) -> Self {
        self.options.protected.push(name.into());
        self
    }

    /// Protects programs with any of these names; see [`protect`](Self::protect).
    pub fn protected_names<I: IntoIterator<Item = S>, S: Into<String>>(mut self, names: I) -> Self {
        self.options.protected.extend(names.into_iter().map(Into::into));
        self
    }

    /// Sets how long the history of ended processes is kept; 90 days by default, and forever with
    /// [`Duration::MAX`].
    ///
    /// The monitor deletes older history, in steps of milliseconds; without a monitor, call
    /// [`prune`](Tracker::prune). Running processes, survivors of an attempt to end them, the roots
    /// of both and the last pass of each kind are kept; so are the last process, leak, pass and
    /// instance, since their row numbers would otherwise be reused. If several instances share a
    /// ledger, the shortest time of all applies.
    pub fn keep_history(mut self, time: Duration) -> Self {
        self.options.keep_history = time;
        self
    }

    /// Limits the size of the ledger, in bytes, at least 1 MiB; unlimited by default. The monitor
    /// deletes the oldest history, however recent, until the rest fits. The WAL (a few MiB) and the
    /// rows that are always kept, as for [`keep_history`](Self::keep_history), do not count.
    pub fn limit_size(mut self, bytes: u64) -> Self {
        self.options.limit_size = Some(bytes);
        self
    }

    /// Sets whether arguments are recorded; on by default. If off, the ledger, reports and logs
    /// contain only the programs, for jobs and all of their descendants. If on, arguments that look
    /// like secrets are masked: see [`Job::record_arguments`](crate::Job::record_arguments).
    pub fn record_arguments(mut self, on: bool) -> Self {
        self.options.record_arguments = on;
        self
    }

    /// Sets the process on whose behalf this host runs its tasks. Once that process has ended, the
    /// tasks are orphans. The host must then call [`Tracker::end_orphaned`], which ends them.
    pub fn caller(mut self, caller: Caller) -> Self {
        self.options.caller = Some(caller);
        self
    }

    /// Reaps every child of this process that ends, not only children that tasks have left. This is
    /// meant for a host that starts no process by other means, such as `procledger run`: as PID
    /// 1, or as a subreaper, it acts as an init. It checks every 100 ms while tasks run, and
    /// otherwise in health passes.
    pub fn reap_all(mut self, on: bool) -> Self {
        self.options.reap_all = on;
        self
    }

    /// Sets how many connections may read the ledger at the same time; 4 by default. They are
    /// opened when they are needed.
    ///
    /// With 0, reads and writes share one connection, and the thread that opens connections is not
    /// started. This is meant for a host with a task or two, such as `procledger run`: a long query
    /// then delays a spawn.
    pub fn readers(mut self, count: u32) -> Self {
        self.options.readers = count;
        self
    }

    /// Opens the ledger. When this returns, the processes that dead instances left are gone, or are
    /// in the [`startup_report`](Tracker::startup_report).
    ///
    /// # Errors
    ///
    /// Each error names the path, and nothing on the disk is changed: a missing folder; a folder
    /// that others can write to, or a ledger of another user ([`is_denied`](Error::is_denied)); a
    /// file that is not a ledger ([`is_not_a_ledger`](Error::is_not_a_ledger)); a ledger of a newer
    /// version ([`is_newer`](Error::is_newer)); a network file system; a missing `/proc`, or one of
    /// another PID namespace ([`is_unsupported`](Error::is_unsupported)); a requested containment
    /// that is not available.
    pub fn open(self) -> Result<Tracker> {
        check_options(&self.options)?;
        if let Some(export) = &self.options.export {
            refuse_as_output(&self.path, export, "the export")?;
        }
        let proc = Proc::open()?;
        let scope = current_pid_scope()?;
        let trusted = trusted_or_by_environment(self.options.trust_folder.as_deref());
        let Options { upgrade, readers, .. } = self.options;
        let store = Store::open_trusting(&self.path, trusted.as_deref(), upgrade, readers)?;
        Counters::describe();
        let instance = Instance::enter(&store, &proc, scope, &self.options)?;
        let core = Core::new(store, self.options, proc, instance)?;
        Tracker::opened(core, begin)
    }
}

fn check_options(options: &Options) -> Result<()> {
    if options.program.is_empty() {
        return Err(Error::invalid(
            "the program's name is empty: pass the name of the embedding program",
        ));
    }
    // Checked before there is an instance, since it depends on the environment.
    options.containment_mode()?;
    check_names("orphan", &options.orphan_names)?;
    check_names("protected", &options.protected)?;
    if let Some(limit) = options.limit_size.filter(|limit| *limit < SMALLEST_LIMIT) {
        return Err(Error::invalid(format!(
            "a ledger of {limit} bytes cannot hold any history: set a limit of {SMALLEST_LIMIT} bytes or more"
        )));
    }
    if options.health_interval.is_zero() {
        return Err(Error::invalid("the health interval is zero: set a time greater than zero"));
    }
    Ok(())
}

/// Completes the opening; returns the report on processes of dead instances.
fn begin(core: &Arc<Core>) -> Result<Report> {
    core.cgroups.check(core.options.containment_mode()?)?;
    core.keepers.find(&core.options)?;
    let startup = if core.options.reap_on_open { clean_up(core)? } else { Report::default() };
    if let Some(path) = core.options.export.clone() {
        core.export.start(path, &core.store);
    }
    if core.options.monitor {
        monitor::start(core)?;
    }
    Ok(startup)
}

fn clean_up(core: &Arc<Core>) -> Result<Report> {
    let mut report = Report::default();
    // Done before the name match, which would end the same processes without knowing their tasks.
    // Processes that have rows are not judged by the list: the orphan pass handles them.
    if let Some(path) = &core.options.export {
        match import::import(core, path) {
            Ok(imported) => {
                import::log(&imported);
                report.absorb(imported);
            }
            Err(error) => {
                tracing::error!("{error}");
                report.errors.push(error.to_string());
            }
        }
    }
    report.absorb(orphans::reap_orphans(core)?);
    Ok(report)
}

fn own_program() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown".into())
}
