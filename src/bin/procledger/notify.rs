//! Telling a service manager how a service stands: the datagrams of `sd_notify(3)`.
//!
//! Nothing is told where `$NOTIFY_SOCKET` is not set, and nothing that is told may fail the service.

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

/// A line to the service manager.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It restarts us when it has heard nothing for this long.
    watchdog: Option<Duration>,
    last_sign: Option<Instant>,
    status: String,
    is_ready: bool,
}

impl Notify {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name).ok());
        let variable = |name| env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        Self { socket, watchdog, ..Self::default() }
    }

    /// How often there has to be a sign of life: twice in the watchdog's time, as `sd_watchdog_enabled(3)` advises.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The service does its work, and so it stands.
    pub(crate) fn ready(&mut self, status: &str) {
        if !self.is_ready {
            self.is_ready = true;
            self.send("READY=1");
        }
        self.status(status);
    }

    /// How it stands, in a line; told only where it has changed.
    pub(crate) fn status(&mut self, status: &str) {
        if status != self.status {
            status.clone_into(&mut self.status);
            self.send(&format!("STATUS={}", escape(status)));
        }
    }

    /// A sign of life, where one is due.
    pub(crate) fn alive(&mut self) {
        let Some(interval) = self.interval() else { return };
        if self.last_sign.is_none_or(|last| last.elapsed() >= interval / 2) {
            self.last_sign = Some(Instant::now());
            self.send("WATCHDOG=1");
        }
    }

    /// It is on its way out.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, line: &str) {
        if let Some((socket, to)) = &self.socket {
            // A manager that does not listen is not our trouble.
            let _ = socket.send_to_addr(line.as_bytes(), to);
        }
    }
}

/// A path, or an abstract name after an `@`.
fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let to = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, to))
}

/// Microseconds; meant for us only where the pid is ours, or none is given.
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
    fn without_a_manager_nothing_happens() {
        let mut notify = Notify::default();
        notify.ready("up");
        notify.alive();
        notify.stopping();
        assert_eq!(notify.interval(), None);
    }
}
