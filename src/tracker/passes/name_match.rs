//! Name match: finds the processes that `pgrep -f` found in the former implementation, without
//! unrelated ones.
//!
//! Only configured names are searched for, and only unregistered processes are examined. Exempt are
//! the acting process with its ancestors and descendants, processes of other UIDs, processes that
//! an instance of a ledger is responsible for and their descendants, processes that carry a token,
//! processes on a terminal, and processes younger than the minimum age.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    error::Result,
    identity::{Pid, PidScope},
    model::{
        EndReason, InstanceId, LeakKind, Limits, Millis, NewProcess, Observer, Origin, ProcessId,
        ProcessRecord, ProcessSpec, Report, Rule, SpareReason, Suspect, TaskId,
    },
    policy::{
        exemption::oneself,
        name_match::{Circumstances, Judgement, Parent, Program, base_name, judge, matched},
    },
    redact::mask_command,
    store::Store,
    sys::{
        Pinned, Proc,
        proc::{age, cpu_time},
        snapshot::{Snapshot, Stat},
    },
    tracker::{
        core::Core,
        end::{claimed_trees, outcome::Conclusion},
        membership::process_info::command_of,
        runtime::{cause::Cause, tracked::Root},
    },
};

/// Tolerance for changes of the wall clock when comparing the time at which a process was left with
/// its start.
const CLOCK_SLACK: Duration = Duration::from_hours(24);

/// The parameters of a name match, and the observer on whose behalf it is made.
#[derive(Debug)]
pub(in crate::tracker) struct Search<'a> {
    pub(in crate::tracker) proc: &'a Proc,
    pub(in crate::tracker) observer: Observer,
    pub(in crate::tracker) own: Pid,
    /// `None` if there is no ledger.
    pub(in crate::tracker) store: Option<&'a Store>,
    pub(in crate::tracker) names: &'a [String],
    pub(in crate::tracker) protected: &'a [String],
    pub(in crate::tracker) min_age: Duration,
    /// Live instances, and processes that are in the ledger. They and their descendants are exempt.
    pub(in crate::tracker) accounted_for: HashSet<Pid>,
}

/// A process that was judged by its name.
#[derive(Debug)]
pub(in crate::tracker) struct Match {
    pub(in crate::tracker) pid: Pid,
    pub(in crate::tracker) start_tick: u64,
    pub(in crate::tracker) command: Vec<String>,
    pub(in crate::tracker) judgement: Judgement,
}

