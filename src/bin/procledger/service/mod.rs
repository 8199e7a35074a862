//! `watch` and `ship` for many ledgers: a supervisor, and a worker process for each ledger and each
//! folder of ledgers.
//!
//! One process cannot act for several users, and a fault of one ledger must not affect the others.
//! So each is watched by a process of its own, which is this program again, `procledger watch
//! --worker --db LEDGER`, and which becomes the ledger's owner before it opens it. A folder is
//! listed by `--worker --dir DIR`, as the folder's owner.
//!
//! The supervisor opens no ledger, accesses no path of a user and signals only its workers. A path
//! may be on a dead mount, and an access to it then never returns: only the worker hangs there,
//! which the supervisor detects, reports and replaces. The supervisor never waits for a worker, nor
//! for the reader of its own output.
//!
//! A worker's standard input is a socket to the supervisor. Its end is the order to stop, so no
//! worker outlives its supervisor, however that ended; over it the worker reports its progress, and
//! after each check that it is alive. The worker's output is untrusted: it is escaped, cut,
//! bounded, and passed on with the ledger's name before it.
//!
//! - [`isolation`]: what a worker gives up before anything else;
//! - [`messages`]: the messages between the two;
//! - [`worker_process`]: the worker's own side;
//! - `serve_ledger`: a worker for a ledger, from its start to its end;
//! - [`stop`]: the pipe by which a service is asked to stop;
//! - [`worker_handle`]: a worker as the supervisor sees it;
//! - [`worker_output`]: output of a worker, line by line, within bounds;
//! - [`service_command`]: the differences between `watch` and `ship`;
//! - [`target`]: one ledger or folder: watched, or waiting after a failure;
//! - [`folder_events`]: one inotify instance for all folders of the supervisor's own user;
//! - [`supervisor`]: all of them;
//! - [`scrape`]: metrics of many ledgers, each read by a short-lived worker;
//! - [`http`]: serves them.

mod folder_events;
mod http;
mod isolation;
mod messages;
mod scrape;
mod serve_ledger;
mod service_command;
mod stop;
mod supervisor;
mod target;
mod worker_handle;
mod worker_output;
mod worker_process;

pub(crate) use http::{Ledgers, address, serve};
pub(crate) use isolation::shed_inherited;
pub(crate) use scrape::{Scraper, absolute};
pub(crate) use service_command::{SHIP, WATCH};
pub(crate) use stop::{ask_to_stop, copy, pipe, stop_on_a_signal};
pub(crate) use supervisor::supervise;
pub(crate) use worker_process::{RunningWorker, StartingWorker, serve_folder};
