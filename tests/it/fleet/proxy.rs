//! A proxy before the database that cuts connections, loses answers, or hangs.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::server::Database;

/// What happens once so many bytes have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ends after this many bytes, whichever way they went.
    Cut(u64),
    /// The connection ends after this many bytes of answers; requests still arrive.
    LoseAnswer(u64),
    /// Nothing passes after this many bytes of answers, the end of the connection neither.
    Hang(u64),
    /// No fault: the bytes are counted.
    None,
}

/// A proxy for one fault.
pub(super) struct Proxy {
    folder: tempfile::TempDir,
    database: String,
    owner: String,
    /// Bytes of requests, then of answers.
    passed: Arc<[AtomicU64; 2]>,
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Proxy {
    pub(super) fn start(database: &Database, fault: Fault) -> Self {
        // Not below TMPDIR: the path of a socket may have 107 bytes.
        let folder = tempfile::Builder::new().prefix("procledger-proxy-").tempdir_in("/tmp");
        let folder = folder.expect("a folder");
        let listener = UnixListener::bind(folder.path().join(SOCKET)).expect("a socket");
        let passed: Arc<[AtomicU64; 2]> = Arc::default();
        let counters = Arc::clone(&passed);
        let behind = database.clone();
        // It ends with the test process.
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                pass(&client, &behind, fault, &counters);
            }
        });
        Self {
            folder,
            database: database.name().to_owned(),
            owner: database.owner().to_owned(),
            passed,
        }
    }

    /// The address of the database behind it.
    pub(super) fn url(&self) -> String {
        let folder = self.folder.path().display();
        format!("postgresql:///{}?host={folder}&user={}", self.database, self.owner)
    }

    /// Bytes of requests and of answers so far.
    pub(super) fn passed(&self) -> [u64; 2] {
        [0, 1].map(|way| self.passed[way].load(Ordering::SeqCst))
    }
}

fn pass(client: &UnixStream, to: &Database, fault: Fault, passed: &Arc<[AtomicU64; 2]>) {
    let Ok(server) = to.connect() else { return };
    let copies = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
    let (Some(requests), Some(answers)) = (copies(), copies()) else { return };
    let counters = Arc::clone(passed);
    thread::spawn(move || copy(&requests.0, &requests.1, 0, fault, &counters));
    let counters = Arc::clone(passed);
    thread::spawn(move || copy(&answers.1, &answers.0, 1, fault, &counters));
}

/// Passes bytes on, one way, until the fault or the end.
fn copy(
    mut from: &UnixStream,
    mut to: &UnixStream,
    way: usize,
    fault: Fault,
    passed: &[AtomicU64; 2],
) {
    let mut buffer = [0; 4096];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let rest = left(way, fault, passed).map_or(length, |left| length.min(left));
        passed[way].fetch_add(rest as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..rest]).is_err() {
            return;
        }
        if rest < length {
            break;
        }
    }
    while matches!(fault, Fault::Hang(_)) && left(way, fault, passed) == Some(0) {
        thread::park();
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Returns how many bytes still pass this way; `None` for all.
fn left(way: usize, fault: Fault, passed: &[AtomicU64; 2]) -> Option<usize> {
    let [requests, answers] = [0, 1].map(|way| passed[way].load(Ordering::SeqCst));
    let left = match fault {
        Fault::Cut(limit) => limit.saturating_sub(requests + answers),
        Fault::LoseAnswer(limit) if way == 1 => limit.saturating_sub(answers),
        Fault::Hang(limit) if way == 1 || answers >= limit => limit.saturating_sub(answers),
        Fault::Hang(_) | Fault::LoseAnswer(_) | Fault::None => return None,
    };
    usize::try_from(left).ok()
}
