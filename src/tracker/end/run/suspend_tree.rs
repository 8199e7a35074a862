//! Suspends all members of a tree, without ending it, and resumes them.
//!
//! A tree is suspended in the same way as it is frozen before it is killed: its task cgroup is
//! frozen, and each member that is not in it gets SIGSTOP, until a scan shows no new member. A
//! process that is forked meanwhile is found by the next scan, or stopped on sight.

use std::{borrow::Cow, collections::HashMap};

use super::{
    end_plan::Stage,
    member::{Member, Phase},
    phases::Run,
    state::{EndContext, TreeRun, TreeTarget},
};
use crate::{
    error::{Error, Kind, Result},
    sys::Signal,
    tracker::{membership::process_info::ProcessInfo, runtime::tracked::Root},
};

/// Suspends each member that an end would signal now, and returns how many there are.
///
/// Fails if not all of them can be suspended; then those that were suspended are resumed.
pub(in crate::tracker) fn suspend_tree(
    context: &EndContext<'_>,
    tree: TreeTarget,
) -> Result<usize> {
    let mut recorder = |_: &Root, _: &[&ProcessInfo]| HashMap::new();
    let mut tree = TreeRun::new(context, tree);
    tree.stage = Stage::Suspending;
    let mut run = Run::new(Cow::Borrowed(context), vec![tree], &mut recorder);
    run.try_scan()?;
    let is_still = run.freeze();
    let members: Vec<&Member> = run.trees.iter().flat_map(|tree| &tree.members).collect();
    let suspended = members.iter().filter(|member| member.can_be_ended()).count();
    let refused = members.iter().find_map(|member| match &member.phase {
        Phase::Refused(error, _) if !member.can_be_ended() => Some(error.to_string()),
        _ => None,
    });
    let why = match refused {
        Some(refused) => Some(Error::new(Kind::Denied, refused)),
        None if !is_still => Some(Error::new(
            Kind::Busy,
            "the tree starts new processes faster than they can be suspended: it was resumed",
        )),
        None => None,
    };
    match why {
        Some(error) => {
            run.resume();
            Err(error)
        }
        None => Ok(suspended),
    }
}

/// Resumes each member, however it was stopped, and returns how many there are.
///
/// Fails if `/proc` cannot be read and, after all others were resumed, if a member may not be
/// signalled.
pub(in crate::tracker) fn resume_tree(context: &EndContext<'_>, tree: TreeTarget) -> Result<usize> {
    let mut recorder = |_: &Root, _: &[&ProcessInfo]| HashMap::new();
    let trees = vec![TreeRun::new(context, tree)];
    let mut run = Run::new(Cow::Borrowed(context), trees, &mut recorder);
    run.scan_until_still(Run::resume)?;
    run.signalled()
}

impl Run<'_, '_> {
    /// Thaws the task cgroups, and continues each member that was not continued yet.
    fn resume(&mut self) {
        for tree in &mut self.trees {
            tree.thaw();
            tree.alive().filter(|member| !member.is_continued).for_each(|member| {
                member.is_continued = true;
                member.signal(Signal::CONT);
            });
        }
    }
}
