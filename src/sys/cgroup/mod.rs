//! cgroup v2: a task cgroup for each tree. A member does not leave it by forking, by creating a
//! session or by clearing its environment.
//!
//! ```text
//!  base      where this process may create cgroups: delegated, configured, or its own cgroup
//!  +- procledger-NAME    the instance cgroup: one for each instance, recorded before it is created
//!     +- TOKEN           the task cgroup: one for each root, joined by clone3(2) with CLONE_INTO_CGROUP
//! ```
//!
//! A program cannot leave its task cgroup unless it may write to the `cgroup.procs` of a common
//! ancestor, as root or the owner of a delegated subtree may, or asks another manager (docker,
//! systemd) to start a process on its behalf.
//!
//! - [`hierarchy`]: where the v2 hierarchy is mounted, and where this process may create cgroups;
//! - [`instance`]: an instance's own cgroup, and the creation of task cgroups in it;
//! - [`task`]: listing, freezing, killing and removing one task cgroup;
//! - [`walk`]: the cgroups that a task has nested in its task cgroup, however deep;
//! - [`of_process`]: which cgroups a process is in, from `/proc/PID/cgroup`;
//! - [`members_by_proc`]: the processes in a cgroup, determined from `/proc` if the cgroup cannot
//!   be listed.
//!
//! A path alone is never trusted: before anything is written, the folder's inode is compared with
//! the recorded one. The inode of a cgroup is its id, which the kernel does not reuse within one
//! boot (`kernfs_node.id`, 64 bits).
//!
//! This requires Linux 5.7 (`CLONE_INTO_CGROUP`), and 5.14 for `cgroup.kill`; on older kernels
//! members are killed one by one. The facts are from cgroups(7), clone(2) and the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst`.

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
