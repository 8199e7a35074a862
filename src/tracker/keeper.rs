//! The main function of a keeper, and the loop in which it waits for its host, its program and
//! their descendants.
//!
//! It starts the program through the same gate as a host, but the host commits the row. Then it
//! reaps every process that is reparented to it, and reports the program's end to the host.
//!
//! When the host is gone it ends all processes below it, by the same procedure as a tracker, and
//! leaves a record of them beside the ledger. It spares a host of the same ledger that one of the
//! tree's processes started and that was reparented to the keeper (invariant 13). Such a host is
//! recognized by the signed lock that it holds. While it is below the keeper, being below the
//! keeper proves nothing, and only processes that belong to the tree by other evidence are ended.
//! The new host is responsible for the rest, and reaps the rows of the old one.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use super::{
    end::run::{EndContext, Exemptions, MemberOutcome, TreeTarget, end_trees},
    membership::process_info::ProcessInfo,
    runtime::{
        keeper_end_log::{EndLogWriter, Fate, end_log_path},
        liveness::lock_prefix,
        tracked::{CompactCommand, Root},
    },
};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, PidScope},
    model::{
        Containment, Evidence, ExitStatus, Limits, Millis, Observer, Origin, Outcome, ProcessId,
    },
    policy::exemption::Foreign,
    sys::{
        Pinned, Proc, current_pid_scope,
        keeper::{
            FromHost, FromKeeper, KeeperServer, Reaped, SpawnRequest, Wake, block_all_signals,
            hosts_below, ignore_dead_children, reap_one,
        },
        proc::{age, cpu_time},
        spawn::{Command, GatedChild, gate::GATE_LIMIT, spawn},
    },
};

/// Exit code of a keeper that was not started by a host.
const USAGE: u8 = 2;
/// How often ending a tree that keeps forking is attempted; from the second attempt on without a
/// grace.
const ROUNDS: u32 = 20;

/// Runs a keeper: keeps one program until no process is left below this one. This is the whole
/// `main` of a keeper.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If a host has started us, this is not read, since our output is /dev/null.
            eprintln!("procledger-keeper: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn serve() -> Result<()> {
    let Some((server, command)) = KeeperServer::take()? else { return Ok(()) };
    let (proc, scope) = (Proc::open()?, current_pid_scope()?);
    let own = own_identity(&proc, scope)?;
    let keeper = Keeper { server, proc, scope, own };
    if let Some(program) = keeper.start(command) {
        // The thread that waited for the host has ended, so libc no longer needs its internal
        // signals.
        block_all_signals();
        // Do not keep the host's working directory in use.
        let _ = std::env::set_current_dir("/");
        keeper.watch(&program);
    }
    Ok(())
}

fn own_identity(proc: &Proc, scope: PidScope) -> Result<Identity> {
    let unseen = || Error::new(Kind::Unknown, "this process cannot see itself in `/proc`");
    let pid = Pid::new(i64::from(std::process::id())).ok_or_else(unseen)?;
    Ok(Pinned::open(proc, scope, pid)?.ok_or_else(unseen)?.identity)
}

struct Keeper {
    server: KeeperServer,
    proc: Proc,
    scope: PidScope,
    /// This process.
    own: Identity,
}

impl Keeper {
    /// Starts the program if the host commits its row; `None` if it did not run, of which the host
    /// knows the reason.
    fn start(&self, command: Command) -> Option<Identity> {
        let (message, program) = match spawn(command, |child| self.ask_host(child)) {
            Ok(spawned) => (FromKeeper::Started, Some(spawned.committed)),
            Err(refusal) => {
                let errno = refusal.error.raw_os_error().unwrap_or(0);
                (FromKeeper::Failed { step: refusal.step, errno }, None)
            }
        };
        // A host that does not receive this is gone, which the watch detects.
        let _ = self.server.transport.send_to_host(message, &[], GATE_LIMIT);
        program
    }

    /// Reports the child at the gate to the host, and waits until the host has committed its row.
    fn ask_host(&self, child: &GatedChild) -> Result<Identity> {
        let lost = || Error::new(Kind::NotStarted, "the child was killed before it ran");
        let pinned = Pinned::identify(&self.proc, self.scope, child.pid, Arc::clone(&child.pidfd))?
            .ok_or_else(lost)?;
        let rights = [std::os::fd::AsFd::as_fd(pinned.fd())];
        self.server.transport.send_to_host(FromKeeper::Child(child.pid), &rights, GATE_LIMIT)?;
        loop {
            match self.server.wait() {
                Wake::Word(FromHost::Go) => return Ok(pinned.identity),
                // Only the child itself can have ended, which the code that created it detects.
                Wake::Children => {}
                Wake::Word(FromHost::Refuse | FromHost::Leave) | Wake::HostGone => {
                    return Err(Error::new(Kind::NotStarted, "the host refused"));
                }
            }
        }
    }

