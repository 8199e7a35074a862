//! The decisions of a pass, as pure functions of observations and a `now` that is passed in.
//!
//! - [`fork_history`]: which process is below which, according to the kernel's fork events;
//! - [`crate::sys::snapshot`]: one process as `/proc` shows it, and all of them at one time;
//! - [`membership`]: which processes belong to a root, and by what evidence;
//! - [`protection`]: which of these are left running, because of a protected name;
//! - [`name_match`]: which unregistered processes match a configured name, using [`interpreter`] for scripts;
//! - [`limits`]: which trees have used up their time or memory;
//! - [`retention`]: how history is shortened without delaying writers.

pub(crate) mod fork_history;
mod interpreter;
pub(crate) mod limits;
pub(crate) mod membership;
pub(crate) mod name_match;
pub(crate) mod protection;
pub(crate) mod retention;
pub(crate) mod suspects;
#[cfg(test)]
mod tests;
