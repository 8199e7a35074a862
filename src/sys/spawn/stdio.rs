//! The program's standard descriptors.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::{child::Descriptor, command::StdioSource};
use crate::error::{Error, Result};

pub(in crate::sys) type Pipes = [Option<OwnedFd>; 3];

/// Opens the sources of the child's standard descriptors; the second value keeps them open until the child has them.
pub(in crate::sys) fn prepare_stdio(
    stdio: [StdioSource; 3],
) -> Result<([Descriptor; 3], Pipes, Pipes)> {
    let mut descriptors = [Descriptor::Keep; 3];
    let mut sources = Pipes::default();
    let mut ours = Pipes::default();
    for (target, source) in stdio.into_iter().enumerate() {
        let source = match source {
            StdioSource::Inherit => continue,
            StdioSource::Closed => {
                descriptors[target] = Descriptor::Close;
                continue;
            }
            StdioSource::Null => {
                rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|error| Error::os("failed to open `/dev/null`", error))?
            }
            StdioSource::Piped => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                    .map_err(|error| Error::os("failed to create a pipe", error))?;
                let (theirs, own) = if target == 0 { (read, write) } else { (write, read) };
                ours[target] = Some(above_stdio(own)?);
                theirs
            }
            StdioSource::Fd(fd) => fd,
        };
        let source = above_stdio(source)?;
        descriptors[target] = Descriptor::Copy(source.as_raw_fd());
        sources[target] = Some(source);
    }
    Ok((descriptors, sources, ours))
}

/// Returns a descriptor that is 3 or higher, so that installing one never overwrites another.
fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)
        .map_err(|error| Error::os("failed to duplicate a descriptor", error))
}
