//! A sandbox that maps one user, as `unshare --user` and bubblewrap create it: root's folders,
//! including `/`, appear there as owned by the user `nobody`. For that reason a ledger was refused
//! in every folder.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
};

use crate::{
    cli::command::{PROCLEDGER, answer, clean},
    support::{Place, need, skipped},
};

/// A uid without an account: that of `nobody` would be the one that unmapped owners appear as.
const ORDINARY: u32 = 61_235;

#[test]
fn a_ledger_below_roots_folders_can_be_opened() {
    need!("unshare", "setpriv");
    let place = Place::new();
    let folder = place.path().join("mine");
    fs::create_dir(&folder).expect("a folder");
    let mut command = if rustix::process::geteuid().is_root() {
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
        chown(&folder, Some(ORDINARY), Some(ORDINARY)).expect("a gift");
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={ORDINARY}"), &format!("--regid={ORDINARY}")]);
        command.args(["--clear-groups", "unshare"]);
        command
    } else {
        Command::new("unshare")
    };
    clean(&mut command, &place);
    // The built command may be in a folder that this user may not read.
    let copy = place.path().join("procledger");
    fs::copy(PROCLEDGER, &copy).expect("a copy");
    // With processes of its own only: an orphan of another user would be a suspect, and reported.
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
    command.arg(copy).arg("--db").arg(folder.join("ledger.db"));
    let answer = answer(command.args(["run", "--task", "t", "--", "echo", "ran"]));
    if answer.err.contains("unshare failed") {
        return skipped("this machine allows no user namespaces");
    }
    assert_eq!((answer.err.as_str(), answer.out.as_str()), ("", "ran\n"));
    answer.expect(0);
}
