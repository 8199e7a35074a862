//! Processes that pretend to be keepers: their descendants were recorded, counted and killed, and
//! those of the true keeper were not found. A keeper is known by its identity in the root's row.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use procledger::ExitStatus;

use crate::{
    containment::keepers::{daemon, keepers, kept},
    support::{Guard, PidfdWatch, Place, need, parent, root, sqlite3, start_tick, stays, until},
};

/// A uid without an account.
const OTHER_USER: u32 = 61_236;
const LARGE: u64 = 60_000_000;

/// A process with a keeper's name and the token of a tree as its only argument, and a child that
/// uses much memory.
struct Impostor {
    _process: Guard,
    child: PidfdWatch,
}

impl Impostor {
    fn start(place: &Place, name: &str, user: Option<u32>) -> Self {
        let token =
            place.sqlite3("SELECT token FROM process WHERE root IS NULL ORDER BY id LIMIT 1");
        let folder = place.path().join(name);
        fs::create_dir(&folder).expect("a folder");
        fs::copy("/bin/sh", folder.join("procledger-keeper")).expect("a copy");
        let child =
            format!("x=$(head -c {LARGE} /dev/zero | tr '\\000' a); echo up > up; sleep 3600");
        fs::write(folder.join(&token), format!("({child}) & echo $! > pid; wait\n"))
            .expect("a script");
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).expect("a mode");
        let mut command = match user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={user}"), &format!("--regid={user}")]);
                command.args(["--clear-groups", "sh"]);
                command
            }
            None => Command::new("sh"),
        };
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
        command.args(["-c", &format!("exec procledger-keeper {token}")]).current_dir(&folder);
        command.env("PROCLEDGER_IT_MARKER", place.marker()).env("PATH", path);
        command.stdin(Stdio::null());
        let process = Guard(command.spawn().expect("an impostor"));
        place.wait_for(&format!("{name}/up"));
        let argv = fs::read_to_string(format!("/proc/{}/cmdline", process.pid())).expect("argv");
        assert_eq!(argv, format!("procledger-keeper\0{token}\0"));
        Self { _process: process, child: place.watch(&format!("{name}/pid")) }
    }
}

/// Checks that impostors of these users change nothing.
fn check(users: &[Option<u32>]) {
    let place = Place::new();
    let tracker = kept(&place).monitor(false).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
    let job = place.job("task", &script).max_rss(LARGE / 2);
    let mut process = tracker.spawn(job).expect("spawned");
    let daemon = place.watch("daemon.pid");
    let impostors: Vec<Impostor> = (users.iter().enumerate())
        .map(|(number, user)| Impostor::start(&place, &format!("impostor-{number}"), *user))
        .collect();

    let report = tracker.health_pass().expect("a pass");
    assert!(report.endings.is_empty(), "its memory is not the task's: {report:?}");
    let rows = place.sqlite3("SELECT pid FROM process WHERE root IS NOT NULL");
    assert_eq!(rows, daemon.pid().to_string(), "the true keeper's daemon and nothing else");
    let tree = tracker.ledger().trees().expect("trees").remove(0);
    let shown: Vec<u32> = tree.members.iter().map(|member| member.pid.get()).collect();
    assert!(shown.contains(&daemon.pid()), "{shown:?}");
    for impostor in &impostors {
        assert!(!shown.contains(&impostor.child.pid()), "{shown:?}");
    }
    assert!(tree.rss_bytes.is_some_and(|bytes| bytes < LARGE / 2), "{tree:?}");

    let report = process.terminate().expect("ended");
    assert!(daemon.is_dead() && report.survived() == 0, "{report:?}");
    assert_eq!(keepers(&place.ledger()), [0_u32; 0]);
    stays("the impostors' children live", || impostors.iter().all(|it| !it.child.is_dead()));
    tracker.shutdown().expect("an orderly end");
    assert!(impostors.iter().all(|it| !it.child.is_dead()));
}

#[test]
fn an_impostor_of_another_user_has_no_effect_on_roots_ledger() {
    need!("setpriv");
    if root() {
        check(&[Some(OTHER_USER)]);
    }
}

#[test]
fn an_impostor_of_the_same_user_has_no_effect() {
    check(&[None]);
}

#[test]
fn two_impostors_at_once_have_no_effect() {
    let other = rustix::process::geteuid().is_root().then_some(OTHER_USER);
    check(&[None, other]);
}