impl Search<'_> {
    /// Returns every process that matches a name and is a leak or a suspect.
    ///
    /// A process below a leak is ended with it, and is not a separate match: a shell and its
    /// subshells have the same name.
    pub(in crate::tracker) fn run(&self) -> Result<Vec<Match>> {
        if self.names.is_empty() {
            return Ok(Vec::new());
        }
        // A process that matches must contain the name somewhere. Usually none does, and nothing
        // else is read.
        let names: Vec<&[u8]> = self.names.iter().map(String::as_bytes).collect();
        let candidates: HashSet<Pid> = self.proc.mentioning(&names)?.into_iter().collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.proc.snapshot()?;
        let exempt = self.exempt(&snapshot);
        let running = snapshot.iter().filter(|stat| candidates.contains(&stat.pid));
        let running = running.filter(|stat| !stat.is_kernel_thread() && !stat.is_zombie());
        let mut found: Vec<Match> =
            running.filter_map(|stat| self.look(&snapshot, &exempt, stat)).collect();
        found.retain(|found| match &found.judgement {
            Judgement::Leak(_) | Judgement::Suspect(_) | Judgement::Young(_) => true,
            Judgement::Spared(why) => {
                tracing::debug!("process {} is left alone: {why}", found.pid);
                false
            }
        });
        let pids = |is_wanted: fn(&Judgement) -> bool| -> HashSet<Pid> {
            let wanted = found.iter().filter(|found| is_wanted(&found.judgement));
            wanted.map(|found| found.pid).collect()
        };
        let leaks = pids(|judgement| matches!(judgement, Judgement::Leak(_)));
        let young = pids(|judgement| matches!(judgement, Judgement::Young(_)));
        found.retain(|found| {
            let is_young = young.contains(&found.pid);
            let covers = |above: &Pid| leaks.contains(above) || is_young && young.contains(above);
            !snapshot.ancestors(found.pid).iter().any(covers)
        });
        found.sort_unstable_by_key(|found| found.pid);
        Ok(found)
    }

    /// Judges one process by its PID; `None` if it is gone, or does not match.
    pub(in crate::tracker) fn judge_one(&self, pid: Pid) -> Result<Option<Match>> {
        let snapshot = self.proc.snapshot()?;
        let exempt = self.exempt(&snapshot);
        Ok(snapshot.get(pid).and_then(|stat| self.look(&snapshot, &exempt, stat)))
    }

    /// Returns which processes are exempt because of their relatives, and why.
    fn exempt(&self, snapshot: &Snapshot) -> HashMap<Pid, &'static str> {
        let mut exempt = HashMap::new();
        for &pid in &self.accounted_for {
            exempt.insert(pid, "the ledger tracks it");
            let below = "it runs below a process that the ledger tracks";
            exempt.extend(snapshot.below(pid).into_iter().map(|pid| (pid, below)));
        }
        let own = "it is the searching process, its ancestor or its descendant";
        exempt.extend(oneself(snapshot, self.own).into_iter().map(|pid| (pid, own)));
        exempt
    }

    fn look(
        &self,
        snapshot: &Snapshot,
        exempt: &HashMap<Pid, &'static str>,
        stat: &Stat,
    ) -> Option<Match> {
        let argv = self.proc.command(stat.pid).ok()??;
        let program = Program { executable: self.proc.executable(stat.pid), argv };
        let matched = matched(&program, self.names)?;
        let exempt = exempt.get(&stat.pid).map(|&why| why.to_owned());
        let about = Circumstances {
            exempt: exempt
                .or_else(|| self.exempt_by_itself(stat.pid))
                .or_else(|| self.exempt_by_ledger(stat)),
            doubt: self.doubt(stat.pid, &program),
            on_terminal: stat.terminal != 0,
            age: age(stat.start_tick),
            parent: self.parent(snapshot, stat),
        };
        let text = |argument: &Vec<u8>| String::from_utf8_lossy(argument).into_owned();
        Some(Match {
            pid: stat.pid,
            start_tick: stat.start_tick,
            // Matched by its real arguments, but reported with secrets masked.
            command: mask_command(&program.argv.iter().map(text).collect::<Vec<_>>()),
            judgement: judge(&matched, &about, self.min_age),
        })
    }

    /// Returns why a process is exempt from a name match, apart from its relatives.
    ///
    /// Unlike for trees, a name match of root examines only root's processes: another user's
    /// processes are that user's responsibility, and a set-uid program belongs to the user that
    /// started it. A token means that some tracker is, or was, responsible for the process, so that
    /// tracker's ledger decides.
    fn exempt_by_itself(&self, pid: Pid) -> Option<String> {
        let Some(status) = self.proc.status(pid).ok().flatten() else {
            return Some("its owner cannot be determined".into());
        };
        let foreign_uid = [status.real_uid, status.effective_uid]
            .into_iter()
            .find(|&uid| uid != self.observer.uid);
        if let Some(uid) = foreign_uid {
            return Some(format!("it belongs to uid {uid}"));
        }
        if status.is_in_nested_namespace() {
            return Some("it runs in its own PID namespace, such as a container".into());
        }
        match self.proc.tokens(pid) {
            None => Some("its environment cannot be read".into()),
            Some(tokens) if tokens.is_empty() => None,
            Some(_) => Some("it carries a token: the ledger that issued it decides".into()),
        }
    }

    /// Returns whether a process is exempt because a task was allowed to keep it: that is not a
    /// leak, whatever its name, and even if its environment was cleared.
    fn exempt_by_ledger(&self, stat: &Stat) -> Option<String> {
        let store = self.store?;
        let since = Millis::now().minus(age(stat.start_tick) + CLOCK_SLACK);
        let kept = Pinned::open(self.proc, self.observer.scope, stat.pid)
            .and_then(|pinned| pinned.map_or(Ok(false), |it| store.was_kept(&it.identity, since)));
        match kept {
            Ok(false) => None,
            Ok(true) => Some("a task was allowed to keep it".into()),
            Err(error) => {
                Some(format!("whether a task was allowed to keep it cannot be determined: {error}"))
            }
        }
    }

    /// Returns why a match is doubtful: a program that also has a protected name is only reported,
    /// since the two options contradict each other.
    fn doubt(&self, pid: Pid, program: &Program) -> Option<String> {
        if let Some(other) = matched(program, self.protected) {
            return Some(SpareReason::Protected(other.named).to_string());
        }
        let is_service = self.proc.is_started_by_systemd(pid);
        is_service.then(|| "systemd started it as a service".into())
    }

    fn parent(&self, snapshot: &Snapshot, stat: &Stat) -> Parent {
        let Some(parent) = Pid::new(i64::from(stat.parent)) else { return Parent::Outside };
        if parent.get() == 1 {
            return Parent::Init;
        }
        let Some(parent) = snapshot.get(parent) else { return Parent::Hidden(stat.parent) };
        let executable = self.proc.executable(parent.pid);
        let name = executable.as_deref().map_or(parent.comm.as_slice(), base_name);
        Parent::Alive(parent.pid, String::from_utf8_lossy(name).into_owned())
    }

    /// Pins a match, if it is still the process that was found and still a leak: it may have
    /// executed another program.
    fn pin(&self, found: &Match) -> Result<Option<Pinned>> {
        let Some(pinned) = Pinned::open(self.proc, self.observer.scope, found.pid)? else {
            return Ok(None);
        };
        let again = self.judge_one(found.pid)?;
        let same = again.is_some_and(|again| {
            again.start_tick == found.start_tick && again.judgement == found.judgement
        });
        Ok((same && pinned.stat.start_tick == found.start_tick).then_some(pinned))
    }

    /// Returns the row for a match.
    fn row(
        &self,
        owner: InstanceId,
        task: Option<TaskId>,
        origin: Origin,
        grace: Duration,
        pinned: &Pinned,
        arguments: bool,
    ) -> Result<NewProcess> {
        let limits = Limits::with_grace(grace);
        let uid = pinned.uid(self.proc)?.unwrap_or(self.observer.uid);
        Ok(NewProcess {
            spec: ProcessSpec {
                task_id: task,
                command: command_of(self.proc, pinned.pid(), arguments),
                started_at: Millis::now().minus(age(pinned.stat.start_tick)).into(),
                ..ProcessSpec::new(owner, origin, pinned.identity, uid, limits)
            },
            claimed: true,
            peak_rss: Some(pinned.stat.rss_bytes),
            cpu: Some(cpu_time(&pinned.stat)),
            allow_survivor: true,
        })
    }

    /// Returns the tree of a match, for a dry run: no row is created.
    pub(in crate::tracker) fn tree(&self, found: &Match) -> Result<Option<Root>> {
        let Some(pinned) = self.pin(found)? else { return Ok(None) };
        let new = self.row(InstanceId(0), None, Origin::Swept, Duration::ZERO, &pinned, true)?;
        Ok(Some(Root::recorded(ProcessId(0), &new.spec, true)))
    }
}

