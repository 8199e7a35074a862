//! Determines the evidence that links a process to a root, and pins processes that a scan has
//! found.
//!
//! A scan identifies processes by their PIDs, and a PID may be reused before its pidfd is opened.
//! For a process that is not recorded yet there is no inode to compare, and the start tick is
//! conclusive only if it is a tick before that of the scan. Otherwise the evidence that links the
//! process to its tree is read again once it is pinned: while it has its PID, the evidence is its
//! own.

use std::collections::HashSet;

use uuid::Uuid;

use crate::{
    error::Result,
    identity::{Pid, PidScope},
    model::Evidence,
    sys::{
        PidFd, Pinned, Proc,
        snapshot::{Snapshot, Stat},
        unless_busy,
    },
    tracker::runtime::tracked::Root,
};

/// Pins a process that a snapshot showed as a member; `None` if it is gone, or if its evidence is
/// not found again. If it is still a member, the next scan finds it. Fails if there is no
/// descriptor to pin it with.
///
/// `holds` returns whether a member with this PID is pinned and still has it.
pub(in crate::tracker) fn pin(
    proc: &Proc,
    scope: PidScope,
    snapshot: &Snapshot,
    seen: &Stat,
    root: &Root,
    evidence: Evidence,
    holds: impl Fn(Pid) -> bool,
) -> Result<Option<Pinned>> {
    let Some(pinned) = unless_busy(Pinned::open(proc, scope, seen.pid))? else { return Ok(None) };
    let linked = pinned.stat.start_tick == seen.start_tick
        && (snapshot.distinguishes(seen)
            || is_linked(proc, &pinned.stat, seen, root, evidence, holds) && pinned.has_its_pid());
    Ok(linked.then_some(pinned))
}

/// The evidence that links the process with a PID to any of some roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tracker) enum OwnEvidence {
    /// It has no evidence of its own. Its parent and its task cgroup are not considered.
    None,
    /// Its session, its process group, or its token.
    Certain,
    /// The evidence cannot be determined: the process is calling exec, or may not be read, or no
    /// descriptor is left.
    Indeterminate,
}

/// Evidence that links processes to any of some roots.
#[derive(Debug)]
pub(in crate::tracker) struct RootEvidence {
    /// Sessions and process groups.
    made: HashSet<u32>,
    tokens: HashSet<Uuid>,
}

impl RootEvidence {
    pub(in crate::tracker) fn of<'a>(roots: impl Iterator<Item = &'a Root> + Clone) -> Self {
        let made = roots.clone().filter_map(|root| root.session).map(Pid::get);
        Self { made: made.collect(), tokens: roots.filter_map(|root| root.token).collect() }
    }
}

/// Determines the evidence of a process. Reads only this process, however many roots there are.
pub(in crate::tracker) fn own_evidence(
    proc: &Proc,
    evidence: &RootEvidence,
    pid: Pid,
) -> OwnEvidence {
    let stat = match proc.stat(pid) {
        Ok(Some(stat)) => stat,
        Ok(None) => return OwnEvidence::None,
        Err(_) => return OwnEvidence::Indeterminate,
    };
    if stat.is_kernel_thread() {
        return OwnEvidence::None;
    }
    if stat.is_zombie() {
        // A process whose first thread has exited looks the same; another thread may take over the
        // PID by exec before it is examined.
        let dead = PidFd::open(pid).and_then(|fd| fd.map_or(Ok(true), |fd| fd.is_dead()));
        return if dead.unwrap_or(false) { OwnEvidence::None } else { OwnEvidence::Indeterminate };
    }
    if evidence.made.contains(&stat.session) || evidence.made.contains(&stat.group) {
        return OwnEvidence::Certain;
    }
    if evidence.tokens.is_empty() {
        return OwnEvidence::None;
    }
    match proc.tokens_shown(pid) {
        Ok(Some(tokens)) if tokens.iter().any(|token| evidence.tokens.contains(token)) => {
            OwnEvidence::Certain
        }
        Ok(Some(_)) => OwnEvidence::None,
        // It is gone meanwhile, or in exec, or another user's, or no descriptor is left.
        Ok(None) | Err(_) if matches!(proc.stat(pid), Ok(None)) => OwnEvidence::None,
        Ok(None) | Err(_) => OwnEvidence::Indeterminate,
    }
}

