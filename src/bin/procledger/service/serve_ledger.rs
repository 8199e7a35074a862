//! A worker for a ledger, from its start until it is ordered to stop.

use std::os::fd::OwnedFd;

use super::{
    stop::{copy, pipe, stop_on_a_signal},
    worker_process::{RunningWorker, StartingWorker},
};
use crate::{
    context::{Access, Context},
    exit::{Exit, Result},
    global_args::GlobalArgs,
    ledger_path::{Environment, LedgerPath},
    output,
    signals::{STOP, Signals},
};

impl StartingWorker {
    /// Waits for the ledger, becomes its owner and works, until the pipe's first end is readable;
    /// its second end makes it so. If the work fails, waits for a reason to try again.
    pub(crate) fn serve_ledger(
        mut self,
        global: &GlobalArgs,
        work: impl FnOnce(&Context, &mut RunningWorker, OwnedFd, &OwnedFd) -> Result<Exit>,
    ) -> Result<Exit> {
        let signals = Signals::block(&STOP)?;
        let path = LedgerPath::resolve(global.db.as_deref(), &Environment::read())?.file;
        if !self.wait_for(&path, &signals)? {
            return Ok(Exit::DONE);
        }
        let context = Context::prepare(global, Access::Existing);
        let (stop, stopper) = pipe()?;
        let mut worker = self.receive_orders(&path, copy(&stopper)?)?;
        stop_on_a_signal(signals, copy(&stopper)?, false)?;
        let stop_waiting = copy(&stop)?;
        context
            .and_then(|context| work(&context, &mut worker, stop, &stopper))
            .inspect_err(|failure| {
                output::warn(&failure.message);
                // A pipe that is not read would block their thread.
                worker.names = None;
                worker.wait_for_change(&path, &stop_waiting);
            })
            .or(Ok(Exit::FAILED))
    }
}
