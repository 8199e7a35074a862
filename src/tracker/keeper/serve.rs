//! The keeper itself.
//!
//! It starts the program behind the same gate as a host does, but asks the host to commit the row. Then it reaps whatever is reparented to it, and tells the host of the program's end.
//!
//! When the host is gone it ends all that is below it, by the same course as a tracker. But not a host of the same ledger
//! that one of the tree's processes has started and that is nobody's child any more (invariant 13): with such a one below,
//! which is found by the lock that it holds, being below the keeper proves nothing, and only what is the tree's by other
//! evidence is ended. The new host answers for the rest; it reaps the rows of the old one.

use std::{process::ExitCode, sync::Arc};

use super::super::{
    ending::{Leave, Tree, World, end_trees},
    entry::{Root, Words},
};
use crate::{
    error::{Error, Kind, Result},
    identity::{Identity, Pid, Place},
    os::{
        Pinned, Proc, current_place,
        keeper::{
            FromHost, FromKeeper, Reaped, Seat, Wake, block_all_signals, ignore_dead_children,
            instances_below, reap_one,
        },
        spawn::{Child, Command, gate::GATE_LIMIT, spawn},
    },
    record::{Containment, Limits, Observer, Origin, ProcessId},
};

/// Exit code for a keeper that nobody asked.
const USAGE: u8 = 2;

/// Keeps one program, until nothing is left below this process: the whole of the keeper's `main`.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads it where a host has started us: our output is /dev/null then.
            eprintln!("procledger-keeper: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn serve() -> Result<()> {
    let Some((seat, command)) = Seat::take()? else { return Ok(()) };
    let keeper = Keeper { proc: Proc::open()?, place: current_place()?, own: own_pid()?, seat };
    if let Some(program) = keeper.start(command) {
        // The thread that asked the host is gone: libc has no use for its own signals any more.
        block_all_signals();
        // Whatever folder the host was in is not held by us.
        let _ = std::env::set_current_dir("/");
        keeper.watch(&program);
    }
    Ok(())
}

fn own_pid() -> Result<Pid> {
    Pid::new(i64::from(std::process::id()))
        .ok_or_else(|| Error::new(Kind::Unknown, "this process has no number"))
}

struct Keeper {
    seat: Seat,
    proc: Proc,
    place: Place,
    own: Pid,
}

impl Keeper {
    /// Starts the program, if the host commits its row; `None` where it did not run, and the host knows why.
    fn start(&self, command: Command) -> Option<Identity> {
        let (word, program) = match spawn(command, |child| self.ask_host(child)) {
            Ok(spawned) => (FromKeeper::Started, Some(spawned.committed)),
            Err(refusal) => {
                let errno = refusal.error.raw_os_error().unwrap_or(0);
                (FromKeeper::Failed { step: refusal.step, errno }, None)
            }
        };
        // A host that does not hear it is gone: the watch sees that.
        let _ = self.seat.channel.tell_host(word, &[], GATE_LIMIT);
        program
    }

    /// Asks the host about the child at the gate.
    fn ask_host(&self, child: &Child) -> Result<Identity> {
        let lost = || Error::new(Kind::NotStarted, "the child was killed before it ran");
        let pinned = Pinned::identify(&self.proc, self.place, child.pid, Arc::clone(&child.pidfd))?
            .ok_or_else(lost)?;
        let rights = [std::os::fd::AsFd::as_fd(pinned.fd())];
        self.seat.channel.tell_host(FromKeeper::Child(child.pid), &rights, GATE_LIMIT)?;
        loop {
            match self.seat.wait() {
                Wake::Word(FromHost::Go) => return Ok(pinned.identity),
                // The child itself, if anyone: whoever made it learns that.
                Wake::Children => {}
                Wake::Word(FromHost::Refuse | FromHost::Leave) | Wake::HostGone => {
                    return Err(Error::new(Kind::NotStarted, "the host refused"));
                }
            }
        }
    }

    /// Reaps, tells of the program's end, and goes when nobody is left, or its host says so, or is gone.
    fn watch(&self, program: &Identity) {
        let mut told = false;
        loop {
            match reap_one() {
                Reaped::Nobody => return,
                Reaped::Dead(pid, status) => {
                    if pid == program.pid && !told {
                        told = true;
                        let word = FromKeeper::Ended(status);
                        let _ = self.seat.channel.tell_host(word, &[], GATE_LIMIT);
                    }
                    continue;
                }
                Reaped::Living => {}
            }
            match self.seat.wait() {
                Wake::Word(FromHost::Leave) => return,
                Wake::HostGone => return self.end(program),
                Wake::Word(FromHost::Go | FromHost::Refuse) | Wake::Children => {}
            }
        }
    }

    /// Ends what is below. What cannot be ended is left to whoever reaps the ledger: a keeper without a host has nobody to
    /// tell.
    fn end(&self, program: &Identity) {
        ignore_dead_children();
        while let Reaped::Dead(..) = reap_one() {}
        let errand = &self.seat.errand;
        let snapshot = self.proc.snapshot().unwrap_or_default();
        let instances = instances_below(&snapshot, self.own, &errand.lock_prefix).into_iter();
        let guards = instances.map(|pid| (pid, snapshot.below(pid).into_iter().collect()));
        let protected: Vec<String> =
            errand.protected.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let world = World {
            proc: &self.proc,
            observer: Observer { place: self.place, uid: errand.uid },
            own: self.own,
            ancestors: self.proc.ancestors(self.own),
            guards: guards.collect(),
            protected: &protected,
        };
        let root = Root {
            row: ProcessId(0),
            task: None,
            identity: *program,
            token: Some(errand.token),
            uid: rustix::process::geteuid().as_raw(),
            session: Some(program.pid),
            cgroup: None,
            origin: Origin::Spawned,
            // All of it is below this process: nothing else may belong to it.
            containment: Containment::None,
            limits: Limits {
                survive: false,
                grace: errand.grace,
                max_runtime: None,
                max_rss: None,
            },
            command: Words::default(),
            // It records nothing.
            arguments: false,
        };
        let tree = Tree { root, pidfd: None, recorded: Vec::new(), leave: Leave::default() };
        end_trees(&world, vec![tree], &mut |_, found| vec![None; found.len()]);
        while let Reaped::Dead(..) = reap_one() {}
    }
}
