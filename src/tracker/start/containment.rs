//! How the processes of a tree are kept together: by a task cgroup where one can be created and joined, otherwise by a keeper
//! ([`crate::tracker::keeper`]), otherwise by a session.
//!
//! An instance has one instance cgroup (a branch) in the v2 hierarchy, created at its first spawn, and in it a task cgroup (a
//! leaf) for each root. The branch is recorded before it is created, and a leaf's inode is in the row that is committed before
//! its program runs. So whatever a crash leaves can be found: leaves by their rows, and leaves without a row, which are empty,
//! by the branch.
//!
//! A leaf is removed when its tree has ended. What is still in it then was left on purpose; the health pass retries, and so
//! does the orphan pass of another instance when this one is dead.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    model::{Because, Cgroup, ContainmentMode, ExitStatus},
    sys::{
        cgroup::{InstanceCgroup, TaskCgroup, bases, remove_instance_cgroup},
        spawn::Place,
    },
    tracker::{
        core::Core,
        runtime::{lock::lock, tracked::Root},
    },
};

/// The task cgroups of one instance.
#[derive(Debug, Default)]
pub(in crate::tracker) struct Leaves {
    branch: Mutex<Option<Found>>,
    /// Task cgroups that could not be removed yet.
    unremoved: Mutex<Vec<Cgroup>>,
}

/// The result of the search for an instance cgroup.
#[derive(Clone, Debug)]
enum Found {
    Branch(Arc<InstanceCgroup>),
    /// None is available, and why.
    None(Arc<str>),
}

impl Core {
    /// Fails where the requested containment is not available.
    pub(in crate::tracker) fn check_containment(&self) -> Result<()> {
        match self.options.containment_mode()? {
            // The keeper is searched for, and tested, later.
            ContainmentMode::Auto | ContainmentMode::Session | ContainmentMode::Keeper => Ok(()),
            ContainmentMode::Cgroup => self.branch().map(|_| ()),
        }
    }

