//! The identity of a process.
//!
//! A pid alone is reused by the kernel. An [`Identity`] has five parts: the boot, the PID
//! namespace, the pid, the start tick and the inode of the pidfd. Comparing two of them has one of
//! three results ([`Sameness`]), and a signal is only ever sent after [`Sameness::Same`].
//!
//! Where each part comes from:
//!
//! - boot: `/proc/sys/kernel/random/boot_id` (`proc_sys_kernel(5)`), one random UUID for each boot;
//! - PID namespace: inode of `/proc/self/ns/pid` (namespaces(7));
//! - boottime offset: `/proc/self/timens_offsets` (`time_namespaces(7)`); it shifts field 22 of
//!   every `stat` that is read;
//! - start tick: field 22 of `/proc/PID/stat` (`proc_pid_stat(5)`), in clock ticks since boot,
//!   10 ms each. It is compared as it is: wall time is stepped by NTP, ticks are not;
//! - pidfd inode: `fstat` on a pidfd, unique for the boot since pidfs (Linux 6.9). Two processes
//!   may share pid *and* tick when a pid is reused within one tick; the inode still differs.

use std::{fmt, num::NonZeroU32};

use uuid::Uuid;

/// Inode of the initial PID namespace: `PROC_PID_INIT_INO` in the kernel's
/// `include/linux/proc_ns.h`.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// A process number that may identify a process: greater than 0, and at most `i32::MAX`.
///
/// Zero and negative numbers mean "my process group" and "everything" to kill(2); they cannot be
/// expressed here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Pid(NonZeroU32);

impl Pid {
    /// Returns `None` unless `1 <= raw <= i32::MAX`.
    ///
    /// ```
    /// use procledger::Pid;
    /// assert_eq!(Pid::new(42).map(Pid::get), Some(42));
    /// assert_eq!(Pid::new(0), None);
    /// assert_eq!(Pid::new(-1), None);
    /// ```
    pub fn new(raw: i64) -> Option<Self> {
        i32::try_from(raw)
            .ok()
            .and_then(|raw| u32::try_from(raw).ok())
            .and_then(NonZeroU32::new)
            .map(Self)
    }

    /// Returns the number, always within `1..=i32::MAX`.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Returns the number in the type that system calls take.
    pub(crate) fn raw(self) -> i32 {
        self.0.get().cast_signed()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pid({})", self.0)
    }
}

/// The scope in which a pid is meaningful: a boot of a machine, a PID namespace and a boottime
/// offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PidScope {
    /// `/etc/machine-id`; `None` if the machine has none.
    pub(crate) machine_id: Option<Uuid>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot_id: Uuid,
    /// Inode of `/proc/self/ns/pid`.
    pub(crate) pid_namespace: u64,
    /// Nanoseconds that the time namespace adds to the boot clock.
    pub(crate) boottime_offset: i64,
}

/// What an observer can determine about everything recorded in another scope, before checking a
/// single process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The same scope: pids can be looked up.
    Here,
    /// An earlier boot of this machine: everything recorded there is gone.
    Gone,
    /// Another machine, namespace or time offset: nothing can be determined.
    Elsewhere,
}

impl PidScope {
    /// Reports whether this is the initial PID namespace of its machine, from which all others can
    /// be seen.
    pub(crate) fn is_initial(&self) -> bool {
        self.pid_namespace == INITIAL_PID_NAMESPACE
    }

    /// Returns what an observer at `self` can determine about processes recorded at `recorded`.
    ///
    /// An equal boot id proves the same boot of the same machine. A different one proves a reboot
    /// only when the machine ids agree and the observer is in the initial PID namespace: containers
    /// share their host's kernel but have whatever machine id their image has.
    pub(crate) fn reach(&self, recorded: &Self) -> Reach {
        if self.boot_id == recorded.boot_id {
            let same = self.pid_namespace == recorded.pid_namespace
                && self.boottime_offset == recorded.boottime_offset;
            return if same { Reach::Here } else { Reach::Elsewhere };
        }
        let same_machine = self.machine_id.is_some() && self.machine_id == recorded.machine_id;
        if same_machine && self.is_initial() { Reach::Gone } else { Reach::Elsewhere }
    }
}

/// Whether two identities denote the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sameness {
    /// The same process.
    Same,
    /// Certainly another process, so the recorded one is gone.
    Different,
    /// It cannot be determined from here. Neither dead nor a leak: leave it alone.
    Unknown,
}

/// Identifies a process: PID scope, pid, start tick and pidfd inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The boot and the namespaces in which the pid is meaningful.
    pub(crate) scope: PidScope,
    /// The process number in that scope.
    pub pid: Pid,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot, raw.
    pub start_tick: u64,
    /// Inode of a pidfd to it; `None` before pidfs (Linux 6.9).
    pub pidfd_inode: Option<u64>,
}