    /// Reaps children and reports the program's end. Returns when no process is left below, or when
    /// the host requests it or is gone.
    fn watch(&self, program: &Identity) {
        let mut status = None;
        loop {
            match reap_one() {
                Reaped::NoChild => {
                    // The host may have died before it could record the status.
                    if status.is_some() && self.server.is_host_dead() {
                        self.end_log(status);
                    }
                    return;
                }
                Reaped::Dead(pid, death) => {
                    if pid == program.pid && status.is_none() {
                        status = Some(death.status);
                        let message = FromKeeper::Ended(death);
                        let _ = self.server.transport.send_to_host(message, &[], GATE_LIMIT);
                    }
                    continue;
                }
                Reaped::Living => {}
            }
            match self.server.wait() {
                Wake::Word(FromHost::Leave) => return,
                Wake::HostGone => return self.end(program, status),
                Wake::Word(FromHost::Go | FromHost::Refuse) | Wake::Children => {}
            }
        }
    }

    fn end_log(&self, status: Option<ExitStatus>) -> EndLogWriter {
        let params = &self.server.request.params;
        let path = end_log_path(&params.ledger, params.token);
        EndLogWriter::create(&path, params.token, Millis::now(), status)
    }

    /// Ends the processes below, and leaves a record of them beside the ledger. Those that cannot
    /// be ended are left to the next instance.
    fn end(&self, program: &Identity, mut status: Option<ExitStatus>) {
        ignore_dead_children();
        while let Reaped::Dead(pid, death) = reap_one() {
            if pid == program.pid {
                status.get_or_insert(death.status);
            }
        }
        let mut log = self.end_log(status);
        let root = status.is_none().then(|| self.describe_root(program)).flatten();
        if let Some(root) = &root {
            log.member(root);
        }
        let mut logged: HashSet<Identity> = root.iter().map(|root| root.identity).collect();
        let protected: Vec<String> = (self.server.request.params.protected.iter())
            .map(|name| name.to_string_lossy().into())
            .collect();
        let context = self.context(&protected);
        let mut tree = self.tree(program);
        for _ in 0..ROUNDS {
            let ends = end_trees(&context, vec![tree.clone()], &mut |_, found| {
                for member in found {
                    log.member(member);
                    logged.insert(member.identity);
                }
                HashMap::new()
            });
            let members = || ends.iter().flat_map(|end| &end.members);
            // Logged once for each: in the next round it is gone.
            for member in members().filter(|member| logged.remove(&member.info.identity)) {
                let (outcome, died_after) = (member.fate.outcome(), member.fate.died_after());
                let (status, stop_signal) = (member.status, member.ended_by());
                let fate = Fate { outcome, status, died_after, stop_signal };
                log.fate(&member.info.identity, &fate);
            }
            while let Reaped::Dead(..) = reap_one() {}
            let stays = |member: &&MemberOutcome| {
                matches!(member.fate.outcome(), Outcome::Survived | Outcome::Kept)
            };
            let left: HashSet<Pid> =
                members().filter(stays).map(|member| member.info.identity.pid).collect();
            let own = self.own.pid;
            // While a host is below, being below this process proves nothing.
            let is_done = !context.foreign.is_empty()
                || self.proc.has_other_children(own, |pid| left.contains(&pid)) != Some(true);
            if is_done {
                return;
            }
            tree.root.limits.grace = Duration::ZERO;
        }
    }

    fn context<'a>(&'a self, protected: &'a [String]) -> EndContext<'a> {
        let params = &self.server.request.params;
        let snapshot = self.proc.snapshot().unwrap_or_default();
        let prefix = params.ledger.with_file_name(lock_prefix(&params.ledger));
        let hosts = hosts_below(&self.proc, self.scope, &snapshot, self.own.pid, &prefix);
        let foreign = hosts.into_iter().map(|instance| Foreign {
            instance,
            processes: snapshot.below(instance).into_iter().collect(),
        });
        EndContext {
            proc: &self.proc,
            observer: Observer { scope: self.scope, uid: params.uid },
            own: self.own.pid,
            ancestors: self.proc.ancestors(self.own.pid),
            foreign: foreign.collect(),
            protected,
        }
    }

    /// Returns the tree, which begins with the children of this process.
    fn tree(&self, program: &Identity) -> TreeTarget {
        let SpawnRequest { params, attributes, .. } = &self.server.request;
        let root = Root {
            row: ProcessId(0),
            task: None,
            identity: *program,
            token: Some(params.token),
            uid: attributes.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            session: Some(program.pid),
            cgroup: None,
            keeper: Some(self.own),
            origin: Origin::Spawned,
            // All members are below this process, so no other process can belong to the tree.
            containment: Containment::None,
            limits: Limits::with_grace(params.grace),
            end_plan: params.end_plan.clone(),
            command: CompactCommand::default(),
            arguments: params.arguments,
        };
        TreeTarget { root, pidfd: None, recorded: Vec::new(), exemptions: Exemptions::default() }
    }

    /// Returns the program while it is alive.
    fn describe_root(&self, program: &Identity) -> Option<ProcessInfo> {
        let stat = self.proc.stat(program.pid).ok()??;
        Some(ProcessInfo {
            identity: *program,
            evidence: Evidence::Root,
            uid: self.proc.uid(program.pid).ok()??,
            age: age(stat.start_tick),
            rss: stat.rss_bytes,
            cpu: cpu_time(&stat),
            // The command is in its row.
            command: Vec::new(),
        })
    }
}
