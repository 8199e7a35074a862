//! Runs a group in a process of its own, in a PID namespace of its own that ends with it.

use std::{
    fs,
    process::{Command, ExitCode, Stdio},
};

use super::scale::Scale;

/// Runs a group and returns what it wrote.
pub(crate) fn run(group: &str, scale: Scale) -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // Contains everything that a group leaves when it is killed.
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command.env("TMPDIR", folder.path());
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "--"]).arg(own);
    command.args(["init", group, scale.word()]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("unshare: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

/// The first process of the namespace: runs the group as a child and reaps orphans.
pub(crate) fn be_init(group: &str, scale: &str) -> ExitCode {
    let own = std::env::current_exe().expect("an executable");
    let mut command = Command::new(own);
    let child = command.args(["group", group, scale]).spawn().map(|child| child.id());
    let pid = i32::try_from(child.expect("it runs")).expect("a pid");
    loop {
        match rustix::process::wait(rustix::process::WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == pid => {
                return if status.exit_status() == Some(0) {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Raises the descriptor limit as far as allowed: ten thousand pidfds need half of it.
pub(crate) fn raise_descriptors(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(wanted).max(wanted);
    let raised = Rlimit { current: Some(most), maximum: Some(most) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        let _ =
            setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// The environment that the figures apply to.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} cores ({model}), Linux {}, load {load} at the start", release.trim())
}
