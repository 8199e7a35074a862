//! The cgroup of an instance, and the task cgroups in it.
//!
//! An instance has one instance cgroup in the v2 hierarchy, created at its first spawn, and in it a
//! task cgroup for each root. The instance cgroup is recorded before it is created, and the inode
//! of a task cgroup is in the row that is committed before its program runs. So cgroups that a
//! crash leaves can be found: task cgroups by their rows, and those without a row, which are empty,
//! by the instance cgroup.
//!
//! A task cgroup is removed when its tree has ended. Processes that are still in it then were left
//! on purpose; the shutdown retries the removal, and so does the orphan pass of another instance
//! when this one is dead.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use uuid::Uuid;

use super::{instance::Instance, lock::lock, shared_list::SharedList, tracked::Root};
use crate::{
    error::{Error, Kind, Result},
    identity::PidScope,
    model::{
        Cgroup, ContainmentMode, Evidence, ExitStatus, InstanceId, Justification, Rule, RuleKey,
    },
    store::Store,
    sys::{
        cgroup::{InstanceCgroup, TaskCgroup, bases, remove_instance_cgroup},
        spawn,
    },
};

/// The cgroup of an instance, and the task cgroups in it.
#[derive(Debug)]
pub(in crate::tracker) struct Cgroups {
    store: Store,
    instance: InstanceId,
    scope: PidScope,
    /// The user that must own a task cgroup.
    owner: u32,
    /// The folder in which to create it; `None` to detect one.
    base: Option<PathBuf>,
    /// Searched for once, at the first spawn, by the thread that spawns; taken by the shutdown. The
    /// lock is held while the ledger is written and the cgroup is created.
    instance_cgroup: Mutex<Option<Found>>,
    /// Task cgroups that could not be removed yet. Extended by ends, taken by the shutdown.
    unremoved: SharedList<Cgroup>,
}

/// The result of the search for an instance cgroup.
#[derive(Clone, Debug)]
enum Found {
    Created(Arc<InstanceCgroup>),
    /// None is available, with the reason.
    None(Arc<str>),
}

impl Found {
    fn none(error: &Error, base: Option<&Path>) -> Self {
        tracing::debug!("task cgroups are not available: {error}");
        let cause =
            std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let remedy = remedy(error, base).map(|remedy| format!("; {remedy}")).unwrap_or_default();
        Self::None(format!("{error}{cause}{remedy}").into())
    }

    fn available(self) -> Result<Arc<InstanceCgroup>> {
        match self {
            Self::Created(created) => Ok(created),
            Self::None(why) => Err(Error::new(Kind::Unsupported, &*why)),
        }
    }
}

/// Returns what makes cgroups available to a user that may not create them where it was tried.
fn remedy(error: &Error, base: Option<&Path>) -> Option<String> {
    // A container's cgroups are often mounted read-only.
    if !error.is_denied() && error.raw_os_error() != Some(libc::EROFS) {
        return None;
    }
    Some(match base {
        Some(base) => format!(
            "name a cgroup instead of `{}` that belongs to this user, or use another containment",
            base.display()
        ),
        None => "start this program in a cgroup that is delegated to its user (`Delegate=yes` in a service, or \
                 `systemd-run --user --scope -p Delegate=yes COMMAND`), or use another containment"
            .to_owned(),
    })
}

impl Cgroups {
    pub(in crate::tracker) fn new(
        store: Store,
        instance: &Instance,
        base: Option<PathBuf>,
    ) -> Self {
        Self {
            store,
            instance: instance.id,
            scope: instance.pid_scope(),
            owner: instance.observer.uid,
            base,
            instance_cgroup: Mutex::default(),
            unremoved: SharedList::default(),
        }
    }

    /// Fails if the requested containment is not available.
    pub(in crate::tracker) fn check(&self, mode: ContainmentMode) -> Result<()> {
        match mode {
            // The keeper is searched for, and tested, later.
            ContainmentMode::Auto | ContainmentMode::Session | ContainmentMode::Keeper => Ok(()),
            ContainmentMode::Cgroup => self.instance_cgroup()?.available().map(|_| ()),
        }
    }

