//! Which keeper is used, and what happens where none can be.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use procledger::{Builder, ContainmentMode, Tracker};

use crate::{
    containment::keepers::{KEEPER, keepers, kept},
    support::{Place, need, root},
};

/// `auto`, where no task cgroup can be created.
fn auto(place: &Place, keeper: &Path) -> Builder {
    Tracker::builder(place.ledger())
        .containment(ContainmentMode::Auto)
        .cgroup("/no/such/cgroup")
        .keeper(keeper)
}

/// With `auto` programs run, and the row records the containment; if requested explicitly, an
/// unusable keeper is an error.
fn check_refused(place: &Place, keeper: &Path, why: &str) {
    let error = kept(place).keeper(keeper).open().expect_err("no keeper");
    assert!(error.to_string().contains(why), "{error}");
    let tracker = auto(place, keeper).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("task", "exit 0")).expect("spawned");
    assert!(process.wait().expect("waited").success());
    tracker.shutdown().expect("an orderly end");
    let newest = "SELECT containment FROM process ORDER BY id DESC LIMIT 1";
    assert_eq!(place.sqlite3(newest), "session", "{why}");
}

#[test]
fn auto_uses_a_keeper_where_no_cgroup_can_be_created() {
    let place = Place::new();
    let tracker = auto(&place, Path::new(KEEPER)).open().expect("a ledger");
    let mut process = tracker.spawn(place.job("task", "exit 0")).expect("spawned");
    assert!(process.wait().expect("waited").success());
    assert_eq!(place.sqlite3("SELECT containment FROM process"), "keeper");
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_job_that_survives_its_host_has_no_keeper() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let process =
        tracker.spawn(place.job("task", "exec sleep 3600").survive(true)).expect("spawned");
    assert_eq!(place.sqlite3("SELECT containment FROM process"), "session");
    assert_eq!(keepers(&place.ledger()), [0_u32; 0]);
    drop(process);
    tracker.kill(&["task"], "the test").expect("ended");
}

#[test]
fn a_missing_file_and_a_file_that_is_not_a_keeper_are_refused() {
    let place = Place::new();
    check_refused(&place, &place.path().join("nothing"), "failed to open the keeper");
    check_refused(&place, place.path(), "not an executable file");
    check_refused(&place, Path::new("/bin/true"), "is not a keeper");
    check_refused(&place, Path::new("/bin/cat"), "is not a keeper");
}

#[test]
fn a_keeper_of_another_version_is_refused() {
    need!("cc");
    let place = Place::new();
    let program = r#"#include <unistd.h>
        int main(void) {
            char hello[16] = "plkeeper";
            hello[8] = 99;
            char rest;
            return write(0, hello, 16) != 16 || read(0, &rest, 1) != 0;
        }"#;
    let (source, other) = (place.path().join("other.c"), place.path().join("other"));
    fs::write(&source, program).expect("written");
    let built = std::process::Command::new("cc").arg("-o").args([&other, &source]).status();
    assert!(built.expect("cc").success());
    check_refused(&place, &other, "uses version 99");
}

#[test]
fn root_refuses_a_keeper_that_another_user_could_have_replaced() {
    if !root() {
        return;
    }
    let place = Place::new();
    let copy = |folder: &str, file_mode: u32, folder_mode: u32| -> PathBuf {
        let folder = place.path().join(folder);
        fs::create_dir(&folder).expect("a folder");
        let path = folder.join("procledger-keeper");
        // The file's content does not matter: it is refused before it is run.
        fs::copy("/bin/true", &path).expect("a copy");
        fs::set_permissions(&path, fs::Permissions::from_mode(file_mode)).expect("a mode");
        fs::set_permissions(&folder, fs::Permissions::from_mode(folder_mode)).expect("a mode");
        path
    };
    check_refused(&place, &copy("writable-file", 0o757, 0o755), "root");
    check_refused(&place, &copy("writable-folder", 0o755, 0o777), "root");
    let owned = copy("owned", 0o755, 0o755);
    std::os::unix::fs::chown(&owned, Some(65534), None).expect("given away");
    check_refused(&place, &owned, "root");
    let link = place.path().join("writable-folder/link");
    std::os::unix::fs::symlink(KEEPER, &link).expect("a link");
    check_refused(&place, &link, "root");
    check_refused(&place, Path::new("procledger-keeper"), "absolute path");
}

#[test]
fn a_keeper_started_from_a_shell_prints_an_explanation() {
    let output = std::process::Command::new(KEEPER).stdin(std::process::Stdio::null()).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("started only by programs that embed procledger")
    );
}
