//! The context of an end: the instance it acts for, and which processes it must not signal.

use super::run::EndContext;
use crate::{
    error::Result,
    model::{ProcessId, ProcessRecord},
    tracker::{
        core::Core,
        membership::{foreign_roots::foreign_roots, recorded_keeper},
        runtime::tracked::Root,
    },
};

/// Returns the context for an end of our own trees. If it is unknown which processes other
/// instances are responsible for, only processes that are certainly below our own roots are ended,
/// and the error is returned as well.
pub(in crate::tracker) fn context_or_certain<'a>(
    core: &'a Core,
    rows: &[ProcessId],
) -> (EndContext<'a>, Result<()>) {
    let error = match context(core, rows) {
        Ok(context) => return (context, Ok(())),
        Err(error) => error,
    };
    let certain = EndContext {
        proc: &core.proc,
        observer: core.instance.observer,
        own: core.own_pid(),
        ancestors: core.proc.ancestors(core.own_pid()),
        foreign: Vec::new(),
        protected: &core.options.protected,
    };
    (certain, Err(error))
}

/// Returns the context of an end, with the processes that it must not touch. `targets` are the rows
/// that are to be ended.
pub(in crate::tracker) fn context<'a>(
    core: &'a Core,
    targets: &[ProcessId],
) -> Result<EndContext<'a>> {
    Ok(EndContext {
        proc: &core.proc,
        observer: core.instance.observer,
        own: core.own_pid(),
        ancestors: core.proc.ancestors(core.own_pid()),
        foreign: foreign_roots(core, targets)?,
        protected: &core.options.protected,
    })
}

/// Returns a recorded root, with the data that is known in addition to its row.
pub(in crate::tracker) fn root_of(core: &Core, record: &ProcessRecord) -> Root {
    let mut root =
        Root { keeper: recorded_keeper::keeper_of_row(core, record), ..Root::from(record) };
    root.arguments = match core.registry.get(record.id) {
        Some(entry) => entry.root.arguments,
        None => root.arguments && core.options.record_arguments,
    };
    root
}
