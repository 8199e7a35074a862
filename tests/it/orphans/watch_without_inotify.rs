//! `procledger watch` where inotify is scarce: 128 instances for each user by default, and other
//! programs use them too.
//!
//! Each watch runs in a user namespace with limits of its own (`/proc/sys/user/max_inotify_*`,
//! namespaces(7)).

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::command::{PROCLEDGER, clean},
    orphans::watch_service::{Watch, start_host},
    support::{PidfdWatch, Place, alone, at_once, children, need, skipped, until},
};

/// A watch with these limits; raised once there is a file `more` in its folder.
fn limited(place: &Place, instances: u32, watches: u32, args: &[&str]) -> Option<Watch> {
    let mut command = Command::new("unshare");
    clean(&mut command, place);
    let script = "cd /proc/sys/user || exit 9
        echo \"$1\" >max_inotify_instances && echo \"$2\" >max_inotify_watches || exit 9
        (while ! [ -e \"$3/more\" ]; do [ -e \"$3\" ] || exit; sleep 0.1; done
        echo 100 >max_inotify_instances; echo 1000 >max_inotify_watches) <&- >&- 2>&- &
        cd \"$3\"; shift 3; echo limited >&2; exec \"$@\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
    command.args([instances.to_string(), watches.to_string()]).arg(place.path());
    let mut watch = Watch::start(command.arg(PROCLEDGER).args(args));
    let first = watch.err.recv_timeout(crate::support::PATIENCE).unwrap_or_default();
    if first != "limited" {
        let _ = watch.child.wait();
        skipped(&format!("no user namespace with limits of its own: {first}"));
        return None;
    }
    Some(watch)
}

/// Distinct inotify instances that these processes have open: the ids of two copies of one are
/// equal.
fn instances(watch: &Watch) -> usize {
    let mut all = vec![watch.child.id()];
    all.extend(children(watch.child.id()));
    let has_instance = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.filter(|target| target.as_os_str() == "anon_inode:inotify").count() > 0
    };
    all.iter().filter(|pid| has_instance(pid)).count()
}

/// A host that crashes right after its start, detectable only by its lock file and its row.
fn is_served(place: &Place, watch: &Watch, ledger: &str, task: &str) -> Duration {
    let mut host = start_host(place, ledger);
    let root = host.spawn(task, "exec sleep 300");
    host.crash();
    let since = Instant::now();
    until("its tree is dead", || root.is_dead());
    watch.done(&[&format!("{ledger}: "), &format!("{task} pid")]);
    since.elapsed()
}

#[test]
fn fifty_ledgers_need_one_inotify_instance() {
    need!("unshare");
    let _alone = alone();
    let place = Place::new();
    let names: Vec<String> = (0..50).map(|index| format!("{index}.db")).collect();
    for name in &names[..3] {
        start_host(&place, name).stop();
    }
    for name in &names[3..] {
        fs::copy(place.path().join("0.db"), place.path().join(name)).expect("a copy");
    }
    let mut args = vec!["watch"];
    args.extend(names.iter().map(String::as_str));
    args.push("later.db");
    let Some(mut watch) = limited(&place, 1, 1, &args) else { return };
    watch.complaint(&["later.db: does not exist"]);
    until("all are served", || children(watch.child.id()).len() >= 51);
    for name in &names {
        watch.worker(Path::new(name));
    }
    let slowest = ["1.db", "2.db", "later.db"].map(|name| is_served(&place, &watch, name, "t"));
    assert!(slowest.iter().max() < Some(&Duration::from_secs(3)), "{slowest:?}");
    let mut said: Vec<String> = watch.log.clone();
    said.extend(watch.err.try_iter());
    assert!(!said.iter().any(|line| line.contains("inotify")), "{said:?}");
    watch.stop().expect(0);
}

/// It did not start at all, or each worker ended with the errno of inotify.
#[test]
fn watch_works_without_an_inotify_instance_and_uses_one_once_available() {
    without(0, 1000, "max_user_instances");
}

/// The other limit: there is an instance, and it cannot watch any folder.
#[test]
fn watch_works_without_an_inotify_watch_and_uses_one_once_available() {
    without(100, 0, "max_user_watches");
}

fn without(instances_limit: u32, watches: u32, said: &str) {
    need!("unshare");
    let place = Place::new();
    fs::create_dir(place.path().join("folder")).expect("a folder");
    for name in ["a.db", "b.db", "folder/c.db"] {
        start_host(&place, name).stop();
    }
    let args = ["watch", "a.db", "b.db", "later.db", "--dir", "folder"];
    let Some(mut watch) = limited(&place, instances_limit, watches, &args) else { return };
    watch.complaint(&["inotify cannot be used", said]);
    for name in ["a.db", "later.db", "folder/c.db", "folder/new.db"] {
        is_served(&place, &watch, name, "before");
    }
    // Logged only once.
    thread::sleep(Duration::from_secs(2));
    watch.log.extend(watch.err.try_iter());
    let count = watch.log.iter().filter(|line| line.contains("inotify")).count();
    assert_eq!(count, 1, "{:?}", watch.log);
    // It recovers.
    fs::write(place.path().join("more"), "").expect("a file");
    watch.complaint(&["inotify can be used again"]);
    assert!(instances(&watch) > 0);
    for name in ["a.db", "b.db", "folder/c.db"] {
        is_served(&place, &watch, name, "after");
    }
    watch.stop().expect(0);
}

/// One ledger, in the process itself.
#[test]
fn one_ledger_is_watched_without_inotify() {
    need!("unshare");
    at_once(
        [(0, 1000, "max_user_instances"), (100, 0, "max_user_watches")],
        |(instances, watches, said)| {
            let place = Place::new();
            start_host(&place, "ledger.db").stop();
            let args = ["--db", "ledger.db", "watch"];
            let Some(mut watch) = limited(&place, instances, watches, &args) else { return };
            watch.complaint(&["failed to watch", said]);
            for round in ["one", "two"] {
                let mut host = start_host(&place, "ledger.db");
                let root: PidfdWatch = host.spawn(round, "exec sleep 300");
                host.crash();
                watch.done(&[&format!("{round} pid")]);
                assert!(root.is_dead());
            }
            watch.log.extend(watch.err.try_iter());
            let count = watch.log.iter().filter(|line| line.contains("inotify")).count();
            assert_eq!(count, 1, "{:?}", watch.log);
            fs::write(place.path().join("more"), "").expect("a file");
            let own = watch.child.id();
            until("it takes inotify again", || {
                fs::read_dir(format!("/proc/{own}/fd")).into_iter().flatten().flatten().any(|fd| {
                    fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify")
                })
            });
            let mut host = start_host(&place, "ledger.db");
            host.spawn("three", "exec sleep 300");
            host.crash();
            watch.done(&["three pid"]);
            watch.stop().expect(0);
        },
    );
}
