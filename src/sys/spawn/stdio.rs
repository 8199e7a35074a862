//! The program's descriptors.

use std::{
    fs::File,
    io::{Seek, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::{child::Descriptor, command::StdioSource};
use crate::error::{Error, Result};

/// Our ends of the pipes.
pub(in crate::sys) type Pipes = [Option<OwnedFd>; 3];
/// What keeps the sources open until the child has them.
pub(in crate::sys) type Sources = [Option<Arc<OwnedFd>>; 3];

/// Opens the sources of the child's standard descriptors.
pub(in crate::sys) fn prepare_stdio(
    stdio: [StdioSource; 3],
) -> Result<([Descriptor; 3], Sources, Pipes)> {
    let mut descriptors = [Descriptor::Keep; 3];
    let mut sources = Sources::default();
    let mut ours = Pipes::default();
    for (target, source) in stdio.into_iter().enumerate() {
        let source = match source {
            StdioSource::Inherit => continue,
            StdioSource::Closed => {
                descriptors[target] = Descriptor::Close;
                continue;
            }
            StdioSource::Merge if target == 2 => {
                descriptors[target] = Descriptor::Merge;
                continue;
            }
            StdioSource::Merge => {
                return Err(Error::invalid(
                    "only standard error can be merged, into standard output",
                ));
            }
            StdioSource::Bytes(bytes) => Arc::new(file_in_memory(&bytes)?),
            StdioSource::Null => {
                let null =
                    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
                Arc::new(null.map_err(|error| Error::os("failed to open `/dev/null`", error))?)
            }
            StdioSource::Piped => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(|error| Error::os("failed to create a pipe", error))?;
                let (theirs, own) = if target == 0 { (read, write) } else { (write, read) };
                let own = if own.as_raw_fd() > 2 { own } else { copy_above(&own, 2)? };
                ours[target] = Some(own);
                Arc::new(theirs)
            }
            StdioSource::Fd(fd) => fd,
        };
        // So that installing one never overwrites another.
        let source =
            if source.as_raw_fd() > 2 { source } else { Arc::new(copy_above(&source, 2)?) };
        descriptors[target] = Descriptor::Copy(source.as_raw_fd());
        sources[target] = Some(source);
    }
    Ok((descriptors, sources, ours))
}

/// Copies of the further descriptors, each above all numbers that they get, so that installing one never overwrites another;
/// in the order of those numbers.
pub(super) fn prepare_fds(fds: &[(i32, Arc<OwnedFd>)]) -> Result<Vec<(OwnedFd, i32)>> {
    let highest = fds.iter().map(|(target, _)| *target).max().unwrap_or(0);
    let copy = |(target, fd): &(i32, Arc<OwnedFd>)| Ok((copy_above(fd, highest)?, *target));
    let mut copies = fds.iter().map(copy).collect::<Result<Vec<_>>>()?;
    copies.sort_unstable_by_key(|(_, target)| *target);
    Ok(copies)
}

/// Returns a file in memory that contains `bytes`, which no process can change any more.
fn file_in_memory(bytes: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let create = || {
        // Older kernels than 6.3 do not know the flag, and newer ones may require it (`vm.memfd_noexec`).
        let file = memfd_create(c"stdin", flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create(c"stdin", flags))?;
        let mut file = File::from(file);
        file.write_all(bytes)?;
        file.rewind()?;
        fcntl_add_seals(&file, seals)?;
        Ok(file.into())
    };
    create().map_err(|error: std::io::Error| {
        Error::os("failed to create a file in memory for a program's input", error)
    })
}

fn copy_above(fd: &OwnedFd, number: i32) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), number + 1)
        .map_err(|error| Error::os("failed to duplicate a descriptor", error))
}
