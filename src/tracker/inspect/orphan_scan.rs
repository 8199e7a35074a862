//! Finds processes that look orphaned, on a machine where no ledger has recorded them.
//!
//! Nothing is opened for writing and nothing is signalled. Only ledgers that a live instance has
//! open, according to the lock files that it holds, are read: processes that such an instance
//! tracks are not listed.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ledger::Ledger, trees::below};
use crate::{
    error::{Error, Result},
    identity::{Pid, PidScope},
    model::{OrphanMember, OrphanScan, OrphanTree, OrphansLeftOut},
    policy::{
        adoption::adopted,
        name_match::{Program, base_name, name_of, without_deletion},
    },
    sys::{
        Proc, current_pid_scope,
        keeper::signed_locks,
        proc::{age, cpu_time},
        snapshot::{Snapshot, Stat},
    },
    tracker::{
        membership::{foreign_roots::responsible_instances, process_info::command_of},
        runtime::liveness::ledger_of_lock,
    },
};

/// The programs of this crate.
const OWN_PROGRAMS: [&[u8]; 2] = [b"procledger", b"procledger-keeper"];
/// The variable in which `procledger run` passes on the path of its ledger.
const LEDGER_VARIABLE: &str = "PROCLEDGER_LEDGER";
/// A folder that exists if systemd is the init (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// Returns processes of this user that look orphaned: adopted by a process other than the one that
/// started them, without a controlling terminal, not in a systemd service, and not tracked by a
/// live instance of a ledger.
///
/// This needs no ledger, and changes nothing. A person must decide whether a process is still
/// needed: a daemon that was started manually looks the same.
///
/// ```
/// # fn main() -> procledger::Result<()> {
/// for tree in procledger::scan_orphans(procledger::DEFAULT_MIN_AGE)?.trees {
///     println!("{}: {} bytes: {}", tree.pid, tree.rss_bytes, tree.why);
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn scan_orphans(min_age: Duration) -> Result<OrphanScan> {
    let proc = Proc::open()?;
    let snapshot = proc.snapshot()?;
    let own = Pid::new(i64::from(std::process::id()))
        .ok_or_else(|| Error::invalid("pid 0 cannot read `/proc`"))?;
    let mut errors = Vec::new();
    if proc.hides_others() {
        errors.push(
            "`/proc` hides other users' processes (hidepid), so orphans that one of them has adopted are missed: \
             run the scan as root (`--user` selects a user), or mount /proc without hidepid"
                .into(),
        );
    }
    let uid = rustix::process::geteuid().as_raw();
    let tracked = tracked(&proc, current_pid_scope()?, &snapshot, uid, &mut errors);
    let mut lineage: HashSet<Pid> = snapshot.ancestors(own).into_iter().collect();
    lineage.insert(own);
    let unit = proc.systemd_unit(own);
    let machine = Machine { proc, snapshot, uid, lineage, tracked, unit, min_age };
    let (mut found, mut left_out) = (Vec::new(), OrphansLeftOut::default());
    for stat in machine.snapshot.iter() {
        match machine.judge(stat) {
            Verdict::Unremarkable => {}
            Verdict::LeftOut(count) => *count(&mut left_out) += 1,
            Verdict::Orphan(why) => found.push((stat, why)),
        }
    }
    // An orphan below another one is in the tree of that one.
    let roots: HashSet<Pid> = found.iter().map(|(stat, _)| stat.pid).collect();
    let is_root = |stat: &Stat| {
        !machine.snapshot.ancestors(stat.pid).iter().any(|above| roots.contains(above))
    };
    let trees = found.into_iter().filter(|(stat, _)| is_root(stat));
    let mut trees: Vec<OrphanTree> =
        trees.filter_map(|(stat, why)| machine.tree(stat, &why)).collect();
    trees.sort_by_key(|tree| (Reverse(tree.age), tree.pid));
    Ok(OrphanScan { systemd: Path::new(SYSTEMD).is_dir(), trees, left_out, errors })
}

enum Verdict {
    Unremarkable,
    /// It looks orphaned, but is left out; with the count to increment.
    LeftOut(fn(&mut OrphansLeftOut) -> &mut u64),
    Orphan(String),
}

struct Machine {
    proc: Proc,
    snapshot: Snapshot,
    uid: u32,
    /// The scanning process and its ancestors.
    lineage: HashSet<Pid>,
    /// Processes that live instances track, and the programs of this crate.
    tracked: HashSet<Pid>,
    /// The systemd unit that the scanning process is in.
    unit: Option<std::ffi::OsString>,
    min_age: Duration,
}

impl Machine {
    fn judge(&self, stat: &Stat) -> Verdict {
        let Some(why) = self.adoption(stat) else { return Verdict::Unremarkable };
        let Ok(Some(status)) = self.proc.status(stat.pid) else { return Verdict::Unremarkable };
        if [status.real_uid, status.effective_uid] != [self.uid; 2] {
            return Verdict::Unremarkable;
        }
        let below = self.snapshot.below(stat.pid);
        let on_terminal = |pid: &Pid| self.snapshot.get(*pid).is_some_and(|it| it.terminal != 0);
        if status.is_in_nested_namespace() {
            Verdict::LeftOut(|count| &mut count.containers)
        } else if self.tracked.contains(&stat.pid) {
            Verdict::LeftOut(|count| &mut count.tracked)
        } else if self.is_in_a_service(stat.pid) {
            Verdict::LeftOut(|count| &mut count.services)
        } else if stat.terminal != 0 || below.iter().any(on_terminal) {
            Verdict::LeftOut(|count| &mut count.terminals)
        } else if age(stat.start_tick) < self.min_age {
            Verdict::LeftOut(|count| &mut count.young)
        } else {
            Verdict::Orphan(why)
        }
    }

