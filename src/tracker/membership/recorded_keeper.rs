//! Identifies the keeper of a tree.
//!
//! A keeper is identified by the identity in its program's row, which was committed before the
//! program ran. The name of a process, its arguments and its parent prove nothing: any local user
//! can imitate them.

use crate::{
    identity::{Identity, Pid, PidScope},
    model::{Containment, Observer, ProcessRecord},
    store::Store,
    sys::{Pinned, Probe, Proc},
    tracker::core::Core,
};

/// Returns the keeper, pinned, if it is alive and is the recorded process. Its user must be that of
/// its program or, if a host of root started the program as another user, the ledger's owner. Also
/// returns `None` if the observer may not touch that user's processes: if root acts for a user, a
/// forged row must not lead to a process of root.
pub(in crate::tracker) fn verified(
    proc: &Proc,
    observer: Observer,
    keeper: &Identity,
    uid: u32,
) -> Option<Pinned> {
    if !observer.may_touch(uid) {
        return None;
    }
    let Probe::Alive(pinned) = Pinned::probe(proc, observer.scope, keeper) else { return None };
    let status = proc.status(pinned.pid()).ok().flatten()?;
    // Without pidfs, a process that reuses the PID within a tick looks the same.
    let only = status.only_uid().filter(|only| [uid, observer.uid].contains(only));
    (only.is_some() && pinned.has_its_pid()).then_some(pinned)
}

/// Returns the keeper of a row from an older version, which recorded that there is a keeper but not
/// which.
///
/// The keeper is the parent of its program and a child of the host. When it dies, the program is
/// reparented to the host, to a subreaper above the host, or to PID 1, none of which was started
/// after the host. So a parent of the program that was started after the host is the keeper.
fn of_older_row(
    proc: &Proc,
    here: PidScope,
    row: &ProcessRecord,
    host_started: u64,
) -> Option<Identity> {
    let Probe::Alive(root) = Pinned::probe(proc, here, &row.spec.identity) else { return None };
    let parent = Pid::new(i64::from(root.stat.parent))?;
    let keeper = Pinned::open(proc, here, parent).ok().flatten()?;
    // It is still the parent, so it was the parent when it was pinned.
    let is_parent = proc.stat(root.pid()).ok().flatten()?.parent == parent.get()
        && root.has_its_pid()
        && keeper.has_its_pid();
    let between = host_started < keeper.stat.start_tick
        && keeper.stat.start_tick <= row.spec.identity.start_tick;
    let status = proc.status(parent).ok().flatten()?;
    (is_parent && between && status.only_uid() == Some(row.spec.uid)).then_some(keeper.identity)
}

/// Returns the identity of a root's keeper, as far as it is known.
pub(in crate::tracker) fn recorded_keeper(
    store: &Store,
    proc: &Proc,
    here: PidScope,
    row: &ProcessRecord,
) -> Option<Identity> {
    if row.spec.keeper.is_some() || row.spec.containment != Containment::Keeper {
        return row.spec.keeper;
    }
    let host_started = store.first_owner_started(row.id).ok().flatten()?;
    of_older_row(proc, here, row, host_started)
}

/// Returns the identity of the keeper of a row in this tracker's ledger.
pub(in crate::tracker) fn keeper_of_row(core: &Core, row: &ProcessRecord) -> Option<Identity> {
    recorded_keeper(&core.store, &core.proc, core.pid_scope(), row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::current_pid_scope;

    #[test]
    fn a_forged_row_in_a_users_ledger_does_not_lead_root_to_its_own_process() {
        let (proc, scope) = (Proc::open().expect("/proc"), current_pid_scope().expect("a scope"));
        let own = rustix::process::geteuid().as_raw();
        let pid = Pid::new(i64::from(std::process::id())).expect("a pid");
        let me = Pinned::open(&proc, scope, pid).expect("a look").expect("alive").identity;
        let found = |ledger: u32, row: u32, keeper: &Identity| {
            verified(&proc, Observer { scope, uid: ledger }, keeper, row).is_some()
        };
        let user = own + 1000;
        assert!(found(own, own, &me));
        assert!(!found(user, own, &me), "the row has its true user, who does not own the ledger");
        assert!(
            !found(user, user, &me),
            "the row has the ledger's user, and the process has another"
        );
        assert!(!found(own, own, &Identity { start_tick: me.start_tick + 1, ..me }));
        let inode = me.pidfd_inode.map(|inode| inode + 1);
        let same = inode.is_none();
        assert_eq!(found(own, own, &Identity { pidfd_inode: inode, ..me }), same);
    }
}
