//! Descriptors that a program gets from its host under their own numbers.

#![expect(unsafe_code, reason = "descriptors that are known by their numbers")]

use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_getfd};

use crate::error::{Error, Result};

/// Returns the numbers of the descriptors above the standard ones that would stay open if this
/// process executed a program, in ascending order.
pub(crate) fn inheritable() -> Result<Vec<i32>> {
    let failed = |error| Error::os("failed to list the descriptors of this process", error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        numbers.extend(number.filter(|&number| number > 2 && stays_open(number)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Returns the descriptor with this number. If it is closed meanwhile, the system call that uses it
/// fails.
pub(in crate::sys) fn borrowed<'a>(number: i32) -> BorrowedFd<'a> {
    // SAFETY: the number is not negative, and no descriptor is closed or read through it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn stays_open(number: i32) -> bool {
    fcntl_getfd(borrowed(number)).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_descriptors_without_close_on_exec_are_listed() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        let lists = |number| inheritable().expect("/proc").contains(&number);
        assert!(!lists(file.as_raw_fd()));
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).expect("set");
        assert!(lists(file.as_raw_fd()));
    }
}
