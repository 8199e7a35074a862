//! Sends one signal to all members of a tree, without ending it.

use std::{borrow::Cow, collections::HashMap};

use super::{
    member::{Member, Phase},
    phases::Run,
    state::{EndContext, TreeRun, TreeTarget},
};
use crate::{
    error::Result,
    sys::Signal,
    tracker::{membership::process_info::ProcessInfo, runtime::tracked::Root},
};

/// Limit on scans of a tree in which processes appear during each scan.
const SCANS: u32 = 10;

/// Sends the signal once to each member that an end would signal now, the root first, and returns
/// how many got it. All members are determined before the first of them gets it, so processes that
/// a program starts in response do not.
///
/// Fails if `/proc` cannot be read and, after all others were signalled, if a member may not be
/// signalled.
pub(in crate::tracker) fn signal_tree(
    context: &EndContext<'_>,
    tree: TreeTarget,
    signal: Signal,
) -> Result<usize> {
    let mut recorder = |_: &Root, _: &[&ProcessInfo]| HashMap::new();
    let trees = vec![TreeRun::new(context, tree)];
    let mut run = Run::new(Cow::Borrowed(context), trees, &mut recorder);
    run.scan_until_still(|_| {})?;
    run.trees.iter_mut().flat_map(TreeRun::alive).for_each(|member| member.signal(signal));
    run.signalled()
}

impl Run<'_, '_> {
    /// Scans until no process appears during a scan, and calls `after_each` after each scan.
    pub(super) fn scan_until_still(&mut self, mut after_each: impl FnMut(&mut Self)) -> Result<()> {
        for _ in 0..SCANS {
            let before = self.context.proc.last_allocated();
            self.try_scan()?;
            after_each(self);
            if !self.is_open(before) {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many members were signalled, or why one of them could not be.
    pub(super) fn signalled(self) -> Result<usize> {
        let members = self.trees.into_iter().flat_map(|tree| tree.members);
        let mut members: Vec<Member> = members.collect();
        let count = members.iter().filter(|member| member.was_signalled()).count();
        let refused = members.drain(..).find_map(|member| match member.phase {
            Phase::Refused(error, _) => Some(error),
            _ => None,
        });
        refused.map_or(Ok(count), Err)
    }
}
