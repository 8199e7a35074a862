//! Handles to processes: waiting, reading output, giving away the terminal.
//!
//! - `asynchronous`: the same as futures, with the feature `tokio`;
//! - [`exit`]: how a program ended, and why;
//! - [`by_task`]: handles, and waiting, by task;
//! - [`foreground`]: the terminal;
//! - [`job_control`]: the state of a program that shares the terminal;
//! - [`output`]: all output of a program;
//! - [`process`]: waiting and signalling.

#[cfg(feature = "tokio")]
pub(super) mod asynchronous;
pub(super) mod by_task;
pub(super) mod exit;
pub(super) mod foreground;
pub(super) mod job_control;
pub(super) mod output;
pub(super) mod process;
