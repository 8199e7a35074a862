//! The name sweep: the seed's `pgrep -f`, without the innocents.
//!
//! Only configured names are looked for, and only what nobody registered is looked at. Exempt are the acting process and
//! its kin, other uids, whatever a ledger's instance answers for or has below it, whatever carries a token, what sits at a
//! terminal, and what is younger than the minimum age.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{ending::command_of, outcome::Cause, shared::Shared};
use crate::{
    error::Result,
    identity::Pid,
    os::{Pinned, Proc, procfs::age},
    plan::{
        members::oneself,
        observe::{Snapshot, Stat},
        sweep::{Candidate, Judgement, Parent, Program, base_name, judge},
    },
    record::{
        Containment, EndReason, LeakKind, Limits, Millis, NewProcess, Observer, Origin,
        ProcessRecord, Report, Settled, Suspect, TaskId,
    },
    state::State,
    store::Store,
};

/// The wall clock may have been set since something was left: what was left before a process began is another one's.
const CLOCK_SLACK: Duration = Duration::from_hours(24);

/// What a sweep looks for, and on whose behalf.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) proc: &'a Proc,
    pub(super) observer: Observer,
    pub(super) own: Pid,
    pub(super) store: &'a Store,
    pub(super) names: &'a [String],
    pub(super) protected: &'a [String],
    pub(super) min_age: Duration,
    /// Instances that live and processes that the ledger has: they and what is below them are exempt.
    pub(super) answered_for: HashSet<Pid>,
}

/// A process that the sweep judged.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) pid: Pid,
    pub(super) start_tick: u64,
    pub(super) command: Vec<String>,
    pub(super) judgement: Judgement,
}

impl Search<'_> {
    /// Every process that matches a name and is not exempt.
    pub(super) fn run(&self) -> Result<Vec<Match>> {
        if self.names.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.proc.snapshot()?;
        let exempt = self.exempt(&snapshot);
        let candidates =
            snapshot.iter().filter(|stat| !exempt.contains(&stat.pid) && !stat.is_kernel_thread());
        let matches: Vec<Match> = candidates
            .filter(|stat| !stat.is_zombie())
            .filter_map(|stat| self.look(&snapshot, stat))
            .collect();
        self.but_kept(matches)
    }

    /// What a task was let keep is no leak, whatever its name and though its environment may be wiped.
    fn but_kept(&self, matches: Vec<Match>) -> Result<Vec<Match>> {
        let mut rest = Vec::with_capacity(matches.len());
        for found in matches {
            if !self.was_kept(&found)? {
                rest.push(found);
            }
        }
        Ok(rest)
    }

    fn was_kept(&self, found: &Match) -> Result<bool> {
        let Some(pinned) = Pinned::open(self.proc, self.observer.place, found.pid)? else {
            return Ok(false);
        };
        let since = Millis::now().minus(age(found.start_tick) + CLOCK_SLACK);
        self.store.was_kept(&pinned.identity, since)
    }

    /// Judges one process by its number; for an entry of a legacy file.
    pub(super) fn judge_one(&self, pid: Pid) -> Result<Option<Match>> {
        let snapshot = self.proc.snapshot()?;
        let exempt = self.exempt(&snapshot);
        let found = snapshot
            .get(pid)
            .filter(|_| !exempt.contains(&pid))
            .and_then(|stat| self.look(&snapshot, stat));
        Ok(self.but_kept(found.into_iter().collect())?.pop())
    }

    fn exempt(&self, snapshot: &Snapshot) -> HashSet<Pid> {
        let mut exempt = oneself(snapshot, self.own);
        for &pid in &self.answered_for {
            exempt.insert(pid);
            exempt.extend(snapshot.below(pid));
        }
        exempt
    }

    fn look(&self, snapshot: &Snapshot, stat: &Stat) -> Option<Match> {
        let argv = self.proc.command(stat.pid).ok()??;
        let candidate = Candidate {
            program: Program { executable: self.proc.executable(stat.pid), argv },
            on_terminal: stat.terminal != 0,
            age: age(stat.start_tick),
            parent: self.parent(snapshot, stat),
        };
        let judgement = judge(&candidate, self.names, self.protected, self.min_age);
        if judgement == Judgement::Nothing
            || !self.is_ours(stat.pid)
            || self.carries_a_token(stat.pid)
        {
            return None;
        }
        let command = candidate
            .program
            .argv
            .iter()
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        Some(Match { pid: stat.pid, start_tick: stat.start_tick, command, judgement })
    }

    /// Unlike in a tree, root's sweep too looks at root's processes alone: another user's are that user's business.
    fn is_ours(&self, pid: Pid) -> bool {
        self.proc.uid(pid).ok().flatten() == Some(self.observer.uid)
    }

    /// Some tracker answers for it, or did: its own ledger decides.
    fn carries_a_token(&self, pid: Pid) -> bool {
        self.proc.tokens(pid).is_none_or(|tokens| !tokens.is_empty())
    }

    fn parent(&self, snapshot: &Snapshot, stat: &Stat) -> Parent {
        let parent = Pid::new(i64::from(stat.parent)).filter(|parent| parent.get() != 1);
        let Some(parent) = parent.and_then(|parent| snapshot.get(parent)) else {
            return Parent::Reaper;
        };
        let executable = self.proc.executable(parent.pid);
        let name = executable.as_deref().map_or(parent.comm.as_slice(), base_name);
        Parent::Alive(parent.pid, String::from_utf8_lossy(name).into_owned())
    }
}