pub(in crate::tracker) fn search<'a>(
    core: &'a Core,
    names: &'a [String],
    min_age: Duration,
) -> Result<Search<'a>> {
    Ok(Search {
        proc: &core.proc,
        observer: core.instance.observer,
        own: core.own_pid(),
        store: Some(&core.store),
        names,
        protected: &core.options.protected,
        min_age,
        accounted_for: accounted_for(&core.store, core.pid_scope(), &HashSet::new())?,
    })
}

/// Ends the processes that match a configured name, as part of an orphan pass; returns the results
/// to write and to report.
pub(in crate::tracker) fn end_matches(core: &Arc<Core>) -> Conclusion {
    if core.options.orphan_names.is_empty() {
        return Conclusion::default();
    }
    let found = search(core, &core.options.orphan_names, core.options.min_age)
        .and_then(|search| Ok((search.run()?, search)));
    let (matches, search) = match found {
        Ok(found) => found,
        Err(error) => return Conclusion::failed(&error),
    };
    let mut all = Conclusion::default();
    for found in matches {
        match found.judgement {
            Judgement::Leak(ref named) => {
                let cause = Cause {
                    reason: EndReason::Unregistered,
                    leak: Some(LeakKind::Unregistered),
                    rule: Rule::NameMatch(named.clone()),
                };
                let ended = end_found(core, &search, &cause, None, Origin::Swept, &found);
                all.absorb(ended.unwrap_or_else(|error| Conclusion::failed(&error)));
            }
            Judgement::Suspect(_) | Judgement::Young(_) => all.report.absorb(leave(found)),
            Judgement::Spared(_) => {}
        }
    }
    all
}

/// Records an unregistered process, claimed by us, and ends its tree.
pub(in crate::tracker) fn end_found(
    core: &Arc<Core>,
    search: &Search<'_>,
    cause: &Cause,
    task: Option<TaskId>,
    origin: Origin,
    found: &Match,
) -> Result<Conclusion> {
    let Some(pinned) = search.pin(found)? else { return Ok(Conclusion::default()) };
    let (grace, arguments) = (core.options.grace, core.options.record_arguments);
    let new = search.row(core.instance.id, task, origin, grace, &pinned, arguments)?;
    let row = match core.store.insert_one(&core.pid_scope(), &new) {
        Err(error) if error.is_already_running() => return Ok(Conclusion::default()),
        row => row?,
    };
    let record: Option<ProcessRecord> = core.store.process(row)?;
    Ok(claimed_trees::end_claimed(core, cause, record.into_iter().collect()))
}

/// Returns the report of a match that is left running.
pub(in crate::tracker) fn leave(found: Match) -> Report {
    let mut report = Report::default();
    let Match { pid, command, .. } = found;
    let left = |why| Suspect { task_id: None, pid, command, why };
    match found.judgement {
        Judgement::Suspect(why) => {
            report.checked += 1;
            report.suspects.push(left(why));
        }
        Judgement::Young(why) => report.young.push(left(why)),
        Judgement::Leak(_) | Judgement::Spared(_) => {}
    }
    report
}

/// Returns the processes in the ledger: instances that have not stopped and are not `dead`, and
/// live rows of any state. Those of another PID scope are left out, since their PIDs are
/// meaningless here: PID 1 of a container would exempt everything.
pub(in crate::tracker) fn accounted_for(
    store: &Store,
    here: PidScope,
    dead: &HashSet<InstanceId>,
) -> Result<HashSet<Pid>> {
    let instances = store.instances_to_check()?;
    let living = instances
        .iter()
        .filter(|instance| instance.stopped_at.is_none() && !dead.contains(&instance.id))
        .filter(|instance| instance.identity.scope == here);
    let mut rows = store.live()?;
    rows.retain(|row| row.spec.identity.scope == here);
    Ok(living
        .map(|instance| instance.identity.pid)
        .chain(rows.iter().map(ProcessRecord::pid))
        .collect())
}