impl Identity {
    /// Determines whether the process observed now is the one that was recorded as `self`.
    ///
    /// Every part that both sides have must agree. A recorded inode that can no longer be observed
    /// makes the result unknown: within one boot the kernel does not lose pidfs, so something hides
    /// it from us.
    pub(crate) fn sameness(&self, observed: &Self) -> Sameness {
        match observed.scope.reach(&self.scope) {
            Reach::Elsewhere => return Sameness::Unknown,
            Reach::Gone => return Sameness::Different,
            Reach::Here => {}
        }
        if self.pid != observed.pid || self.start_tick != observed.start_tick {
            return Sameness::Different;
        }
        match (self.pidfd_inode, observed.pidfd_inode) {
            (Some(recorded), Some(now)) if recorded == now => Sameness::Same,
            (Some(_), Some(_)) => Sameness::Different,
            (Some(_), None) => Sameness::Unknown,
            (None, _) => Sameness::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope() -> PidScope {
        PidScope {
            machine_id: Some(Uuid::from_u128(1)),
            boot_id: Uuid::from_u128(2),
            pid_namespace: INITIAL_PID_NAMESPACE,
            boottime_offset: 0,
        }
    }

    fn identity() -> Identity {
        Identity {
            scope: scope(),
            pid: Pid::new(7).expect("valid"),
            start_tick: 100,
            pidfd_inode: Some(55),
        }
    }

    #[test]
    fn a_pid_is_positive_and_fits_the_kernels_type() {
        assert!(Pid::new(1).is_some());
        assert!(Pid::new(i64::from(i32::MAX)).is_some());
        for bad in [0, -1, i64::MIN, i64::from(i32::MAX) + 1, i64::MAX] {
            assert_eq!(Pid::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn all_parts_equal_is_the_same_process() {
        assert_eq!(identity().sameness(&identity()), Sameness::Same);
    }

    #[test]
    fn a_pid_reused_within_one_tick_differs_by_its_inode() {
        let reused = Identity { pidfd_inode: Some(56), ..identity() };
        assert_eq!(identity().sameness(&reused), Sameness::Different);
    }

    #[test]
    fn without_pidfs_the_tick_decides() {
        let old = Identity { pidfd_inode: None, ..identity() };
        assert_eq!(old.sameness(&identity()), Sameness::Same);
        assert_eq!(old.sameness(&Identity { start_tick: 101, ..identity() }), Sameness::Different);
    }

    #[test]
    fn an_inode_that_cannot_be_observed_any_more_is_unknown() {
        let blind = Identity { pidfd_inode: None, ..identity() };
        assert_eq!(identity().sameness(&blind), Sameness::Unknown);
    }

    #[test]
    fn another_boot_of_this_machine_is_gone_only_from_the_initial_namespace() {
        let rebooted = PidScope { boot_id: Uuid::from_u128(3), ..scope() };
        assert_eq!(rebooted.reach(&scope()), Reach::Gone);
        let contained = PidScope { pid_namespace: 4_026_532_000, ..rebooted };
        assert_eq!(contained.reach(&scope()), Reach::Elsewhere);
        let elsewhere = PidScope { machine_id: Some(Uuid::from_u128(9)), ..rebooted };
        assert_eq!(elsewhere.reach(&scope()), Reach::Elsewhere);
        let nameless = PidScope { machine_id: None, ..rebooted };
        assert_eq!(nameless.reach(&PidScope { machine_id: None, ..scope() }), Reach::Elsewhere);
    }

    prop_compose! {
        /// Few values, so that parts agree as often as they differ.
        fn any_identity()(
            machine in prop::option::of(1..3_u128),
            (boot, namespace) in (1..3_u128, prop::sample::select(vec![INITIAL_PID_NAMESPACE, 5])),
            offset in 0..2_i64,
            (pid, start_tick) in (1..3_i64, 1..3_u64),
            pidfd_inode in prop::option::of(1..3_u64),
        ) -> Identity {
            let scope = PidScope {
                machine_id: machine.map(Uuid::from_u128),
                boot_id: Uuid::from_u128(boot),
                pid_namespace: namespace,
                boottime_offset: offset,
            };
            Identity { scope, pid: Pid::new(pid).expect("valid"), start_tick, pidfd_inode }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_differs_is_ever_the_same(recorded in any_identity(), observed in any_identity()) {
            if recorded.sameness(&observed) == Sameness::Same {
                let without = |identity: &Identity| Identity {
                    scope: PidScope { machine_id: None, ..identity.scope },
                    pidfd_inode: None,
                    ..*identity
                };
                prop_assert_eq!(without(&recorded), without(&observed));
                let inode = recorded.pidfd_inode;
                prop_assert!(inode.is_none() || inode == observed.pidfd_inode);
            }
            prop_assert_eq!(recorded.sameness(&recorded), Sameness::Same);
        }

        #[test]
        fn different_is_returned_only_for_observable_processes(recorded in any_identity(), observed in any_identity()) {
            let reach = observed.scope.reach(&recorded.scope);
            let sameness = recorded.sameness(&observed);
            prop_assert_eq!(reach == Reach::Elsewhere, sameness == Sameness::Unknown && reach != Reach::Here);
            if reach == Reach::Here && sameness == Sameness::Different {
                let seen = |identity: &Identity| (identity.pid, identity.start_tick);
                let inodes = recorded.pidfd_inode.zip(observed.pidfd_inode);
                prop_assert!(seen(&recorded) != seen(&observed) || inodes.is_some_and(|(a, b)| a != b));
            }
        }

        #[test]
        fn a_process_that_is_the_same_twice_is_one(a in any_identity(), b in any_identity(), c in any_identity()) {
            // With a record without an inode two processes of one tick look alike: hence pidfs.
            let b = Identity { pidfd_inode: b.pidfd_inode.or(Some(1)), ..b };
            if a.sameness(&b) == Sameness::Same && b.sameness(&c) == Sameness::Same {
                prop_assert_eq!(a.sameness(&c), Sameness::Same);
            }
        }
    }

    #[test]
    fn another_namespace_or_time_offset_is_unknown() {
        for elsewhere in
            [PidScope { pid_namespace: 5, ..scope() }, PidScope { boottime_offset: 1, ..scope() }]
        {
            let observed = Identity { scope: elsewhere, ..identity() };
            assert_eq!(identity().sameness(&observed), Sameness::Unknown);
        }
    }
}
