//! What a program does not inherit from its host: argument zero, umask, nice value, limits, process
//! group, descriptors.

use std::{
    fs::{self, File},
    io::{Read, pipe},
    os::fd::OwnedFd,
};

use procledger::{
    Builder, Containment, ContainmentMode, Job, ProcessRecord, Resource, Stdio, Tracker,
};

use crate::{
    containment::keepers::KEEPER,
    support::{PidfdWatch, Place, in_namespace_as_a_user, root, skipped, stat_field},
};

/// A tracker of each containment that can be used here, each on a ledger of its own.
pub(crate) fn trackers() -> Vec<(Place, Tracker, Containment)> {
    trackers_with(|builder| builder)
}

/// The same, with what `set` adds.
pub(crate) fn trackers_with(
    set: impl Fn(Builder) -> Builder,
) -> Vec<(Place, Tracker, Containment)> {
    let all = [
        (ContainmentMode::Session, Containment::Session),
        (ContainmentMode::Cgroup, Containment::Cgroup),
        (ContainmentMode::Keeper, Containment::Keeper),
    ];
    let open = |(mode, containment)| {
        let place = Place::new();
        match set(builder(&place, mode)).open() {
            Ok(tracker) => Some((place, tracker, containment)),
            Err(error) => {
                // An ordinary user may not create a cgroup outside of a delegated one.
                if rustix::process::geteuid().is_root() || !error.is_unsupported() {
                    skipped(&format!("{mode}: {error}"));
                }
                None
            }
        }
    };
    all.into_iter().filter_map(open).collect()
}

fn builder(place: &Place, mode: ContainmentMode) -> Builder {
    let builder = Tracker::builder(place.ledger()).containment(mode);
    if mode == ContainmentMode::Keeper { builder.keeper(KEEPER) } else { builder }
}

/// Shows itself: argument zero, umask, nice value, limits, a variable, descriptors; reads 5, writes
/// to 7.
const REPORT: &str = "tr '\\0' '\\n' < /proc/$$/cmdline | head -n 1; umask; \
    cut -d ' ' -f 19 /proc/$$/stat; ulimit -S -n; ulimit -H -n; ulimit -c; echo $A$B; \
    ls /proc/$$/fd; cat <&5; echo seven >&7";

const SHOWN: &str = "fancy\n0027\n17\n64\n65\n0\n12\n0\n1\n2\n5\n7\nfive\n";

/// The job, and what reads its descriptor 7.
fn job(place: &Place) -> (Job, impl Read + use<>) {
    fs::write(place.path().join("five"), "five\n").expect("a file");
    let five = File::open(place.path().join("five")).expect("a file");
    let (seven, write) = pipe().expect("a pipe");
    let job = place
        .job("task", REPORT)
        .arg0("fancy")
        .umask(0o027)
        .nice(17)
        .rlimit(Resource::Nofile, 1, 2)
        .rlimit(Resource::Core, 0, 0)
        .rlimit(Resource::Nofile, 64, 65)
        .envs([("A", "1"), ("B", "2")])
        .stdout(Stdio::piped())
        .fd(7, write)
        .fd(5, OwnedFd::from(five));
    (job, seven)
}

