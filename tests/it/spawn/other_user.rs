//! A host of root's runs a program as another user: nothing of root's is left in it, and it is
//! tracked and ended as any other.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    time::Duration,
};

use procledger::{
    AsyncTracker, Containment, EndReason, Exit, Job, Outcome, Output, Pid, ProcessId, Report,
    Result, Stdio, Tracker,
};

use rustix::{
    process::{Resource, getrlimit},
    thread::{CapabilitySet, capabilities},
};

use crate::{
    containment::{keepers::KEEPER, task_cgroups::can_use_cgroups},
    spawn::gate_host::{self, Given, is_kept, run_command},
    support::{Guard, PidfdWatch, Place, eventually, is_only, root, until},
};

/// No account of a usual machine.
const USER: u32 = 61_777;
const GROUP: u32 = 61_778;
const OTHER_GROUP: u32 = 61_779;

/// A folder that the user may write to.
fn place() -> Place {
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o711)).expect("its mode");
    let folder = place.path().join("theirs");
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(USER), Some(GROUP)).expect("given away");
    place
}

/// The containments that root can use here.
fn containments() -> Vec<&'static str> {
    let mut all = vec!["session", "keeper"];
    all.extend(can_use_cgroups().then_some("cgroup"));
    all
}

fn job(given: &Given, task: &str, script: &str) -> Job {
    Job::new(task, "/bin/sh")
        .args(["-c", script, &given.marker])
        .env("PROCLEDGER_IT_MARKER", &given.marker)
        .current_dir(given.folder.join("theirs"))
        .stdin(Stdio::null())
        .uid(USER)
        .gid(GROUP)
}

/// A tracker as a host uses it: by its own methods, or by futures.
enum Host {
    Sync(Tracker),
    Async(tokio::runtime::Runtime, AsyncTracker),
}

impl Host {
    fn open(given: &Given, by_futures: bool) -> Self {
        let tracker = given.builder().open().expect("a ledger");
        if !by_futures {
            return Self::Sync(tracker);
        }
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Self::Async(builder.enable_all().build().expect("a runtime"), tracker.into_async())
    }

    fn tracker(&self) -> &Tracker {
        match self {
            Self::Sync(tracker) => tracker,
            Self::Async(_, tracker) => tracker.tracker(),
        }
    }

    fn spawn(&self, job: Job) -> Result<(ProcessId, Pid)> {
        match self {
            Self::Sync(tracker) => tracker.spawn(job).map(|process| (process.id(), process.pid())),
            Self::Async(runtime, tracker) => {
                let process = runtime.block_on(tracker.spawn(job));
                process.map(|process| (process.id(), process.pid()))
            }
        }
    }

    fn output(&self, job: Job) -> Result<Output> {
        match self {
            Self::Sync(tracker) => tracker.output(job),
            Self::Async(runtime, tracker) => runtime.block_on(tracker.output(job)),
        }
    }

    fn status(&self, job: Job) -> Result<Exit> {
        match self {
            Self::Sync(tracker) => tracker.status(job),
            Self::Async(runtime, tracker) => runtime.block_on(tracker.status(job)),
        }
    }

    fn terminate(&self, task: &str) -> Result<Report> {
        match self {
            Self::Sync(tracker) => tracker.terminate(task),
            Self::Async(runtime, tracker) => runtime.block_on(tracker.terminate(task)),
        }
    }

    fn shutdown(&self) -> Result<Report> {
        match self {
            Self::Sync(tracker) => tracker.shutdown(),
            Self::Async(runtime, tracker) => runtime.block_on(tracker.shutdown()),
        }
    }
}

/// The roles of a host, in each containment.
fn hosts(role: &'static str, by_futures: &'static str) -> Vec<(&'static str, &'static str)> {
    let both = |containment| [(containment, role), (containment, by_futures)];
    containments().into_iter().flat_map(both).collect()
}