impl Shared {
    pub(super) fn search<'a>(
        &'a self,
        names: &'a [String],
        min_age: Duration,
    ) -> Result<Search<'a>> {
        Ok(Search {
            proc: &self.proc,
            observer: self.observer,
            own: self.own_pid(),
            store: &self.store,
            names,
            protected: &self.options.protected,
            min_age,
            answered_for: answered_for(&self.store, self.place())?,
        })
    }

    /// Ends what matches a configured name, as part of an orphan pass; answers with what there is to write.
    pub(super) fn sweep(self: &Arc<Self>, report: &mut Report) -> Vec<Settled> {
        let matches = self
            .search(&self.options.orphan_names, self.options.min_age)
            .and_then(|search| search.run());
        let matches = match matches {
            Ok(matches) => matches,
            Err(error) => {
                report.errors.push(error.to_string());
                return Vec::new();
            }
        };
        let mut settled = Vec::new();
        for found in matches {
            report.checked += 1;
            match found.judgement {
                Judgement::Leak(ref rule) => {
                    let cause = Cause {
                        reason: EndReason::Unregistered,
                        leak: Some(LeakKind::Unregistered),
                        rule: rule.clone(),
                    };
                    report.checked -= 1;
                    match self.end_found(&cause, None, Origin::Swept, &found, report) {
                        Ok(ended) => settled.extend(ended),
                        Err(error) => report.errors.push(error.to_string()),
                    }
                }
                Judgement::Suspect(why) => report.suspects.push(Suspect {
                    task_id: None,
                    pid: found.pid,
                    command: found.command,
                    why,
                }),
                Judgement::Nothing => {}
            }
        }
        settled
    }

    /// Records a process that nobody had registered, claimed by us, and ends its tree.
    pub(super) fn end_found(
        self: &Arc<Self>,
        cause: &Cause,
        task: Option<TaskId>,
        origin: Origin,
        found: &Match,
        report: &mut Report,
    ) -> Result<Vec<Settled>> {
        let Some(pinned) = Pinned::open(&self.proc, self.place(), found.pid)? else {
            return Ok(Vec::new());
        };
        if pinned.stat.start_tick != found.start_tick {
            return Ok(Vec::new());
        }
        let new = NewProcess {
            task,
            owner: self.instance,
            root: None,
            origin,
            token: None,
            identity: pinned.identity,
            session: None,
            cgroup: None,
            containment: Containment::None,
            command: command_of(&self.proc, found.pid),
            cwd: None,
            uid: self.proc.uid(found.pid)?.unwrap_or(self.observer.uid),
            limits: Limits {
                grace: self.options.grace,
                survive: false,
                max_runtime: None,
                max_rss: None,
            },
            started_at: Millis::now().minus(age(pinned.stat.start_tick)),
            peak_rss: Some(pinned.stat.rss_bytes),
            cpu: Some(crate::os::procfs::cpu_time(&pinned.stat)),
            evidence: None,
            state: State::Ending,
            allow_survivor: true,
        };
        let rows = self.store.admit(&self.place(), &[new])?;
        let Some(Ok(row)) = rows.into_iter().next() else { return Ok(Vec::new()) };
        let record: Option<ProcessRecord> = self.store.process(row)?;
        Ok(self.end_claimed(cause, record.into_iter().collect(), report))
    }
}

/// Whom the ledger knows: instances that have not stopped, and live rows of any state.
/// Pids of another place mean nothing here: that of a container's pid 1 would exempt everything.
pub(super) fn answered_for(store: &Store, here: crate::identity::Place) -> Result<HashSet<Pid>> {
    let instances = store.instances_to_judge()?;
    let living = instances
        .iter()
        .filter(|instance| instance.stopped_at.is_none() && instance.identity.place == here);
    let mut rows = store.live()?;
    rows.retain(|row| row.identity.place == here);
    Ok(living
        .map(|instance| instance.identity.pid)
        .chain(rows.iter().map(|row| row.identity.pid))
        .collect())
}