fn row(place: &Place, tracker: &Tracker, containment: Containment) {
    let history = tracker.ledger().history(procledger::Query::new().task_id("task"));
    let rows: Vec<ProcessRecord> = history.expect("rows");
    let spec = &rows.iter().find(|row| row.spec.root.is_none()).expect("a row").spec;
    assert_eq!(spec.containment, containment);
    let json = r#"{"arg0":"fancy","umask":23,"nice":17,"rlimits":[{"resource":"core","soft":0,"hard":0},{"resource":"nofile","soft":64,"hard":65}],"fds":[7,5]}"#;
    assert_eq!(place.sqlite3("SELECT attributes FROM process WHERE root IS NULL"), json);
    assert_eq!((spec.attributes.nice, spec.attributes.umask), (Some(17), Some(0o027)));
    let shown = place.procledger(&["ps", "--all", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let expected: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let rows = shown.as_array().expect("rows");
    assert!(rows.iter().any(|row| row["attributes"] == expected), "{shown:#}");
}

#[test]
fn a_program_has_the_attributes_of_its_job_and_its_row_records_them() {
    for (place, tracker, containment) in trackers() {
        let (job, mut seven) = job(&place);
        let output = tracker.spawn(job).expect("spawned").wait_with_output().expect("ended");
        assert_eq!(String::from_utf8_lossy(&output.stdout), SHOWN, "{containment}");
        let mut text = String::new();
        seven.read_to_string(&mut text).expect("the host has closed its copy");
        assert_eq!(text, "seven\n");
        row(&place, &tracker, containment);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_program_of_a_future_has_the_attributes_of_its_job() {
    for (place, tracker, containment) in trackers() {
        let tracker = tracker.into_async();
        let (job, mut seven) = job(&place);
        let mut process = tracker.spawn(job).await.expect("spawned");
        let output = process.wait_with_output().await.expect("ended");
        assert_eq!(String::from_utf8_lossy(&output.stdout), SHOWN, "{containment}");
        let mut text = String::new();
        seven.read_to_string(&mut text).expect("the host has closed its copy");
        row(&place, tracker.tracker(), containment);
        tracker.shutdown().await.expect("an orderly end");
    }
}

#[test]
fn a_job_can_be_spawned_again_and_shares_its_descriptors_with_its_clones() {
    for (place, tracker, _) in trackers() {
        let (mut read, write) = pipe().expect("a pipe");
        let job = place.job("first", "echo $0 >&2; echo again >&9");
        let job = job.stderr(write.try_clone().expect("a copy")).fd(9, write);
        let clones = [job.clone(), job.task_id("second")];
        for job in clones {
            tracker.spawn(job).expect("spawned").wait().expect("ended");
        }
        let mut text = String::new();
        read.read_to_string(&mut text).expect("both copies are closed");
        let one = format!("{}\nagain\n", place.marker());
        assert_eq!(text, one.repeat(2));
    }
}

#[test]
fn a_program_can_have_a_group_without_a_session() {
    let session_of = |pid| stat_field(pid, 6).expect("it lives");
    let group_of = |pid| stat_field(pid, 5).expect("it lives");
    let own = session_of(std::process::id());
    for (place, tracker, containment) in trackers() {
        let script = "sleep 3600 & echo $! > child; wait";
        let job = place.job("leader", script).process_group(0);
        let leader = tracker.spawn(job).expect("spawned").pid().get();
        let child = place.watch("child");
        assert_eq!(group_of(leader), leader.to_string(), "{containment}");
        assert_eq!(group_of(child.pid()), leader.to_string());
        // A keeper has a session of its own.
        assert_eq!(session_of(leader) == own, containment != Containment::Keeper);
        assert_ne!(session_of(leader), leader.to_string());
        let row = "SELECT session FROM process WHERE task_id = 'leader' AND root IS NULL";
        assert_eq!(place.sqlite3(row), leader.to_string());

        let leader = PidfdWatch::on(leader);
        let group = i32::try_from(leader.pid()).expect("a pid");
        let joins = place.job("joins", "setsid sleep 3600 & echo $! > other; wait");
        let joins = joins.process_group(group);
        if containment == Containment::Keeper {
            let error = tracker.spawn(joins).expect_err("another session");
            assert!(error.is_invalid_input() && error.to_string().contains("keeper"), "{error}");
            tracker.terminate("leader").expect("ended");
            assert!(leader.is_dead() && child.is_dead());
            continue;
        }
        let joins = tracker.spawn(joins).expect("spawned").pid().get();
        let (joins, other) = (PidfdWatch::on(joins), place.watch("other"));
        assert_eq!(group_of(joins.pid()), group.to_string());
        let row = "SELECT session IS NULL FROM process WHERE task_id = 'joins' AND root IS NULL";
        assert_eq!(place.sqlite3(row), "1", "the group is not its own");
        tracker.terminate("joins").expect("ended");
        assert!(joins.is_dead() && other.is_dead());
        assert!(!leader.is_dead() && !child.is_dead(), "they are in the same group");
        tracker.terminate("leader").expect("ended");
        assert!(leader.is_dead() && child.is_dead());

        let gone = place.job("gone", ": > ran").process_group(i32::MAX);
        let error = tracker.spawn(gone).expect_err("there is no such group");
        assert!(error.is_denied(), "{error:?}");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(!place.path().join("ran").exists());
    }
}

/// Each with a part of the message that names it.
fn wrong_jobs(place: &Place) -> Vec<(Job, &'static str)> {
    let job = || place.job("task", ": > ran");
    let fd = || OwnedFd::from(File::open("/dev/null").expect("a file"));
    vec![
        (job().arg0("a\0b"), "argument 0 contains a NUL"),
        (job().uid(u32::MAX).gid(1), "no user or group id"),
        (job().groups(&[1, u32::MAX]), "no user or group id"),
        (job().umask(0o1000), "umask 1000"),
        (job().nice(20), "nice value 20"),
        (job().process_group(-1), "process group -1"),
        (job().process_group(7).foreground(true), "process group 7: a program that shares"),
        (job().rlimit(Resource::Core, 2, 1), "RLIMIT_CORE: the soft limit 2"),
        (job().rlimit(Resource::Core, None, 1), "the soft limit unlimited"),
        (job().fd(0, fd()), "descriptor 0 is a standard one"),
        (job().fd(2, fd()), "descriptor 2 is a standard one"),
        (job().fd(-1, fd()), "descriptor -1 does not exist"),
        (job().fd(i32::MAX, fd()), "does not exist"),
        (job().fd(9, fd()).fd(9, fd()), "descriptor 9 is given twice"),
        ((3..253).fold(job(), |job, number| job.fd(number, fd())), "250 descriptors are too many"),
    ]
}

#[test]
fn wrong_attributes_are_refused_before_anything_runs() {
    for (place, tracker, containment) in trackers() {
        for (job, why) in wrong_jobs(&place) {
            let error = tracker.spawn(job).expect_err(why);
            assert!(error.is_invalid_input(), "{containment}: {error:?}");
            assert!(error.to_string().contains(why), "{why} in {error}");
        }
        assert!(!place.path().join("ran").exists());
        assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
    }
}

#[test]
fn attributes_that_a_user_may_not_set_are_refused_before_anything_runs() {
    let name =
        "spawn::attributes::attributes_that_a_user_may_not_set_are_refused_before_anything_runs";
    if rustix::process::geteuid().is_root() && !in_namespace_as_a_user(name) {
        return;
    }
    let own = rustix::process::geteuid().as_raw();
    let nice = rustix::process::getpriority_process(None).expect("a value");
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let above = hard.expect("a limit") + 1;
    for (place, tracker, _) in trackers() {
        let job = || place.job("task", ": > ran");
        let refused = [
            (job().uid(own + 1).gid(own + 1), "uid", "CAP_SETUID", libc::EPERM),
            (job().gid(own + 1), "groups", "CAP_SETGID", libc::EPERM),
            (job().groups(&[]), "groups", "CAP_SETGID", libc::EPERM),
            (job().nice(nice - 1), "nice value", "CAP_SYS_NICE", libc::EACCES),
            (job().rlimit(Resource::Nofile, 9, above), "RLIMIT_NOFILE", "RESOURCE", libc::EPERM),
            (job().rlimit(Resource::Nofile, 9, None), "unlimited", "RESOURCE", libc::EPERM),
        ];
        for (job, what, lacks, errno) in refused {
            let error = tracker.spawn(job).expect_err(what);
            assert!(error.is_denied(), "{error:?}");
            let text = error.to_string();
            // Without the capability, another user is refused on any ledger, and that error may
            // come first.
            let is_named = text.contains(what) && text.contains(lacks);
            assert!(is_named || text.contains("only root's ledger"), "{text}");
            assert!(!is_named || error.raw_os_error() == Some(errno), "{error:?}");
        }
        assert!(!place.path().join("ran").exists());
        assert_eq!(place.sqlite3("SELECT count(*) FROM process"), "0");
        // Its own ids are no change, and need no privilege.
        let gid = rustix::process::getegid().as_raw();
        let mut process = tracker.spawn(job().uid(own).gid(gid)).expect("spawned");
        assert!(process.wait().expect("ended").success());
    }
}

#[test]
fn a_ledger_of_a_user_runs_no_programs_of_another_user() {
    if !root() {
        return;
    }
    let place = Place::new();
    let user = 61_777;
    std::os::unix::fs::chown(place.path(), Some(user), Some(user)).expect("given away");
    let ledger = File::create(place.ledger()).expect("a file");
    std::os::unix::fs::fchown(&ledger, Some(user), Some(user)).expect("given away");
    let tracker = Tracker::builder(place.ledger()).open().expect("a ledger");
    for job in [place.job("task", ": > ran"), place.job("task", ": > ran").uid(user).gid(user)] {
        let error = tracker.spawn(job).expect_err("refused");
        assert!(error.is_denied() && error.to_string().contains("uid 61777"), "{error}");
    }
    assert!(!place.path().join("ran").exists());
}
