//! Detects processes that were adopted after their parent had ended, as far as one snapshot of the
//! machine shows it: Linux keeps no record of a former parent.

use super::name_match::is_reaper;
use crate::{
    identity::Pid,
    sys::snapshot::{Snapshot, Stat},
};

/// Service managers: everything that they start themselves is a service.
const MANAGERS: [&str; 2] = ["systemd", "init"];

/// Returns why a process was certainly or probably adopted by its current parent; `None` if nothing
/// indicates that it was. `name` is the name of the parent's program.
pub(crate) fn adopted(
    snapshot: &Snapshot,
    stat: &Stat,
    parent: &Stat,
    name: &str,
) -> Option<String> {
    let is_gone =
        |leader: u32| Pid::new(i64::from(leader)).is_some_and(|pid| snapshot.get(pid).is_none());
    let by = format!("adopted by process {} ({name})", parent.pid);
    let (pid, session, group) = (stat.pid.get(), stat.session, stat.group);
    // 1. A process inherits its session and can leave it only for a new one of its own, so any
    //    other session is that of a former parent.
    if session != parent.session && session != pid {
        let leader = if is_gone(session) { "whose leader has ended" } else { "not its parent's" };
        return Some(format!("{by}: it is in session {session}, {leader}"));
    }
    // 2. A process that adopts orphans may have started a child itself, in its own session and
    //    group.
    let is_adopter = parent.pid.get() == 1 || is_reaper(name);
    if is_adopter && MANAGERS.contains(&name) {
        Some(format!("{by}, which starts services only"))
    } else if is_adopter && group != parent.group && group != pid && is_gone(group) {
        Some(format!("{by}: the leader of its process group {group} has ended"))
    } else if is_adopter && session != parent.session {
        Some(format!("{by}, or started by it in a session of its own"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::snapshot::tests::stat;

    fn why(process: &Stat, parent: &Stat, name: &str) -> Option<String> {
        let all = Snapshot::new([process.clone(), parent.clone(), stat(99, 1, 99)]);
        adopted(&all, process, parent, name)
    }

    fn in_group(number: u32, parent: u32, session: u32, group: u32) -> Stat {
        Stat { group, ..stat(number, parent, session) }
    }

    #[test]
    fn another_session_than_its_own_and_its_parents_is_a_proof() {
        let ended = why(&stat(20, 5, 7), &stat(5, 1, 5), "agent").expect("adopted");
        assert!(ended.contains("adopted by process 5 (agent)") && ended.contains("has ended"));
        let lives = why(&stat(20, 5, 99), &stat(5, 1, 5), "agent").expect("adopted");
        assert!(lives.ends_with("not its parent's"), "{lives}");
        assert_eq!(why(&stat(20, 5, 5), &stat(5, 1, 5), "agent"), None, "a child");
        assert_eq!(
            why(&stat(20, 5, 20), &stat(5, 1, 5), "agent"),
            None,
            "a child that called setsid"
        );
    }

    #[test]
    fn a_process_that_init_started_is_not_adopted() {
        let init = stat(1, 0, 1);
        assert_eq!(why(&stat(20, 1, 1), &init, "tini"), None, "its program");
        assert_eq!(why(&in_group(20, 1, 1, 20), &init, "tini"), None, "in a group of its own");
        let left = why(&in_group(20, 1, 1, 7), &init, "tini").expect("adopted");
        assert!(left.contains("process group 7"), "{left}");
        let daemon = why(&stat(20, 1, 20), &init, "node").expect("perhaps");
        assert!(daemon.contains("or started by it"), "{daemon}");
        assert!(why(&stat(20, 1, 20), &init, "systemd").expect("adopted").contains("services"));
    }

    #[test]
    fn a_users_manager_adopts_too_and_other_programs_do_not() {
        assert!(why(&stat(20, 5, 20), &stat(5, 1, 5), "systemd").is_some());
        assert_eq!(why(&in_group(20, 5, 5, 7), &stat(5, 1, 5), "bash"), None);
    }
}
