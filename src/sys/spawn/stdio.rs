//! Prepares the program's descriptors.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{Seek, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::{child::Descriptor, command::StdioSource, inherited::borrowed};
use crate::error::{Error, Result};

/// Our ends of the pipes.
pub(in crate::sys) type Pipes = [Option<OwnedFd>; 3];
/// Descriptors that keep the sources open until the child has them.
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
        // Moved out of the way, so that installing one never overwrites another.
        let source =
            if source.as_raw_fd() > 2 { source } else { Arc::new(copy_above(&source, 2)?) };
        descriptors[target] = Descriptor::Copy(source.as_raw_fd());
        sources[target] = Some(source);
    }
    Ok((descriptors, sources, ours))
}

/// Further descriptors, ordered so that none is overwritten before it is installed.
pub(super) struct Further {
    /// Each descriptor, with the number that it gets.
    pub(super) moves: Vec<(i32, i32)>,
    /// The numbers that they get, in ascending order.
    pub(super) numbers: Vec<i32>,
}

/// Returns a file in memory that contains `bytes`, which no process can change any more.
fn file_in_memory(bytes: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let create = || {
        // Kernels before 6.3 do not know the flag, and newer ones may require it
        // (`vm.memfd_noexec`).
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

/// Orders the descriptors that get new numbers and those of the host that keep their numbers. If
/// some exchange their numbers, only one of them is copied, since few further numbers may be
/// available. The second value keeps the copies open until the child has them.
pub(super) fn prepare_fds(
    given: &[(i32, Arc<OwnedFd>)],
    inherited: &[i32],
) -> Result<(Further, Vec<OwnedFd>)> {
    let given = given.iter().map(|(target, fd)| (*target, fd.as_raw_fd()));
    let mut sources: BTreeMap<i32, i32> =
        given.chain(inherited.iter().map(|&number| (number, number))).collect();
    let numbers: Vec<i32> = sources.keys().copied().collect();
    let (mut moves, mut copies) = (Vec::with_capacity(numbers.len()), Vec::new());
    // The standard descriptors are installed first.
    for source in sources.values_mut().filter(|source| **source <= 2) {
        copies.push(copy_apart(*source, &numbers)?);
        *source = copies.last().map_or(-1, AsRawFd::as_raw_fd);
    }
    let mut waiting: HashMap<i32, usize> = HashMap::new();
    for (target, source) in &sources {
        *waiting.entry(*source).or_default() += usize::from(source != target);
    }
    let is_free =
        |waiting: &HashMap<i32, usize>, target: &i32| waiting.get(target).is_none_or(|&n| n == 0);
    let mut ready: Vec<i32> = numbers.iter().copied().filter(|it| is_free(&waiting, it)).collect();
    loop {
        while let Some(target) = ready.pop() {
            let Some(source) = sources.remove(&target) else { continue };
            moves.push((source, target));
            if source == target {
                continue;
            }
            waiting.entry(source).and_modify(|count| *count -= 1);
            // Another descriptor may be waiting for its number.
            if is_free(&waiting, &source) && sources.contains_key(&source) {
                ready.push(source);
            }
        }
        // The rest form cycles: the first of them gives up its number.
        let Some((&target, _)) = sources.first_key_value() else { break };
        let copy = copy_apart(target, &numbers)?;
        for source in sources.values_mut().filter(|source| **source == target) {
            *source = copy.as_raw_fd();
        }
        let users = waiting.insert(target, 0).unwrap_or(0);
        waiting.insert(copy.as_raw_fd(), users);
        copies.push(copy);
        ready.push(target);
    }
    Ok((Further { moves, numbers }, copies))
}

/// Returns a copy whose number is not in `numbers`, which is sorted.
fn copy_apart(fd: i32, numbers: &[i32]) -> Result<OwnedFd> {
    let mut copy = copy_above(borrowed(fd), 2)?;
    while numbers.binary_search(&copy.as_raw_fd()).is_ok() {
        copy = copy_above(borrowed(fd), copy.as_raw_fd())?;
    }
    Ok(copy)
}

fn copy_above(fd: impl AsFd, number: i32) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), number + 1)
        .map_err(|error| Error::os("failed to duplicate a descriptor", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(number: i32) -> u64 {
        rustix::fs::fstat(borrowed(number)).expect("open").st_ino
    }

    /// Moves descriptors, given as pairs of indices; simulates the moves, checks that each number
    /// gets the right descriptor, and returns how many copies were needed.
    fn copies(wanted: &[(usize, usize)]) -> usize {
        let all: Vec<Arc<OwnedFd>> =
            (0..6).map(|_| Arc::new(std::io::pipe().expect("a pipe").0.into())).collect();
        let number = |index: usize| all[index].as_raw_fd();
        let given: Vec<_> =
            wanted.iter().map(|&(from, to)| (number(to), Arc::clone(&all[from]))).collect();
        let (further, copies) = prepare_fds(&given, &[]).expect("prepared");
        let mut table: HashMap<i32, u64> = HashMap::new();
        for (source, target) in &further.moves {
            let content = table.get(source).copied().unwrap_or_else(|| inode(*source));
            table.insert(*target, content);
        }
        for (target, fd) in &given {
            assert_eq!(table[target], inode(fd.as_raw_fd()), "{wanted:?} {:?}", further.moves);
        }
        assert_eq!(table.len(), wanted.len());
        copies.len()
    }

    #[test]
    fn descriptors_are_copied_only_to_break_cycles() {
        assert_eq!(copies(&[]), 0);
        assert_eq!(copies(&[(0, 0), (1, 1)]), 0);
        assert_eq!(copies(&[(0, 1), (1, 2), (2, 3), (3, 4)]), 0);
        assert_eq!(copies(&[(4, 3), (3, 2), (2, 1)]), 0);
        assert_eq!(copies(&[(0, 1), (0, 2), (1, 3)]), 0);
        assert_eq!(copies(&[(0, 1), (1, 0)]), 1);
        assert_eq!(copies(&[(0, 1), (1, 2), (2, 0), (2, 5), (3, 4), (4, 3)]), 2);
    }
}