    fn adoption(&self, stat: &Stat) -> Option<String> {
        if stat.is_kernel_thread() || stat.is_zombie() || self.lineage.contains(&stat.pid) {
            return None;
        }
        let parent = self.snapshot.get(Pid::new(i64::from(stat.parent))?)?;
        let executable = self.proc.executable(parent.pid);
        let name = executable.as_deref().map(without_deletion);
        let name = String::from_utf8_lossy(name.map_or(parent.comm.as_slice(), base_name));
        adopted(&self.snapshot, stat, parent, &name)
    }

    /// Reports whether a process belongs to a systemd service. In the service of this process
    /// itself only the main process counts: processes that others in it have left are what is
    /// searched for.
    fn is_in_a_service(&self, pid: Pid) -> bool {
        let unit = self.proc.systemd_unit(pid);
        let Some(name) = unit.as_ref().and_then(|unit| unit.to_str()) else { return false };
        if unit == self.unit {
            return self.proc.is_started_by_systemd(pid);
        }
        // The manager of a user is a service, but other units in it, except scopes and services,
        // are none.
        name == "init.scope" || name.ends_with(".service") && !name.starts_with("user@")
    }

    /// Describes a tree; `None` if its root has ended since.
    fn tree(&self, root: &Stat, why: &str) -> Option<OrphanTree> {
        let below_root = self.snapshot.below_until(root.pid, |pid| self.tracked.contains(&pid));
        let stats = below_root.iter().filter_map(|&pid| self.snapshot.get(pid));
        let stats = stats.filter(|stat| !stat.is_zombie()).collect();
        let argv = self.proc.command(root.pid).ok()??;
        let program = Program { executable: self.proc.executable(root.pid), argv };
        let members = [(root, None)]
            .into_iter()
            .chain(below(root.pid, stats).into_iter().map(|(stat, parent)| (stat, Some(parent))));
        let members: Vec<OrphanMember> =
            members.filter_map(|(stat, parent)| self.member(stat, parent)).collect();
        let is_there = members.first().is_some_and(|member| member.pid == root.pid);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let has_token = self.proc.tokens(root.pid).is_some_and(|tokens| !tokens.is_empty());
        let token = if has_token { "; it carries the token of a task" } else { "" };
        is_there.then(|| OrphanTree {
            pid: root.pid,
            parent: Pid::new(i64::from(root.parent)).unwrap_or(root.pid),
            why: format!("{why}{token}"),
            name: name_of(&program),
            ledger: self.proc.variable(root.pid, LEDGER_VARIABLE).filter(|_| has_token).map(text),
            age: age(root.start_tick),
            rss_bytes: members.iter().map(|member| member.rss_bytes).sum(),
            cpu: members.iter().map(|member| member.cpu).sum(),
            members,
        })
    }

    /// Describes a member; `None` if it has ended since, or its pid belongs to another process.
    fn member(&self, stat: &Stat, parent: Option<Pid>) -> Option<OrphanMember> {
        let cwd = self.proc.working_directory(stat.pid);
        let member = OrphanMember {
            pid: stat.pid,
            parent,
            age: age(stat.start_tick),
            rss_bytes: stat.rss_bytes,
            cpu: cpu_time(stat),
            cwd: cwd.map(|path| String::from_utf8_lossy(&path).into_owned()),
            command: command_of(&self.proc, stat.pid, true),
        };
        let now = self.proc.stat(stat.pid).ok()??;
        (now.start_tick == stat.start_tick && !now.is_zombie()).then_some(member)
    }
}

/// Returns the live hosts of ledgers, the programs of this crate, the descendants of both, and the
/// processes that live instances track according to their ledgers.
fn tracked(
    proc: &Proc,
    here: PidScope,
    snapshot: &Snapshot,
    uid: u32,
    errors: &mut Vec<String>,
) -> HashSet<Pid> {
    let (mut tracked, mut ledgers) = (HashSet::new(), BTreeSet::new());
    let of_user = snapshot.iter().filter(|stat| !stat.is_kernel_thread() && !stat.is_zombie());
    for stat in of_user.filter(|stat| proc.is_of(stat.pid, uid)) {
        let executable = proc.executable(stat.pid).unwrap_or_default();
        let is_own = OWN_PROGRAMS.contains(&base_name(without_deletion(&executable)));
        let is_lock = |path: &Path| ledger_of_lock(path).is_some();
        let locks = signed_locks(proc, here, stat.pid, is_lock);
        if is_own || !locks.is_empty() {
            tracked.insert(stat.pid);
            tracked.extend(snapshot.below(stat.pid));
        }
        ledgers.extend(locks.iter().filter_map(|lock| ledger_of_lock(lock)));
    }
    for ledger in ledgers {
        match tracked_by(proc, here, &ledger) {
            Ok(found) => tracked.extend(found),
            Err(error) => errors.push(format!(
                "the processes that the ledger {} tracks are unknown: {error}",
                ledger.display()
            )),
        }
    }
    tracked
}

fn tracked_by(proc: &Proc, here: PidScope, ledger: &PathBuf) -> Result<Vec<Pid>> {
    let ledger = Ledger::open(ledger)?;
    let live = responsible_instances(ledger.store(), proc, here, None)?;
    let is_live = |owner| live.iter().any(|instance| instance.id == owner);
    let trees = ledger.trees()?.into_iter().filter(|tree| is_live(tree.root.owner));
    Ok(trees.flat_map(|tree| tree.members).map(|member| member.pid).collect())
}
