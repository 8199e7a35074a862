//! The decisions of a pass, as pure functions of observations and a `now` that is passed in.
//!
//! - [`fork_history`]: which process is below which, according to the kernel's fork events;
//! - [`crate::sys::snapshot`]: one process as `/proc` shows it, and all of them at one time;
//! - [`membership`]: which processes belong to a tree, by what evidence, and which of them are left
//!   running;
//! - [`exemption`]: which processes must not be touched on behalf of a tree;
//! - [`protection`]: which members are left running, because of a protected name;
//! - [`suspects`]: which other processes may belong to a tree;
//! - [`token_holders`]: which processes carry a token;
//! - [`adoption`]: which processes were adopted after their parent had ended;
//! - [`name_match`]: which unregistered processes match a configured name, using [`interpreter`]
//!   for scripts;
//! - [`limits`]: which trees have used up their time or memory;
//! - [`retention`]: how history is shortened without delaying writers.

pub(crate) mod adoption;
pub(crate) mod exemption;
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
pub(crate) mod token_holders;
