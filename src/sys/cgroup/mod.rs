//! cgroup v2: a task cgroup for each tree, which no member leaves by forking, by creating its own session or by wiping its
//! environment.
//!
//! ```text
//!  base      where this process may create cgroups: delegated, configured, or its own cgroup
//!  +- procledger-NAME    the instance cgroup: one for each instance, recorded before it is created
//!     +- TOKEN           the task cgroup: one for each root, joined by clone3(2) with CLONE_INTO_CGROUP
//! ```
//!
//! A program cannot leave its task cgroup unless it may write to the `cgroup.procs` of a common ancestor: root, the owner of a
//! delegated subtree, or another manager (docker, systemd) asked to start something on its behalf.
//!
//! - [`hierarchy`]: where the v2 hierarchy is mounted, and where in it this process is;
//! - [`instance`]: an instance's own cgroup, found by trying, and its task cgroups;
//! - [`task`]: listing, freezing, killing and removing one task cgroup;
//! - [`walk`]: everything that a task has nested in one, however deep;
//! - [`of_process`]: which cgroups a process is in, from `/proc/PID/cgroup`;
//! - [`members_by_proc`]: the processes in one, determined from `/proc` where the cgroup cannot be listed.
//!
//! A path alone is never trusted: before anything is written, the folder's inode is compared with the recorded one. The inode
//! of a cgroup is its id, which the kernel does not use again in one boot (`kernfs_node.id`, 64 bits).
//!
//! Linux 5.7 is needed (`CLONE_INTO_CGROUP`), and 5.14 for `cgroup.kill`; before that members are killed one by one. The facts
//! are from cgroups(7), clone(2) and the kernel's `Documentation/admin-guide/cgroup-v2.rst`.

mod hierarchy;
mod instance;
mod members_by_proc;
mod of_process;
mod record;
mod task;
mod walk;

pub(crate) use hierarchy::{bases, prospect};
pub(crate) use instance::{InstanceCgroup, open_up_instance_cgroup, remove_instance_cgroup};
pub(crate) use members_by_proc::Paths;
pub use record::Cgroup;
pub(crate) use task::TaskCgroup;
