//! Starts a helper program of our own, executed by descriptor, without a gate and without a row. It
//! gets nothing from the host but one socket.

use std::{
    ffi::{CString, c_char},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    io::fcntl_dupfd_cloexec,
};

use super::{
    child::{Changes, Descriptor, EXECUTABLE, Plan, Session},
    clone_thread::RUNS_BESIDE,
    gate::{Gate, step},
    launch::failure,
    reap::reap,
    shared_memory::make_child,
};
use crate::{
    error::{Error, Result},
    identity::Pid,
    sys::{PidFd, signal_state::SignalState},
};

/// A helper: it is executed with an empty environment, every signal blocked, a new session, and
/// `/dev/null` as standard output and standard error.
pub(in crate::sys) struct Helper {
    pub(in crate::sys) executable: OwnedFd,
    pub(in crate::sys) argv: Vec<CString>,
    /// Its standard input.
    pub(in crate::sys) socket: OwnedFd,
}

/// Starts a helper; returns its pid and its pidfd.
pub(in crate::sys) fn start(helper: &Helper) -> Result<(Pid, Arc<PidFd>)> {
    let failed = |error| Error::os("failed to prepare the descriptors of a helper", error);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed)?;
    // Above the numbers to which they are copied.
    let low = i32::from(EXECUTABLE) + 1;
    let null = fcntl_dupfd_cloexec(null, low).map_err(failed)?;
    let socket = fcntl_dupfd_cloexec(&helper.socket, low).map_err(failed)?;
    let executable = fcntl_dupfd_cloexec(helper.executable.as_fd(), low).map_err(failed)?;
    let argv: Vec<*const c_char> =
        helper.argv.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
    let nothing = [ptr::null::<c_char>()];
    let gate = Arc::new(Gate::default());
    let plan = Plan {
        gate: &gate,
        gated: false,
        suspends: !RUNS_BESIDE,
        parent: std::process::id() as usize,
        session: Session::New,
        cgroup: None,
        stdio: [socket.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()].map(Descriptor::Copy),
        signals: SignalState::default(),
        changes: Changes::default(),
        directory: ptr::null(),
        executable: Some(executable.as_raw_fd()),
        programs: nothing.as_ptr(),
        shell: ptr::null_mut(),
        argv: argv.as_ptr(),
        envp: nothing.as_ptr(),
        own_pid: ptr::null_mut(),
    };
    let (child, ()) = make_child(plan, None, &gate, |_| ())?;
    let (at, errno) = gate.reached();
    if errno == 0 && at == step::EXEC {
        return Ok((child.pid, child.pidfd));
    }
    reap(&child.pidfd);
    let name = helper.argv.first().map_or_else(String::new, |name| name.to_string_lossy().into());
    Err(failure(name.as_ref(), at, errno))
}