fn read_pid(given: &Given, name: &str) -> PidfdWatch {
    let path = given.folder.join("theirs").join(name);
    until(name, || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let pid = fs::read_to_string(&path).expect("a pid").trim().parse().expect("a pid");
    PidfdWatch::on_one_that_ran(pid)
}

#[test]
fn a_program_of_another_user_inherits_nothing_of_root_and_is_ended_like_any_other() {
    if !root() {
        return;
    }
    for (containment, role) in hosts("other-user", "other-user-async") {
        let place = place();
        let mut host = gate_host::command(&place, role);
        host.env("PROCLEDGER_CONTAINMENT", containment);
        run_command(host, &place, role, Duration::from_mins(1));
        assert_eq!(place.alive(), [0_u32; 0], "{role}, {containment}");
        let row = "SELECT min(uid), max(uid) FROM process WHERE task_id <> 'group'";
        assert_eq!(place.sqlite3(row), "61777|61777");
    }
}

pub(crate) fn body(given: &Given, by_futures: bool) {
    // What a program of root's must not keep.
    rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(4)]).expect("a group");
    let secret = fs::File::open("/etc/shadow").or_else(|_| fs::File::open("/dev/null"));
    rustix::io::fcntl_setfd(secret.as_ref().expect("a file"), rustix::io::FdFlags::empty())
        .expect("inherited by any other program");
    assert!(nix::sys::prctl::get_dumpable().expect("a flag"));
    let host = Host::open(given, by_futures);
    has_nothing_of_root(given, &host);
    // In the keeper's memory instead.
    assert_eq!(nix::sys::prctl::get_dumpable().expect("a flag"), is_kept());
    is_refused(given, &host);
    is_ended(given, &host);
    leaves_no_strays(given, &host);
    host.shutdown().expect("an orderly end");
}

fn has_nothing_of_root(given: &Given, host: &Host) {
    let script = "cat /proc/self/status; echo; echo fds; ls /proc/$$/fd; pwd; kill -0 $PPID \
                  2>/dev/null && echo signals its parent; cat /proc/$PPID/environ 2>/dev/null && \
                  echo reads its parent; true";
    let report = |job: Job| {
        let output = host.output(job.stderr(Stdio::inherit())).expect("ended");
        assert!(output.exit.success());
        String::from_utf8(output.stdout).expect("text")
    };
    let text = report(job(given, "report", script));
    let ids = |id: u32| format!("\t{id}\t{id}\t{id}\t{id}\n");
    assert!(text.contains(&format!("Uid:{}", ids(USER))), "{text}");
    assert!(text.contains(&format!("Gid:{}", ids(GROUP))), "{text}");
    assert!(text.contains("Groups:\t \n"), "{text}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(text.contains(&format!("{set}:\t0000000000000000\n")), "{text}");
    }
    assert!(text.contains("\nfds\n0\n1\n2\n/"), "{text}");
    assert!(text.contains("/theirs\n"), "{text}");
    assert!(!text.contains("its parent"), "{text}");
    let text = report(job(given, "groups", script).groups(&[OTHER_GROUP, GROUP]));
    assert!(text.contains(&format!("Groups:\t{GROUP} {OTHER_GROUP} \n")), "{text}");
    // A group alone.
    let group = Job::new("group", "/bin/sh").args(["-c", "id -u; id -g"]).gid(GROUP).groups(&[]);
    assert_eq!(report(group.stdin(Stdio::null()).uid(0)), format!("0\n{GROUP}\n"));
    // Limits that only root may raise are raised before it becomes that user.
    let own = capabilities(None).expect("its own").effective;
    if own.contains(CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_NICE) {
        let hard = getrlimit(Resource::Nproc).maximum.map_or(70_000, |hard| hard + 1);
        let raised = job(given, "raised", "ulimit -H -p; cut -d ' ' -f 19 /proc/$$/stat").nice(-1);
        let raised = raised.rlimit(procledger::Resource::Nproc, 9_000, hard);
        assert_eq!(report(raised), format!("{hard}\n-1\n"));
    }
}