fn is_linked(
    proc: &Proc,
    now: &Stat,
    seen: &Stat,
    root: &Root,
    evidence: Evidence,
    holds: impl Fn(Pid) -> bool,
) -> bool {
    // A session can be entered only by inheritance. But a session with the process's own PID proves
    // nothing, since a daemon that reused the PID may have created it.
    let in_same_session =
        root.session.is_some() && now.session == seen.session && now.session != now.pid.get();
    match evidence {
        // These are identified by their whole identity, or by the time of their fork.
        Evidence::Root | Evidence::Recorded | Evidence::ForkEvent => true,
        Evidence::TaskCgroup => root
            .cgroup
            .as_ref()
            .and_then(|task_cgroup| task_cgroup.path.file_name())
            .is_some_and(|name| proc.is_in_cgroup(now.pid, name)),
        Evidence::Session => now.session == seen.session,
        Evidence::Group => now.group == seen.group,
        Evidence::ChildOf(parent) => {
            in_same_session || (now.parent == parent.get() && holds(parent))
        }
        // This is evidence of a death, which links no process.
        Evidence::OomKills(_) => false,
        Evidence::Keeper => in_same_session || now.parent == seen.parent,
        Evidence::Token => root.token.is_some_and(|token| {
            proc.tokens(now.pid).is_some_and(|tokens| tokens.contains(&token))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{Limits, Origin, ProcessId},
        sys::snapshot::tests::{pid, stat},
        tracker::runtime::tracked::CompactCommand,
    };

    /// Returns a root of its own session 10, or a registered one.
    fn root(session: Option<u32>) -> Root {
        let scope = crate::sys::current_pid_scope().expect("a scope");
        let identity =
            crate::identity::Identity { scope, pid: pid(10), start_tick: 1, pidfd_inode: None };
        Root {
            row: ProcessId(1),
            task: None,
            identity,
            token: None,
            uid: 0,
            session: session.map(pid),
            cgroup: None,
            keeper: None,
            origin: Origin::Spawned,
            containment: crate::model::Containment::Session,
            limits: Limits::with_grace(Duration::ZERO),
            end_plan: crate::model::EndPlan::default(),
            command: CompactCommand::default(),
            arguments: true,
        }
    }

    fn linked(
        seen: &Stat,
        now: &Stat,
        root: &Root,
        evidence: Evidence,
        parent_holds: bool,
    ) -> bool {
        let proc = Proc::open().expect("/proc");
        is_linked(&proc, now, seen, root, evidence, |_| parent_holds)
    }

    #[test]
    fn a_child_is_linked_by_its_parent_while_the_parent_has_its_pid() {
        let seen = stat(20, 11, 20);
        let child = Evidence::ChildOf(pid(11));
        assert!(linked(&seen, &stat(20, 11, 20), &root(Some(10)), child, true));
        assert!(!linked(&seen, &stat(20, 11, 20), &root(Some(10)), child, false));
        assert!(
            !linked(&seen, &stat(20, 1, 20), &root(Some(10)), child, true),
            "a daemon reuses the PID"
        );
    }

    #[test]
    fn an_inherited_session_links_an_orphan_but_its_own_session_does_not() {
        let child = Evidence::ChildOf(pid(11));
        let (seen, orphaned) = (stat(20, 11, 15), stat(20, 1, 15));
        assert!(linked(&seen, &orphaned, &root(Some(10)), child, false));
        // A registered root shares its session with its starter.
        assert!(!linked(&seen, &orphaned, &root(None), child, false));
        let (seen, daemon) = (stat(20, 11, 20), stat(20, 1, 20));
        assert!(!linked(&seen, &daemon, &root(Some(10)), child, false));
    }

    #[test]
    fn a_member_of_the_session_or_the_group_must_still_be_in_it() {
        let seen = stat(20, 11, 10);
        let elsewhere = stat(20, 11, 20);
        for evidence in [Evidence::Session, Evidence::Group] {
            assert!(linked(&seen, &seen.clone(), &root(Some(10)), evidence, false));
            assert!(!linked(&seen, &elsewhere, &root(Some(10)), evidence, true));
        }
    }
}