    /// Creates a task cgroup for a new root, with its memory limit; `None` where the root does without.
    pub(in crate::tracker) fn leaf_for(
        &self,
        token: Uuid,
        max_rss: Option<u64>,
    ) -> Result<Option<Place>> {
        let must = match self.options.containment_mode()? {
            ContainmentMode::Session | ContainmentMode::Keeper => return Ok(None),
            ContainmentMode::Auto => false,
            ContainmentMode::Cgroup => true,
        };
        let made = self.branch().and_then(|branch| {
            let leaf = branch.create_task_cgroup(token).inspect_err(|error| {
                tracing::warn!("{error}: the task gets no cgroup of its own");
            })?;
            if let Some(bytes) = max_rss.filter(|_| branch.enable_memory()) {
                leaf.limit_memory(bytes);
            }
            Ok(Place { leaf, must })
        });
        match made {
            Ok(place) => Ok(Some(place)),
            Err(error) if must => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Stops using task cgroups, since a child could not be put into the one that was created for it, though another could
    /// before.
    pub(in crate::tracker) fn give_up_leaves(&self, leaf: Option<&Cgroup>) {
        let Some(leaf) = leaf else { return };
        self.remove_leaf(Some(leaf));
        tracing::warn!("no more task cgroups are used: moving a process into one was refused");
        let why = "moving a process into it was refused".into();
        if let Some(Found::Branch(branch)) = lock(&self.leaves.branch).replace(Found::None(why)) {
            // Task cgroups that are in use keep it in place; the orphan pass of a later instance removes it then.
            branch.remove();
        }
    }

    /// Returns this instance's cgroup, which is created at the first call.
    fn branch(&self) -> Result<Arc<InstanceCgroup>> {
        let mut found = lock(&self.leaves.branch);
        let answer = found.get_or_insert_with(|| match self.find_branch() {
            Ok(branch) => Found::Branch(Arc::new(branch)),
            Err(error) => {
                tracing::debug!("task cgroups are not available: {error}");
                let cause = std::error::Error::source(&error)
                    .map(|cause| format!(": {cause}"))
                    .unwrap_or_default();
                Found::None(format!("{error}{cause}").into())
            }
        });
        match answer {
            Found::Branch(branch) => Ok(Arc::clone(branch)),
            Found::None(why) => Err(Error::new(Kind::Unsupported, &**why)),
        }
    }

    /// Creates the branch in the first base in which one can be created and joined.
    fn find_branch(&self) -> Result<InstanceCgroup> {
        let bases = match &self.options.cgroup {
            Some(base) => vec![base.clone()],
            None => bases()?,
        };
        let mut failed = None;
        for base in &bases {
            match self.make_branch(base) {
                Ok(branch) => return Ok(branch),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::new(Kind::Unsupported, "no cgroup in which task cgroups can be created")
        }))
    }

    fn make_branch(&self, base: &Path) -> Result<InstanceCgroup> {
        let path = InstanceCgroup::path_in(base, &Uuid::new_v4().simple().to_string());
        let Some(text) = path.to_str() else {
            let what =
                format!("the cgroup `{}` has a name that is not valid UTF-8", base.display());
            return Err(Error::invalid(what));
        };
        self.store.plan_cgroup(self.instance.id, text)?;
        let made = InstanceCgroup::make(&path).and_then(|branch| {
            self.store.confirm_cgroup(self.instance.id, branch.inode())?;
            Ok(branch)
        });
        if made.is_err() {
            // If the record stays, the next orphan pass looks it up and finds the cgroup absent.
            let _ = self.store.forget_cgroup(self.instance.id);
        }
        made
    }

    /// Returns why the kernel killed a root for lack of memory; `None` where that was not the reason.
    pub(in crate::tracker) fn oom_because(
        &self,
        root: &Root,
        status: ExitStatus,
    ) -> Option<Because> {
        if status != ExitStatus::Signaled(libc::SIGKILL) {
            return None;
        }
        let leaf = TaskCgroup::open(root.cgroup.as_ref()?, self.instance.observer.uid).ok()??;
        let kills = leaf.oom_kills().filter(|&kills| kills > 0)?;
        let limit = root.limits.max_rss;
        Some(Because {
            rule: limit.map_or_else(
                || "the kernel ran out of memory".into(),
                |bytes| format!("the kernel enforced its memory limit of {bytes} bytes"),
            ),
            evidence: format!("oom_kill {kills} in its cgroup's memory.events"),
        })
    }

    /// Removes the task cgroup of a tree that has ended; later, where a process is still in it.
    pub(in crate::tracker) fn remove_leaf(&self, record: Option<&Cgroup>) {
        let Some(record) = record else { return };
        if !self.is_removed(record) {
            lock(&self.leaves.unremoved).push(record.clone());
        }
    }

    fn is_removed(&self, record: &Cgroup) -> bool {
        match TaskCgroup::open(record, self.instance.observer.uid) {
            Ok(None) => true,
            Ok(Some(leaf)) => leaf.remove(),
            Err(_) => false,
        }
    }

    /// Retries the removal of task cgroups in which a process was left.
    pub(in crate::tracker) fn remove_empty_leaves(&self) {
        let left = std::mem::take(&mut *lock(&self.leaves.unremoved));
        let left: Vec<Cgroup> =
            left.into_iter().filter(|record| !self.is_removed(record)).collect();
        lock(&self.leaves.unremoved).extend(left);
    }

    /// Removes the branch, unless a process was left in a leaf on purpose; then a later instance does so.
    pub(in crate::tracker) fn close_branch(&self) {
        self.remove_empty_leaves();
        let Some(Found::Branch(branch)) = lock(&self.leaves.branch).take() else { return };
        if branch.remove()
            && let Err(error) = self.store.forget_cgroup(self.instance.id)
        {
            tracing::debug!("failed to delete the record of a removed cgroup: {error}");
        }
    }

    /// Removes the task cgroups that stopped instances have left, and their branches.
    pub(in crate::tracker) fn remove_branches_of_others(&self) {
        let left = match self.store.cgroups_left(&self.place()) {
            Ok(left) => left,
            Err(error) => return tracing::warn!("failed to look up leftover cgroups: {error}"),
        };
        for (instance, path, inode) in left {
            if instance == self.instance.id {
                continue;
            }
            match remove_instance_cgroup(Path::new(&path), inode, self.instance.observer.uid) {
                Ok(leaves) if leaves.is_empty() => {
                    if let Err(error) = self.store.forget_cgroup(instance) {
                        tracing::warn!("failed to record that a cgroup is removed: {error}");
                    }
                }
                // They contain a survivor, or what a task may leave behind.
                Ok(leaves) => {
                    tracing::debug!("{} task cgroups of `{path}` are in use", leaves.len());
                }
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }
}
