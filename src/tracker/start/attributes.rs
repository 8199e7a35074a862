//! Options of a job that the child sets up between clone and exec, and getters of a job.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{OwnedFd, RawFd},
    path::Path,
    sync::Arc,
};

use super::job::Job;
use crate::model::{Attributes, EndPlan, Resource, Rlimit};

/// Attributes that the program does not inherit from its host.
/// [`Tracker::spawn`](crate::Tracker::spawn) checks them before anything is started; if the kernel
/// refuses one to the child nevertheless, for example in a user namespace, that is an error with
/// its errno. In both cases the program has not run.
///
/// The row has them in [`attributes`](crate::ProcessSpec::attributes), and `ps --json` under the
/// same name.
impl Job {
    /// Sets the program's argument zero, like
    /// [`CommandExt::arg0`](std::os::unix::process::CommandExt::arg0); by default it is the name of
    /// the program as passed to [`Job::new`].
    ///
    /// A NUL byte in it is invalid input. A file without a `#!` line, which the shell must execute,
    /// does not get it.
    #[must_use]
    pub fn arg0(mut self, arg: impl Into<OsString>) -> Self {
        self.arg0 = Some(arg.into());
        self
    }

    /// Sets the program's user: its real, effective, saved and file system uid (`setresuid(2)`).
    /// The row has it in [`uid`](crate::ProcessSpec::uid).
    ///
    /// This requires a root host with root's own ledger, because otherwise the program of another
    /// user could not be ended. Unlike with [`std::process::Command`], [`gid`](Self::gid) must be
    /// set as well, since the program would otherwise keep root's group. The program gets no
    /// supplementary groups except those of [`groups`](Self::groups), and no capabilities in any
    /// set (`capabilities(7)`). The working directory is entered and the program is searched for as
    /// that user; the environment is the host's, `HOME` and `USER` included, unless the job sets
    /// it.
    ///
    /// This makes the host permanently undumpable (`PR_SET_DUMPABLE` in `prctl(2)`): it dumps no
    /// core, and only root may trace it. The child shares the host's memory until it executes the
    /// program, and the other user must not be able to read it.
    ///
    /// ```no_run
    /// # fn main() -> procledger::Result<()> {
    /// # let tracker = procledger::Tracker::builder("/var/lib/my-api/ledger.db").open()?;
    /// use procledger::Job;
    ///
    /// let job = Job::new("task-42", "id").uid(1000).gid(1000).groups(&[27]).current_dir("/");
    /// tracker.spawn(job)?.wait()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// From the spawn: [`is_denied`](crate::Error::is_denied), with `EPERM`, without `CAP_SETUID`
    /// or in a ledger of a user other than root; invalid input without a gid, and for `u32::MAX`.
    /// The host's own uid is always allowed and changes nothing.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.attributes.uid = Some(uid);
        self
    }

    /// Sets the program's group: its real, effective, saved and file system gid (`setresgid(2)`).
    ///
    /// # Errors
    ///
    /// From the spawn: [`is_denied`](crate::Error::is_denied), with `EPERM`, for a gid other than
    /// the host's without `CAP_SETGID`.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.attributes.gid = Some(gid);
        self
    }

    /// Sets the program's supplementary groups (`setgroups(2)`), at most 65536; by default those of
    /// the host, or none if [`uid`](Self::uid) sets another user. Groups in passwd(5) and group(5)
    /// are not looked up.
    ///
    /// # Errors
    ///
    /// From the spawn: [`is_denied`](crate::Error::is_denied), with `EPERM`, without `CAP_SETGID`.
    #[must_use]
    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.attributes.groups = Some(groups.to_vec());
        self
    }

    /// Sets the program's file mode creation mask (`umask(2)`), 0 to `0o777`; by default the
    /// host's.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.attributes.umask = Some(mask);
        self
    }

    /// Sets the program's nice value (`setpriority(2)`), from -20, the most favorable, to 19. Like
    /// `Nice=` of systemd.exec(5) this is the value itself; nice(1) adds to the current one.
    ///
    /// # Errors
    ///
    /// From the spawn: [`is_denied`](crate::Error::is_denied), with `EACCES`, below the host's own
    /// value without `CAP_SYS_NICE` or a sufficient `RLIMIT_NICE`.
    #[must_use]
    pub fn nice(mut self, nice: i32) -> Self {
        self.attributes.nice = Some(nice);
        self
    }

    /// Sets a resource limit (`setrlimit(2)`), in the unit of the resource; `None` for unlimited.
    /// The limit applies to each process of the tree separately; for the memory of the whole tree
    /// see [`max_rss`](Self::max_rss). If a resource is set more than once, the last value counts.
    ///
    /// ```
    /// # fn main() -> procledger::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use procledger::{Job, Resource, Stdio};
    ///
    /// let job = Job::new("task-42", "sh").args(["-c", "ulimit -n"]).stdout(Stdio::piped());
    /// let job = job.rlimit(Resource::Nofile, 64, 128).rlimit(Resource::Core, 0, 0).umask(0o077);
    /// assert_eq!(tracker.spawn(job)?.wait_with_output()?.stdout, b"64\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// From the spawn: invalid input for a soft limit above the hard limit;
    /// [`is_denied`](crate::Error::is_denied), with `EPERM`, for a hard limit above the host's
    /// without `CAP_SYS_RESOURCE`.
    #[must_use]
    pub fn rlimit(
        mut self,
        resource: Resource,
        soft: impl Into<Option<u64>>,
        hard: impl Into<Option<u64>>,
    ) -> Self {
        self.attributes.rlimits.retain(|limit| limit.resource != resource);
        self.attributes.rlimits.push(Rlimit { resource, soft: soft.into(), hard: hard.into() });
        self
    }

    /// Puts the program into this process group (`setpgid(2)`), or with 0 into a new group, and
    /// leaves it in the host's session, like
    /// [`CommandExt::process_group`](std::os::unix::process::CommandExt::process_group). By default
    /// it gets a new session.
    ///
    /// Without a new session, `session` containment is weaker: processes that leave the program's
    /// group, or are in a group that it joined, are identified only by their parents and their
    /// environment. The program still has the host's terminal, which can stop it. Under a keeper,
    /// 0 is a group in the keeper's session.
    ///
    /// # Errors
    ///
    /// From the spawn: invalid input for a negative number, and for a number other than 0 together
    /// with [`foreground`](Self::foreground) or [`share_terminal`](Self::share_terminal), or if
    /// [`ContainmentMode::Keeper`](crate::ContainmentMode::Keeper) is requested;
    /// [`is_denied`](crate::Error::is_denied), with `EPERM`, for a group that does not exist in the
    /// host's session.
    #[must_use]
    pub fn process_group(mut self, group: i32) -> Self {
        self.attributes.process_group = Some(group);
        self
    }

    /// Gives the program all descriptors of the host above 2 that are not close-on-exec, as if the
    /// host executed it, except those of procledger itself; off by default. The host keeps its own
    /// copies, and the ledger does not record them.
    ///
    /// If `LISTEN_PID` (`sd_listen_fds(3)`) is the PID of the host, it is replaced by the PID of
    /// the program in the program's environment. This is meant for a host through which a single
    /// program is started, such as `procledger run`: descriptors that another thread of the host
    /// opens without `O_CLOEXEC` are inherited as well.
    #[must_use]
    pub fn inherit_fds(mut self, on: bool) -> Self {
        self.inherit_fds = on;
        self
    }

    /// Gives the program one more descriptor, with this number. The host's copy is closed once the
    /// job, and each clone of it, has been spawned or dropped.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let tracker = procledger::Tracker::builder(folder.path().join("ledger.db")).open()?;
    /// use std::io::Read;
    /// use procledger::Job;
    ///
    /// let (mut read, write) = std::io::pipe()?;
    /// tracker.spawn(Job::new("task-42", "sh").args(["-c", "echo ready >&5"]).fd(5, write))?;
    /// let mut line = String::new();
    /// read.read_to_string(&mut line)?;
    /// assert_eq!(line, "ready\n");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// From the spawn: invalid input for 0 to 2, which [`stdin`](Self::stdin),
    /// [`stdout`](Self::stdout) and [`stderr`](Self::stderr) set; for a number that is negative, at
    /// or above the host's `RLIMIT_NOFILE`, or used twice; and for more than 249 descriptors.
    #[must_use]
    pub fn fd(mut self, number: RawFd, fd: impl Into<OwnedFd>) -> Self {
        self.attributes.fds.push(number);
        self.fds.push(Arc::new(fd.into()));
        self
    }
}

