//! Determines whether a root that is gone has left processes behind.

use super::{claimed_trees, context, run::previews};
use crate::{
    error::{Error, Kind, Result},
    model::ProcessRecord,
    tracker::core::Core,
};

/// Returns whether a root that is gone has live members, to which only its row, with the token,
/// leads.
pub(in crate::tracker) fn has_left_something(core: &Core, row: &ProcessRecord) -> Result<bool> {
    if row.spec.token.is_none() {
        return Ok(false);
    }
    let context = context::context(core, &[row.id])?;
    let mut missed = false;
    let trees = claimed_trees::trees_of_rows(core, std::slice::from_ref(row))?;
    for seen in previews(&context, trees)? {
        if seen.members.iter().any(|member| member.alive) {
            return Ok(true);
        }
        if seen.hides {
            return Ok(true);
        }
        missed |= seen.missed;
    }
    if missed {
        let what = "it is gone, and not all processes that it left could be examined: retrying";
        return Err(Error::new(Kind::Unknown, what));
    }
    Ok(false)
}
