//! Determines how much memory the members of a tree use.

use crate::{identity::Pid, policy::limits::TreeMemory, tracker::core::Core};

/// A member of a tree: its PID and start tick.
pub(in crate::tracker) type Member = (Pid, u64);

/// Returns how much memory some members use; the proportional values only if the cheap ones are
/// over the limit.
pub(in crate::tracker) fn tree_memory(core: &Core, limit: u64, members: &[Member]) -> TreeMemory {
    let mut memory = TreeMemory::default();
    for (pid, _) in members {
        if let Ok(Some(one)) = core.proc.memory(*pid) {
            memory.resident =
                memory.resident.saturating_add(one.resident).saturating_add(one.swapped);
        }
    }
    if memory.resident > limit {
        let each = members.iter().map(|member| proportional(core, *member));
        memory.proportional = Some(each.fold(0, u64::saturating_add));
    }
    memory
}

fn proportional(core: &Core, (pid, start_tick): Member) -> u64 {
    let read = core.proc.proportional(pid);
    // Checked afterwards: a process that has the PID and the start tick now had them while it was
    // read.
    let same = core.proc.stat(pid).is_ok_and(|stat| {
        stat.is_some_and(|stat| stat.start_tick == start_tick && !stat.is_zombie())
    });
    let uid = core.proc.uid(pid).ok().flatten();
    if !same || !uid.is_some_and(|uid| core.instance.observer.may_touch(uid)) {
        return 0;
    }
    if let Ok(Some(bytes)) = read {
        return bytes;
    }
    // The process is not dumpable, or the kernel has no proportional values.
    let memory = core.proc.memory(pid).ok().flatten().unwrap_or_default();
    memory.anonymous.saturating_add(memory.swapped)
}