/// Its folder and its program are those that the user may use, not root.
fn is_refused(given: &Given, host: &Host) {
    let forbidden = given.folder.join("forbidden");
    fs::create_dir(&forbidden).expect("a folder");
    fs::set_permissions(&forbidden, fs::Permissions::from_mode(0o700)).expect("its mode");
    let job = job(given, "refused", "true");
    for job in [
        job.clone().current_dir(&forbidden),
        Job::new("refused", forbidden.join("program")).uid(USER).gid(GROUP),
    ] {
        let error = host.spawn(job).expect_err("refused");
        assert!(error.is_not_started(), "{error:?}");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
    let error = host.spawn(Job::new("refused", "true").uid(USER)).expect_err("refused");
    assert!(error.is_invalid_input() && error.to_string().contains("needs a gid"), "{error}");
}

fn is_ended(given: &Given, host: &Host) {
    let tracker = host.tracker();
    let script = "setsid sleep 3600 & echo $! > below; trap '' TERM; sleep 3600";
    let (id, pid) = host.spawn(job(given, "tree", script)).expect("spawned");
    let (top, below) = (PidfdWatch::on(pid.get()), read_pid(given, "below"));
    assert!(is_only(top.pid(), USER) && is_only(below.pid(), USER));
    let row = tracker.ledger().process(id).expect("read").expect("a row");
    assert_eq!((row.spec.uid, row.spec.attributes.uid), (USER, Some(USER)));
    if is_kept() {
        assert_eq!(row.spec.containment, Containment::Keeper);
    }
    // One that executes its program right now is left to the next pass.
    let recorded = eventually("it is recorded", || {
        assert_eq!(tracker.health_pass().expect("a pass").survived(), 0);
        let rows = tracker.ledger().processes().expect("rows");
        rows.into_iter().find(|row| row.pid().get() == below.pid())
    });
    assert_eq!(recorded.spec.uid, USER);
    assert!(!top.is_dead() && !below.is_dead());
    let report = host.terminate("tree").expect("ended");
    assert!(report.survived() == 0 && top.is_dead() && below.is_dead(), "{report:?}");
}

fn leaves_no_strays(given: &Given, host: &Host) {
    let script = "setsid sleep 3600 & echo $! > stray";
    assert!(host.status(job(given, "strays", script)).expect("ended").success());
    let stray = read_pid(given, "stray");
    until("the stray is ended", || stray.is_dead());
}

#[test]
fn a_program_of_another_user_does_not_outlive_a_host_that_is_killed() {
    if !root() {
        return;
    }
    for (containment, role) in hosts("other-user-dies", "other-user-dies-async") {
        let place = place();
        let given = Given { folder: place.path().to_owned(), marker: place.marker().to_owned() };
        let mut host = gate_host::command(&place, role);
        host.env("PROCLEDGER_CONTAINMENT", containment).stdin(std::process::Stdio::null());
        let mut host = Guard(host.spawn().expect("a host"));
        place.wait_for("theirs/ready");
        let (top, below) = (read_pid(&given, "top"), read_pid(&given, "below"));
        assert!(is_only(top.pid(), USER) && is_only(below.pid(), USER));
        host.0.kill().expect("killed");
        host.0.wait().expect("reaped");
        if containment == "keeper" {
            until("its keeper ends it", || top.is_dead() && below.is_dead());
        }
        let tracker = Tracker::builder(place.ledger()).keeper(KEEPER).open().expect("a ledger");
        until("it is ended", || top.is_dead() && below.is_dead());
        assert_eq!(place.alive(), [0_u32; 0]);
        let history = tracker.ledger().history(procledger::Query::new()).expect("rows");
        let row = history.iter().find(|row| row.spec.root.is_none()).expect("a row");
        assert_eq!(row.life.end().expect("it has ended").reason, EndReason::Orphan);
        assert_eq!(row.spec.uid, USER);
        let leaks = tracker.ledger().leaks(procledger::Query::new()).expect("leaks");
        assert!(!leaks.is_empty() && leaks.iter().all(|leak| leak.outcome != Outcome::Survived));
    }
}

pub(crate) fn leave(given: &Given, by_futures: bool) {
    let host = Host::open(given, by_futures);
    let script = "echo $$ > top; setsid sleep 3600 & echo $! > below; : > ready; wait";
    host.spawn(job(given, "task", script)).expect("spawned");
    loop {
        std::thread::park();
    }
}
