//! Output that was read before a wait was abandoned.

use tokio::time::Instant;

/// Output that was read so far. It stays with the handle, so that dropping a future loses nothing.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// When the program was found dead.
    pub(super) dead_since: Option<Instant>,
}
