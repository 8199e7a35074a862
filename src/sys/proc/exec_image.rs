//! Identifies the program image that a process runs.
//!
//! execve(2) keeps the pid, the start tick and the pidfd, and replaces everything else. The
//! auxiliary vector (getauxval(3)) is created anew by each exec, with addresses that the kernel
//! chooses at random, and `/proc/PID/auxv` shows it to any process with read access
//! (`proc_pid_auxv(5)`). Two vectors that differ are two images. Two equal vectors prove nothing:
//! without address randomization (personality(2)) each image of a program may have the same one.

use std::hash::Hasher;

use rustix::fs::{Dir, Mode, OFlags, openat, readlinkat};

use super::{BUFFER, Proc};
use crate::{error::Result, identity::Pid};

/// Maximum size of the vector, which has some 20 entries of two words.
const VECTOR_LIMIT: usize = 4 << 10;

/// Distinguishes one image of a process from another: a digest, so that no address is written
/// anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image(u64);

impl Image {
    /// Parses the digits that [`Display`](std::fmt::Display) writes.
    pub(crate) fn parse(digits: &str) -> Option<Self> {
        u64::from_str_radix(digits, 16).ok().map(Self)
    }

    /// Returns the digest of a vector; `None` for a process between two images, whose vector is not
    /// laid out yet, and for a process without memory.
    #[expect(
        deprecated,
        reason = "the one hasher of std whose algorithm is specified: SipHash 2-4"
    )]
    fn of(vector: &[u8]) -> Option<Self> {
        // Each word may have 4 or 8 bytes; the type of the first entry is never 0, which ends the
        // vector.
        if vector.iter().take(4).all(|&byte| byte == 0) {
            return None;
        }
        let mut hasher = std::hash::SipHasher::new();
        hasher.write(vector);
        Some(Self(hasher.finish()))
    }
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Proc {
    /// Returns the image that a process runs; `None` if it is gone or shows none.
    ///
    /// # Errors
    ///
    /// [`is_denied`](crate::Error::is_denied) if the process may not be read
    /// (`PTRACE_MODE_READ_FSCREDS` in ptrace(2)): it belongs to another user, or is not dumpable.
    pub(crate) fn image(&self, pid: Pid) -> Result<Option<Image>> {
        BUFFER.with_borrow_mut(|buffer| {
            Ok(if self.read(pid, "auxv", buffer, VECTOR_LIMIT)? { Image::of(buffer) } else { None })
        })
    }

    /// Reports whether this process has a file of this name open, removed or not; `None` if its
    /// descriptors cannot be listed.
    pub(crate) fn holds_a_file_named(&self, name: &str) -> Option<bool> {
        // The descriptors of this thread, since the first thread may have ended and would then show
        // none.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.dir, "thread-self/fd", flags, Mode::empty()).ok()?;
        let removed = format!("{name} (deleted)");
        for descriptor in Dir::read_from(&folder).ok()? {
            let descriptor = descriptor.ok()?;
            // A descriptor that was closed meanwhile does not count.
            let Ok(target) = readlinkat(&folder, descriptor.file_name(), Vec::new()) else {
                continue;
            };
            let found = target.to_bytes().rsplit(|&byte| byte == b'/').next();
            if found.is_some_and(|found| found == name.as_bytes() || found == removed.as_bytes()) {
                return Some(true);
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_have_different_images() {
        let proc = Proc::open().expect("/proc");
        let own = Pid::new(i64::from(std::process::id())).expect("a pid");
        let image = proc.image(own).expect("readable").expect("an image");
        assert_eq!(proc.image(own).expect("readable"), Some(image));
        assert_eq!(Image::parse(&image.to_string()), Some(image));
        let parent = Pid::new(i64::from(std::os::unix::process::parent_id())).expect("a pid");
        if let Ok(Some(other)) = proc.image(parent) {
            assert_ne!(other, image);
        }
    }

    #[test]
    fn a_vector_that_is_not_laid_out_yet_is_not_an_image() {
        assert_eq!(Image::of(&[]), None);
        assert_eq!(Image::of(&[0; 16]), None);
        assert!(Image::of(&[33, 0, 0, 0, 0, 0, 0, 0, 1]).is_some());
    }

    #[test]
    fn an_open_file_is_found_by_its_name_even_after_its_removal() {
        let proc = Proc::open().expect("/proc");
        let folder = tempfile::tempdir().expect("a folder");
        let name = format!("x-{}.lock", uuid::Uuid::new_v4().simple());
        assert_eq!(proc.holds_a_file_named(&name), Some(false));
        let file = std::fs::File::create(folder.path().join(&name)).expect("a file");
        assert_eq!(proc.holds_a_file_named(&name), Some(true));
        std::fs::remove_file(folder.path().join(&name)).expect("removed");
        assert_eq!(proc.holds_a_file_named(&name), Some(true));
        drop(file);
        assert_eq!(proc.holds_a_file_named(&name), Some(false));
    }
}