#[test]
fn another_instances_kill_ends_the_true_keepers_tree_and_spares_the_impostors() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
    let mut process = tracker.spawn(place.job("task", &script)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    let impostor = Impostor::start(&place, "impostor", None);
    let killed = place.procledger(&["kill", "task"]);
    assert!(killed.status.success() && daemon.is_dead(), "{killed:?}");
    assert_eq!(process.wait().expect("waited"), ExitStatus::Signaled(15));
    stays("the impostor's child lives", || !impostor.child.is_dead());
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_task_that_poses_as_the_keeper_of_another_task_does_not_become_part_of_it() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let mut first = tracker.spawn(place.job("first", "exec sleep 3600")).expect("spawned");
    let token = place.sqlite3("SELECT token FROM process WHERE task_id = 'first'");
    let folder = place.path().display();
    fs::copy("/bin/sh", place.path().join("procledger-keeper")).expect("a copy");
    fs::write(place.path().join(&token), "sleep 3600 & echo $! > child; wait\n").expect("a script");
    let script = format!("PATH={folder}:$PATH; exec procledger-keeper {token}");
    let mut second = tracker.spawn(place.job("second", &script)).expect("spawned");
    let child = place.watch("child");
    tracker.health_pass().expect("a pass");
    let task = format!("SELECT task_id FROM process WHERE pid = {}", child.pid());
    assert_eq!(place.sqlite3(&task), "second");
    first.terminate().expect("ended");
    stays("the second task lives", || !child.is_dead());
    second.terminate().expect("ended");
    assert!(child.is_dead());
    tracker.shutdown().expect("an orderly end");
}

/// Sets `keeper_pid` and the other columns as a script would.
fn edit(place: &Place, columns: &str) {
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    ledger.busy_timeout(crate::support::PATIENCE).expect("patience");
    ledger
        .execute_batch(&format!("UPDATE process SET {columns} WHERE root IS NULL"))
        .expect("an update");
}

#[test]
fn a_process_with_the_reused_pid_of_a_dead_keeper_is_not_a_keeper() {
    // Pid and tick agree, as with PID reuse within 10 ms, and only the inode differs; or the tick
    // differs.
    for same_tick in [true, false] {
        let place = Place::new();
        let tracker = kept(&place).open().expect("a ledger");
        let mut process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
        let keeper = PidfdWatch::on(keepers(&place.ledger())[0]);
        let other = place.child("sleep 3600 & echo $! > child; wait");
        let child = place.watch("child");
        keeper.kill();
        if same_tick
            && sqlite3(&place.ledger(), "SELECT keeper_pidfd_inode FROM process").is_empty()
        {
            continue;
        }
        let tick = if same_tick {
            start_tick(other.pid()).expect("a tick").to_string()
        } else {
            "keeper_start_tick".into()
        };
        edit(&place, &format!("keeper_pid = {}, keeper_start_tick = {tick}", other.pid()));
        let killed = place.procledger(&["kill", "task"]);
        assert!(killed.status.success(), "{killed:?}");
        process.wait().expect("waited");
        stays("the unrelated process lives", || !child.is_dead());
        tracker.shutdown().expect("an orderly end");
    }
}

#[test]
fn a_row_of_an_older_version_is_matched_to_its_keeper_and_to_no_impostor() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let script = format!("{}; exec sleep 3600", daemon(&place, "daemon.pid"));
    let mut process = tracker.spawn(place.job("task", &script)).expect("spawned");
    let daemon = place.watch("daemon.pid");
    edit(&place, "keeper_pid = NULL, keeper_start_tick = NULL, keeper_pidfd_inode = NULL");
    let impostor = Impostor::start(&place, "impostor", None);
    let killed = place.procledger(&["kill", "task"]);
    assert!(killed.status.success() && daemon.is_dead(), "{killed:?}");
    let evidence = format!("SELECT end_evidence FROM process WHERE pid = {}", daemon.pid());
    assert_eq!(place.sqlite3(&evidence), "below its keeper");
    process.wait().expect("waited");
    stays("the impostor's child lives", || !impostor.child.is_dead());
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn a_row_of_an_older_version_with_a_dead_keeper_is_not_matched_to_the_programs_parent() {
    // The program is adopted by the nearest subreaper or by pid 1, whose other children are
    // unrelated.
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let keeper = PidfdWatch::on(keepers(&place.ledger())[0]);
    let other = place.child("exec sleep 3600");
    keeper.kill();
    until("it has another parent", || parent(process.pid().get()) != Some(keeper.pid()));
    edit(&place, "keeper_pid = NULL, keeper_start_tick = NULL, keeper_pidfd_inode = NULL");
    let killed = place.procledger(&["kill", "task"]);
    assert!(killed.status.success(), "{killed:?}");
    let ended = place.sqlite3("SELECT count(*) FROM process");
    assert_eq!(ended, "1", "nothing but the program");
    assert!(crate::support::is_alive(other.pid()));
    tracker.shutdown().expect("an orderly end");
}

#[test]
fn the_keepers_identity_is_committed_with_the_row_and_its_arguments_reveal_nothing() {
    let place = Place::new();
    let tracker = kept(&place).open().expect("a ledger");
    let process = tracker.spawn(place.job("task", "exec sleep 3600")).expect("spawned");
    let parent = parent(process.pid().get()).expect("a keeper");
    let tick = start_tick(parent).expect("a tick");
    let recorded = place.sqlite3("SELECT keeper_pid, keeper_start_tick FROM process");
    assert_eq!(recorded, format!("{parent}|{tick}"));
    let argv = fs::read_to_string(format!("/proc/{parent}/cmdline")).expect("argv");
    assert_eq!(argv, "procledger-keeper\0--serve\0");
    tracker.shutdown().expect("an orderly end");
}