    /// Creates a task cgroup for a new root, with its memory limit; `None` if the root gets none.
    pub(in crate::tracker) fn create_task_cgroup(
        &self,
        mode: ContainmentMode,
        max_rss: Option<u64>,
    ) -> Result<Option<spawn::TargetCgroup>> {
        let required = match mode {
            ContainmentMode::Session | ContainmentMode::Keeper => return Ok(None),
            ContainmentMode::Auto => false,
            ContainmentMode::Cgroup => true,
        };
        let found =
            self.instance_cgroup().map_err(|e| e.with_context("the program was not started"))?;
        let created = found.available().and_then(|instance| {
            let task_cgroup = instance.task_cgroup().inspect_err(|error| {
                tracing::warn!("{error}: the task gets no cgroup");
            })?;
            if let Some(bytes) = max_rss.filter(|_| instance.enable_memory()) {
                task_cgroup.limit_memory(bytes);
            }
            Ok(spawn::TargetCgroup { task_cgroup, required })
        });
        match created {
            Ok(target) => Ok(Some(target)),
            Err(error) if required => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Prepares the task cgroup of the next root, if this instance uses them.
    pub(in crate::tracker) fn prepare_task_cgroup(&self) {
        let found = lock(&self.instance_cgroup).clone();
        if let Some(Found::Created(instance)) = found {
            instance.prepare_task_cgroup();
        }
    }

    /// Stops using task cgroups, since a child could not be put into its task cgroup, although
    /// another one could before.
    pub(in crate::tracker) fn give_up(&self, task_cgroup: Option<&Cgroup>) {
        let Some(task_cgroup) = task_cgroup else { return };
        self.remove_task_cgroup(Some(task_cgroup));
        tracing::warn!("no more task cgroups are used: moving a process into one was refused");
        let why = "moving a process into it was refused".into();
        if let Some(Found::Created(created)) = lock(&self.instance_cgroup).replace(Found::None(why))
        {
            // This fails while task cgroups are in use; then the orphan pass of a later instance
            // removes it.
            created.remove();
        }
    }

    /// Returns this instance's cgroup, which is created by the first call.
    ///
    /// Fails if the ledger cannot be written: then a program could not be recorded either. The next
    /// call retries.
    fn instance_cgroup(&self) -> Result<Found> {
        let mut found = lock(&self.instance_cgroup);
        if let Some(found) = &*found {
            return Ok(found.clone());
        }
        Ok(found.insert(self.find_instance_cgroup()?).clone())
    }

    /// Creates the instance cgroup in the first base in which one can be created and joined. Fails
    /// if the ledger cannot be written.
    fn find_instance_cgroup(&self) -> Result<Found> {
        let bases = match &self.base {
            Some(base) => vec![base.clone()],
            None => match bases() {
                Ok(bases) => bases,
                Err(error) => return Ok(Found::none(&error, None)),
            },
        };
        let mut failed = None;
        for base in &bases {
            match self.create_instance_cgroup(base)? {
                Ok(created) => return Ok(Found::Created(Arc::new(created))),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let nowhere =
            || Error::new(Kind::Unsupported, "no cgroup in which task cgroups can be created");
        Ok(Found::none(&failed.unwrap_or_else(nowhere), self.base.as_deref()))
    }

    /// Creates an instance cgroup in this base; the inner error is that of the cgroup, the outer
    /// one that of the ledger.
    fn create_instance_cgroup(&self, base: &Path) -> Result<Result<InstanceCgroup>> {
        let path = InstanceCgroup::path_in(base, &Uuid::new_v4().simple().to_string());
        let Some(text) = path.to_str() else {
            let what =
                format!("the cgroup `{}` has a name that is not valid UTF-8", base.display());
            return Ok(Err(Error::invalid(what)));
        };
        match self.store.plan_cgroup(self.instance, text) {
            // The ledger has a schema without cgroups.
            Err(error) if error.kind() == Kind::Unsupported => return Ok(Err(error)),
            planned => planned?,
        }
        let made = InstanceCgroup::make(&path);
        let confirmed = match &made {
            Ok(created) => self.store.confirm_cgroup(self.instance, created.inode()),
            Err(_) => Ok(()),
        };
        if let (Ok(created), Err(_)) = (&made, &confirmed) {
            created.remove();
        }
        if made.is_err() || confirmed.is_err() {
            // If the record stays, the next orphan pass finds that the cgroup does not exist.
            let _ = self.store.forget_cgroup(self.instance);
        }
        confirmed.map(|()| made)
    }

    /// Opens the task cgroup of a root; `None` if it has none, or if it is gone.
    pub(in crate::tracker) fn open_task_cgroup(
        &self,
        record: Option<&Cgroup>,
    ) -> Result<Option<TaskCgroup>> {
        record.map_or(Ok(None), |record| TaskCgroup::open(record, self.owner))
    }

    /// Returns the rule and evidence if the kernel killed a root for lack of memory; `None`
    /// otherwise.
    pub(in crate::tracker) fn oom_because(
        &self,
        root: &Root,
        status: ExitStatus,
    ) -> Option<Justification> {
        if status != ExitStatus::Signaled(libc::SIGKILL) {
            return None;
        }
        let task_cgroup = self.open_task_cgroup(root.cgroup.as_ref()).ok()??;
        let kills = task_cgroup.oom_kills().filter(|&kills| kills > 0)?;
        let limit = root.limits.max_rss;
        let rule = limit.map_or(RuleKey::OutOfMemory.into(), Rule::CgroupLimit);
        Some(Justification::new(&rule, Evidence::OomKills(kills)))
    }

    /// Removes the task cgroup of a tree that has ended; later if a process is still in it.
    pub(in crate::tracker) fn remove_task_cgroup(&self, record: Option<&Cgroup>) {
        let Some(record) = record else { return };
        if !self.is_removed(record) {
            self.unremoved.push(record.clone());
        }
    }

    fn is_removed(&self, record: &Cgroup) -> bool {
        match TaskCgroup::open(record, self.owner) {
            Ok(None) => true,
            Ok(Some(task_cgroup)) => task_cgroup.remove(),
            Err(_) => false,
        }
    }

    /// Removes the instance cgroup, unless a process was left in a task cgroup on purpose; then a
    /// later instance does so.
    pub(in crate::tracker) fn close(&self) {
        self.retry_removals();
        let Some(Found::Created(created)) = lock(&self.instance_cgroup).take() else { return };
        if created.remove()
            && let Err(error) = self.store.forget_cgroup(self.instance)
        {
            tracing::debug!("failed to delete the record of a removed cgroup: {error}");
        }
    }

    /// Retries the removal of task cgroups in which a process was left.
    fn retry_removals(&self) {
        let left = self.unremoved.take();
        self.unremoved.extend(left.into_iter().filter(|record| !self.is_removed(record)));
    }

    /// Removes the task cgroups that stopped instances left, with their instance cgroups.
    pub(in crate::tracker) fn remove_those_of_others(&self) {
        let left = match self.store.cgroups_left(&self.scope) {
            Ok(left) => left,
            Err(error) => return tracing::warn!("failed to look up leftover cgroups: {error}"),
        };
        for (instance, path, inode) in left {
            if instance == self.instance {
                continue;
            }
            match remove_instance_cgroup(Path::new(&path), inode, self.owner) {
                Ok(task_cgroups) if task_cgroups.is_empty() => {
                    if let Err(error) = self.store.forget_cgroup(instance) {
                        tracing::warn!("failed to record that a cgroup is removed: {error}");
                    }
                }
                // They contain a survivor, or processes that a task may leave behind.
                Ok(task_cgroups) => {
                    tracing::debug!("{} task cgroups of `{path}` are in use", task_cgroups.len());
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }
}
