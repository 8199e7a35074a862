//! A PostgreSQL server in a temporary folder, which ends with the benchmark.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use postgres::{Client, NoTls};
use procledger_testing::{as_nobody, postgres_programs};

pub(crate) struct Server {
    folder: tempfile::TempDir,
    process: Child,
}

impl Server {
    /// Starts a server with its own defaults except for these settings; `None` if PostgreSQL is not
    /// installed.
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let bin = postgres_programs()?;
        let folder = tempfile::Builder::new().prefix("procledger-pg-").tempdir_in("/tmp").ok()?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).ok()?;
        }
        let data = folder.path().join("data");
        let made = as_nobody(bin.join("initdb"))
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=owner", "--pgdata"])
            .arg(&data)
            .output()
            .ok()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = as_nobody(bin.join("postgres"));
        server.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c"]);
        server.arg(format!("unix_socket_directories={}", folder.path().display()));
        for setting in settings {
            server.args(["-c", setting]);
        }
        let process = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let server = Self { folder, process };
        while Client::connect(&server.url(), NoTls).is_err() {
            thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql:///postgres?host={}&user=owner", self.folder.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT ends the server at once, with its child processes.
        if let Some(pid) =
            i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.process.wait();
    }
}
