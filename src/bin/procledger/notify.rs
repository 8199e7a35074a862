//! Status notifications to a service manager: the datagrams of `sd_notify(3)`.
//!
//! Nothing is sent if `$NOTIFY_SOCKET` is not set, and a failed notification does not fail the
//! service.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::{Duration, Instant},
};

use crate::render::escape;

/// The connection to the service manager.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The manager restarts the service after this long without a notification.
    watchdog: Option<Duration>,
    last_sign: Option<Instant>,
    status: String,
    is_ready: bool,
}

impl Notify {
    /// Reads the socket and the watchdog time from the environment.
    pub(crate) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name).ok());
        let variable = |name| env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        Self { socket, watchdog, ..Self::default() }
    }

    /// Returns the interval between two keep-alive notifications: half of the watchdog time, as
    /// `sd_watchdog_enabled(3)` advises.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// Reports that the service is ready, and its status.
    pub(crate) fn ready(&mut self, status: &str) {
        if !self.is_ready {
            self.is_ready = true;
            self.send("READY=1");
        }
        self.status(status);
    }

    /// Reports the status in one line, if it has changed.
    pub(crate) fn status(&mut self, status: &str) {
        if status != self.status {
            status.clone_into(&mut self.status);
            self.send(&format!("STATUS={}", escape(status)));
        }
    }

    /// Sends a keep-alive notification if one is due.
    pub(crate) fn alive(&mut self) {
        let Some(interval) = self.interval() else { return };
        if self.last_sign.is_none_or(|last| last.elapsed() >= interval / 2) {
            self.last_sign = Some(Instant::now());
            self.send("WATCHDOG=1");
        }
    }

    /// Reports that the service is stopping.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, line: &str) {
        if let Some((socket, to)) = &self.socket {
            // If the manager does not read the socket, the service goes on.
            let _ = socket.send_to_addr(line.as_bytes(), to);
        }
    }
}

/// Parses a path, or an abstract name after an `@`.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

/// Parses the watchdog time in microseconds; it applies only if the pid is that of this process, or
/// none is given.
fn watchdog(limit: Option<String>, pid: Option<String>) -> Option<Duration> {
    let limit: u64 = limit?.parse().ok().filter(|&limit| limit > 0)?;
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    ours.then(|| Duration::from_micros(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_counts_only_when_it_is_meant_for_this_process() {
        let text = |text: &str| Some(text.to_owned());
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(text("1000000"), None), second);
        assert_eq!(watchdog(text("1000000"), Some(std::process::id().to_string())), second);
        assert_eq!(watchdog(text("1000000"), text("1")), None);
        assert_eq!(watchdog(text("0"), None), None);
        assert_eq!(watchdog(text("soon"), None), None);
        assert_eq!(watchdog(None, None), None);
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent() {
        let mut notify = Notify::default();
        notify.ready("up");
        notify.alive();
        notify.stopping();
        assert_eq!(notify.interval(), None);
    }
}