/// Getters, like those of [`std::process::Command`].
impl Job {
    /// Sets another task, for example for a clone of a job.
    #[must_use]
    pub fn task_id(mut self, task_id: impl Into<String>) -> Self {
        self.task = task_id.into();
        self
    }

    /// Returns the task.
    pub fn get_task_id(&self) -> &str {
        &self.task
    }

    /// Returns the program.
    pub fn get_program(&self) -> &OsStr {
        &self.program
    }

    /// Returns argument zero, if it is not the program.
    pub fn get_arg0(&self) -> Option<&OsStr> {
        self.arg0.as_deref()
    }

    /// Returns the arguments, without argument zero.
    pub fn get_args(&self) -> impl ExactSizeIterator<Item = &OsStr> {
        self.args.iter().map(OsString::as_os_str)
    }

    /// Returns the variables that the job sets, or removes (`None`), sorted by name.
    ///
    /// ```
    /// use std::ffi::OsStr;
    /// use procledger::Job;
    ///
    /// let job = Job::new("task-42", "env").env("A", "1").env_remove("B").args(["-0"]);
    /// let again = job.clone().task_id("task-43");
    /// let (a, b) = (OsStr::new("A"), OsStr::new("B"));
    /// assert!(again.get_envs().eq([(a, Some(OsStr::new("1"))), (b, None)]));
    /// assert_eq!((again.get_task_id(), job.get_task_id()), ("task-43", "task-42"));
    /// ```
    pub fn get_envs(&self) -> impl ExactSizeIterator<Item = (&OsStr, Option<&OsStr>)> {
        self.env.iter().map(|(key, value)| (key.as_os_str(), value.as_deref()))
    }

    /// Returns whether the program inherits none of the host's variables.
    pub fn get_env_clear(&self) -> bool {
        self.clear_env
    }

    /// Returns the working directory, if it is not the host's.
    pub fn get_current_dir(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// Returns how its tree is asked to end.
    pub fn get_end_plan(&self) -> &EndPlan {
        &self.end_plan
    }

    /// Returns the attributes that the program does not inherit from its host, except for argument
    /// zero.
    pub fn get_attributes(&self) -> &Attributes {
        &self.attributes
    }
}
