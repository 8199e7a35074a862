//! Determines which features this kernel, and the seccomp filters of this process, allow.
//!
//! Each feature is probed with arguments that have no effect.
#![expect(unsafe_code, reason = "system calls that are probed without an effect")]

use std::{os::fd::BorrowedFd, sync::OnceLock};

use rustix::io::Errno;

use super::syscall::syscall;

/// One feature: whether it is available, and the consequence if it is missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    pub(crate) there: bool,
    /// Whether no program can be started without it.
    pub(crate) needed: bool,
    pub(crate) cost: &'static str,
}

/// Probes the features that a spawn and a wait use.
pub(crate) fn probe() -> [Feature; 3] {
    [
        Feature {
            name: "clone3",
            there: clone3(),
            needed: false,
            cost: "an old kernel or a seccomp profile refuses it: clone(2) is used, a little slower",
        },
        Feature {
            name: "close_range",
            there: close_range(),
            needed: true,
            cost: "programs cannot be started: Linux 5.9 or newer is needed, and a seccomp profile that allows it",
        },
        Feature {
            name: "exit codes of others",
            there: kernel_is_at_least(6, 15),
            needed: false,
            cost: "before Linux 6.15 the end of a registered process that is not our child is `unobserved`",
        },
    ]
}

/// Probes clone3(2). If the kernel knows it, it fails with `EINVAL` for a structure that is too
/// small.
fn clone3() -> bool {
    // SAFETY: a null pointer with size 0 is refused before anything is read.
    let result = unsafe { syscall(libc::SYS_clone3, [0; 5]) };
    result == -(libc::EINVAL as isize)
}

/// Probes `close_range(2)` with a number that no descriptor can have.
fn close_range() -> bool {
    let none = u32::MAX as usize;
    // SAFETY: there is no such descriptor, so nothing is closed.
    unsafe { syscall(libc::SYS_close_range, [none, none, 0, 0, 0]) == 0 }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    parse_release(&name.release().to_string_lossy())
        .is_some_and(|release| release >= (major, minor))
}

/// Parses the first two numbers of a release such as `6.18.44-cloud`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `PID_FS_MAGIC` in `linux/magic.h`: since Linux 6.9 a pidfd's inode is unique for the boot.
const PID_FS_MAGIC: i64 = 0x5049_4446;

/// Reports whether the inode of a pidfd distinguishes processes. All pidfds of a kernel are on one
/// file system, so this is determined once.
pub(super) fn is_pidfs(pidfd: BorrowedFd<'_>) -> Result<bool, Errno> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let is = rustix::fs::fstatfs(pidfd)?.f_type == PID_FS_MAGIC;
    Ok(*KNOWN.get_or_init(|| is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.18.44-cloud"), Some((6, 18)));
        assert_eq!(parse_release("5.9"), Some((5, 9)));
        assert_eq!(parse_release("6.9-rc1"), Some((6, 9)));
        assert_eq!(parse_release("nonsense"), None);
        assert!((6, 9) < (6, 15));
    }

    #[test]
    fn probing_opens_and_closes_nothing() {
        let file = std::fs::File::open("/proc/self/stat").expect("/proc");
        assert!(probe().iter().filter(|feature| feature.needed).all(|feature| feature.there));
        assert!(file.metadata().is_ok(), "it is still open");
    }
}
