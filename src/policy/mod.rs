//! What a pass decides, purely: from observations that were made and a `now` that is passed in.
//!
//! - [`fork_history`]: who is below whom, by what the kernel tells of forks;
//! - [`crate::sys::snapshot`]: one process as `/proc` shows it, and all of them at one time;
//! - [`membership`]: which processes belong to a root, and by what evidence;
//! - [`protection`]: which of these are left alone, because of a protected name;
//! - [`name_match`]: which unregistered processes match a configured name, by [`interpreter`] for scripts;
//! - [`limits`]: which trees have used up their time or memory;
//! - [`retention`]: how history is shortened without holding anybody up.

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
