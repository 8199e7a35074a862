//! Programs that cannot be started: each errno reaches the caller, each row says why, nothing is
//! left.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use procledger::{ExitStatus, Job, Stdio, Tracker};

use crate::{
    spawn::gate_host::{Given, children, descriptors, in_another_process},
    support::{Place, sqlite3, until},
};

#[test]
fn programs_that_cannot_be_started_leave_a_failed_row_and_nothing_else() {
    let place = Place::new();
    in_another_process(&place, "not-started", Duration::from_mins(1));
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn body(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    check(given, &tracker, &|query| sqlite3(&given.ledger(), query));
    tracker.shutdown().expect("an orderly end");
}

fn file(path: &Path, text: &str, mode: u32) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    path.to_owned()
}

/// `ask` queries a real `sqlite3`, which is started where that is possible.
pub(crate) fn check(given: &Given, tracker: &Tracker, ask: &dyn Fn(&str) -> String) {
    let quiet = |job: Job| job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tracker.spawn(quiet(Job::new("first", "true"))).and_then(|mut p| p.wait()).expect("true");
    let before = descriptors();
    let folder = fs::canonicalize(&given.folder).expect("a folder").join("programs");
    let plain = file(&folder.join("a/plain"), "#!/bin/sh\n", 0o644);
    let text = file(&folder.join("a/text"), "exit $1\n", 0o755);
    let orphaned = file(&folder.join("a/orphaned"), "#!/no/such/interpreter\n", 0o755);
    file(&folder.join("a/both"), "#!/bin/sh\nexit 3\n", 0o644);
    file(&folder.join("b/both"), "#!/bin/sh\nexit 4\n", 0o755);
    file(&folder.join("a/denied"), "", 0o644);
    file(&folder.join("here/local"), "#!/bin/sh\nexit 5\n", 0o755);
    let path = format!("{0}/none:{0}/a:{0}/a/plain:{0}/b", folder.display());
    let refused = [
        ("not-found", Job::new("not-found", "/no/such/program"), libc::ENOENT),
        (
            "not-found-in-path",
            Job::new("not-found-in-path", "no-such-program-at-all"),
            libc::ENOENT,
        ),
        ("below-a-file", Job::new("below-a-file", plain.join("x")), libc::ENOTDIR),
        ("not-executable", Job::new("not-executable", &plain), libc::EACCES),
        ("a-folder", Job::new("a-folder", &folder), libc::EACCES),
        ("no-interpreter", Job::new("no-interpreter", &orphaned), libc::ENOENT),
        ("no-cwd", Job::new("no-cwd", "true").current_dir(folder.join("none")), libc::ENOENT),
        ("cwd-is-a-file", Job::new("cwd-is-a-file", "true").current_dir(&plain), libc::ENOTDIR),
        ("denied-in-path", Job::new("denied-in-path", "denied").env("PATH", &path), libc::EACCES),
        // The host's PATH contains it; the job's own does not.
        ("own-path", Job::new("own-path", "true").env("PATH", folder.join("b")), libc::ENOENT),
        ("long-name", Job::new("long-name", format!("/{}", "x".repeat(300))), libc::ENAMETOOLONG),
        ("big-argument", Job::new("big-argument", "true").arg("x".repeat(200 << 10)), libc::E2BIG),
    ];
    for (task, job, errno) in refused {
        let error = tracker.spawn(quiet(job)).expect_err(task);
        assert_eq!(error.raw_os_error(), Some(errno), "{task}: {error:?}");
        assert!(error.is_not_started(), "{task}: {error:?}");
        let query = format!(
            "SELECT state, end_reason, exit_code IS NULL, exit_signal IS NULL, last_error LIKE '%os error {errno})'
             FROM process WHERE task_id = '{task}'"
        );
        assert_eq!(ask(&query), "ended|failed|1|1|1", "{task}");
    }
    let found = [
        // EACCES in one folder, a file in place of a folder, found in the next.
        ("second-folder", Job::new("second-folder", "both").env("PATH", &path), 4),
        // An empty element is the working directory: in front, between and at the end; and an empty
        // PATH.
        ("empty-first", Job::new("empty-first", "local").env("PATH", ":/none"), 5),
        ("empty-between", Job::new("empty-between", "local").env("PATH", "/none::/none"), 5),
        ("empty-last", Job::new("empty-last", "local").env("PATH", "/none:"), 5),
        ("empty-path", Job::new("empty-path", "local").env("PATH", ""), 5),
        ("relative", Job::new("relative", "./local"), 5),
        ("relative-path", Job::new("relative-path", "local").env("PATH", "../here"), 5),
        // The shell is given a file without a `#!` line.
        ("no-shebang", Job::new("no-shebang", &text).arg("6"), 6),
        ("text-in-path", Job::new("text-in-path", "text").arg("7").env("PATH", &path), 7),
        // Without PATH the default of execvp(3).
        ("no-path", Job::new("no-path", "false").env_remove("PATH"), 1),
    ];
    for (task, job, code) in found {
        let job = quiet(job).current_dir(folder.join("here"));
        let status = tracker.spawn(job).and_then(|mut process| process.wait());
        assert_eq!(status.expect(task), ExitStatus::Exited(code), "{task}");
    }
    for job in [
        Job::new("nul", "a\0b"),
        Job::new("nul", "true").arg("a\0b"),
        Job::new("nul", "true").env("A", "a\0b"),
        Job::new("nul", "true").current_dir("a\0b"),
        Job::new("nul", "true").env("", "b"),
        Job::new("nul", "true").env("A=B", "b"),
        Job::new("nul", ""),
        Job::new("", "true"),
    ] {
        let error = tracker.spawn(quiet(job).stdout(Stdio::piped())).expect_err("invalid");
        assert!(error.is_invalid_input(), "{error:?}");
    }
    let rows = "SELECT count(*) FROM process WHERE task_id IN ('nul', '') OR state <> 'ended'";
    assert_eq!(ask(rows), "0");
    until("no child is left", || children().is_empty());
    until("no descriptor is left", || descriptors().len() <= before.len());
}
