//! What a pass decides, purely: from observations that were made and a `now` that is passed in.
//!
//! - [`forks`]: who is below whom, by what the kernel tells of forks;
//! - [`observe`]: one process as `/proc` shows it, and all of them at one time;
//! - [`members`]: which processes belong to a root, and by what evidence;
//! - [`protect`]: which of these are left alone, because of a protected name;
//! - [`sweep`]: which unregistered processes match a configured name, by [`interpreter`] for scripts;
//! - [`limits`]: which trees have used up their time or memory;
//! - [`retention`]: how history is shortened without holding anybody up.

pub(crate) mod doubt;
pub(crate) mod forks;
mod interpreter;
pub(crate) mod limits;
pub(crate) mod members;
pub(crate) mod observe;
pub(crate) mod protect;
pub(crate) mod retention;
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
