//! The keeper: a small process between a host and a program.
//!
//! It is the subreaper of the program's tree (`PR_SET_CHILD_SUBREAPER`, prctl(2)): processes that
//! are orphaned below it stay below it, with or without the tree's session, token and arguments.
//! When its host dies it ends all of them. It reports how the program ended, and exits when no
//! process is left below it.
//!
//! ```text
//!  host                            keeper                       program
//!  vfork, exec by descriptor ----> subreaper, /dev/null
//!  <-------------------- handshake
//!  request, stdio, own pidfd ---> clone3 --------------------> at the gate
//!  <----------------- child, pidfd
//!  stat, commit
//!  go | refuse ------------------> gate opens ----------------> execve
//!  <------------- started | failed
//!            ...                   reaps                        ends
//!  <------------------------ ended
//!  leave, or the socket's end ---> (ends what is left) exits
//! ```
//!
//! The two share one stream socket, which is the keeper's standard input when it is executed. The
//! keeper detects that the host is gone when the socket is closed or, if a forked copy of the host
//! holds the socket open, by the host's pidfd.
//!
//! - [`protocol`]: the messages on the socket;
//! - [`transport`]: the socket, with descriptors and time limits;
//! - [`binary`]: the keeper's executable, and whether it can be trusted;
//! - [`client`]: the host's end;
//! - [`server`]: the setup of a keeper;
//! - [`hosts`]: which processes below a keeper are hosts of its ledger.

mod binary;
mod client;
mod hosts;
pub(crate) mod protocol;
mod server;
mod transport;

pub(crate) use binary::{Binary, is_secure};
pub(crate) use client::{KeeperClient, Reply};
pub(crate) use hosts::{hosts_below, signed_locks};
pub(crate) use protocol::{FromHost, FromKeeper, Params, SpawnRequest};
pub(crate) use server::{
    KeeperServer, Reaped, Wake, block_all_signals, ignore_dead_children, is_asked, reap_one,
};
pub(crate) use transport::Transport;

/// The name that the keeper sets for itself, truncated as by the kernel (`TASK_COMM_LEN`).
const COMM: &std::ffi::CStr = c"procledger-keep";
/// Reports whether a process has the name of a keeper. Any process may set it.
pub(crate) fn is_name(comm: &[u8]) -> bool {
    comm == COMM.to_bytes()
}

/// The name of its executable, and its `argv[0]`. It proves nothing: any process may use it.
const NAME: &str = "procledger-keeper";
/// Its only argument. A keeper ignores it; a program that was configured as the keeper by mistake,
/// such as `cat`, fails with it at once.
const ARGUMENT: &str = "--serve";
