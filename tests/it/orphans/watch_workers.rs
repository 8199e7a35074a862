//! Workers of `procledger watch`: what their ledger's owner can do with them, and what they can do
//! to the supervisor.

use std::{
    fs::{self, File, Permissions},
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_send_signal};

use crate::{
    cli::command::{Answer, PROCLEDGER, Running, answer, bare, clean, finish},
    orphans::watch_service::{Watch, run_as, start_host, users_place},
    support::{
        Host, PATIENCE, PidfdWatch, Place, alone, eventually, is_only, need, pidfd, pids,
        processes_with, root, skipped, status, tool, until,
    },
};

/// A stop takes 4 s for workers that do not end, half a second for those that cannot be killed, and
/// longer on a busy machine.
const STOP: Duration = Duration::from_secs(8);
/// In the environment of root's shell.
const SECRET: &str = "PLIT_SECRET";
/// The variable that makes a test of this binary the hostile user.
const VICTIM: &str = "PLIT_VICTIM";

/// The variable that makes one the spy.
const SPY: &str = "PLIT_A_SPY";

/// Everything that a process may try against another one of its uid. Run as that user by
/// [`attack`].
#[test]
fn as_the_hostile_user() {
    let Ok(victim) = std::env::var(VICTIM) else { return };
    let victim: u32 = victim.parse().expect("a pid");
    let mut taken = Vec::new();
    for file in ["environ", "auxv", "maps", "mem", "io", "stack", "syscall"] {
        let path = format!("/proc/{victim}/{file}");
        if let Ok(mut file) = File::open(&path)
            && file.read(&mut [0; 64]).is_ok_and(|read| read > 0)
        {
            taken.push(path);
        }
    }
    if let Ok(mut mem) = fs::OpenOptions::new().write(true).open(format!("/proc/{victim}/mem")) {
        taken.push(format!("mem for writing: {:?}", mem.write(&[0])));
    }
    for folder in ["fd", "fdinfo", "map_files"] {
        if fs::read_dir(format!("/proc/{victim}/{folder}")).is_ok() {
            taken.push(format!("/proc/{victim}/{folder}"));
        }
    }
    for link in ["cwd", "root", "exe", "fd/0", "fd/1", "fd/2", "fd/9"] {
        if fs::read_link(format!("/proc/{victim}/{link}")).is_ok() {
            taken.push(format!("/proc/{victim}/{link}"));
        }
    }
    for number in [1, 2, 9] {
        let path = format!("/proc/{victim}/fd/{number}");
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        if fs::OpenOptions::new().write(true).custom_flags(flags).open(&path).is_ok() {
            taken.push(format!("{path} for writing"));
        }
    }
    let fd = pidfd(victim).expect("the victim lives");
    for number in 0..32 {
        if pidfd_getfd(&fd, number, PidfdGetfdFlags::empty()).is_ok() {
            taken.push(format!("descriptor {number}"));
        }
    }
    assert!(taken.is_empty(), "taken: {taken:?}");
}

/// Run as the hostile user by the test that searches for a moment of exposure; it is killed in the
/// end.
#[test]
fn as_the_spy() {
    if std::env::var_os(SPY).is_none() {
        return;
    }
    println!("it looks");
    loop {
        for pid in pids() {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.windows(SECRET.len()).any(|it| it == SECRET.as_bytes()) {
                println!("it saw that of {pid}");
            }
        }
    }
}

fn attack(place: &Place, uid: u32, victim: u32) -> Answer {
    let mut command = as_user(place, uid);
    command.arg(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "orphans::watch_workers::as_the_hostile_user", "--nocapture"]);
    answer(command.env(VICTIM, victim.to_string()))
}

fn as_user(place: &Place, uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    clean(&mut command, place);
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
    command.args(["--clear-groups", "--"]);
    command
}

#[track_caller]
fn takes_nothing(place: &Place, uid: u32, victim: u32) {
    let answer = attack(place, uid, victim);
    assert!(answer.out.contains("1 passed"), "{answer:#?}");
}

/// Root's shell: a secret in the environment, one in a descriptor, and then the command itself.
fn roots_shell(place: &Place) -> Command {
    let secret = place.path().join("secret");
    fs::write(&secret, "of root's").expect("a file");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("a mode");
    let mut command = Command::new("sh");
    clean(&mut command, place);
    command.current_dir(place.path()).env(SECRET, place.marker()).env("TZ", "UTC");
    command.args(["-c", "exec 9<secret; exec \"$@\"", "sh", PROCLEDGER]);
    command
}

/// A folder with the ledger of this user, which has been used; `None` where that cannot be tested.
fn with_a_users_ledger(uid: u32) -> Option<(Place, PathBuf)> {
    tool("setpriv")?;
    if !root() {
        return None;
    }
    let place = Place::new();
    let ledger = users_place(&place, uid);
    run_as(&place, uid, &ledger).stop_it();
    Some((place, ledger))
}

/// Asks a process to stop, and waits until it is dead: within [`STOP`].
fn stops_soon(pid: u32) {
    let supervisor = PidfdWatch::on(pid);
    let began = Instant::now();
    pidfd_send_signal(pidfd(pid).expect("it"), Signal::TERM).expect("a signal");
    until("it stops", || supervisor.is_dead());
    assert!(began.elapsed() < STOP, "{:?}", began.elapsed());
}

fn becomes(pid: u32, uid: u32) {
    until("it has become that user", || is_only(pid, uid));
}

/// Where they belong to us there is nothing to compare with: the roles are played by root, which
/// watches another user's ledger.
fn watched_by_root(place: &Place, uid: u32) -> (Watch, PathBuf) {
    let ledger = users_place(place, uid);
    run_as(place, uid, &ledger).stop_it();
    let folder = ledger.parent().expect("a folder").to_owned();
    let mut command = roots_shell(place);
    command.arg("watch").arg(&ledger).args(["mine.db", "--dir"]).arg(&folder);
    (Watch::start(&mut command), ledger)
}

trait StopIt {
    fn stop_it(self);
}

impl StopIt for Running {
    fn stop_it(self) {
        self.signal(Signal::TERM);
        self.finish();
    }
}

/// A worker of root's was dumpable: the ledger's owner read root's environment and took root's
/// descriptors.
#[test]
fn a_worker_exposes_nothing_of_root_to_the_owner_of_its_ledger() {
    const UID: u32 = 12_351;
    need!("setpriv");
    if !root() {
        return;
    }
    let place = Place::new();
    start_host(&place, "mine.db").stop();
    let (watch, ledger) = watched_by_root(&place, UID);
    let folder = ledger.parent().expect("a folder");
    // The attacks themselves work: on an ordinary process of that user.
    let mut plain = as_user(&place, UID);
    let plain = plain.args(["sleep", "300"]).spawn().expect("a process");
    becomes(plain.id(), UID);
    let taken = attack(&place, UID, plain.id());
    assert!(taken.err.contains("environ") && taken.err.contains("descriptor 1"), "{taken:#?}");
    PidfdWatch::on(plain.id()).kill();
    finish(plain);
    for path in [&ledger, folder] {
        let worker = watch.worker(path);
        becomes(worker.pid(), UID);
        takes_nothing(&place, UID, worker.pid());
        let status = status(worker.pid());
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        holds_nothing_of_roots(&place, worker.pid(), folder);
    }
    // Root's own worker, too, has no more than it needs.
    let mine = watch.worker(Path::new("mine.db"));
    holds_nothing_of_roots(&place, mine.pid(), place.path());
    takes_nothing(&place, UID, mine.pid());
    watch.stop().expect(0);
}

/// As root sees it: the secrets that could be taken.
fn holds_nothing_of_roots(place: &Place, worker: u32, folder: &Path) {
    let environment = fs::read(format!("/proc/{worker}/environ")).expect("root reads it");
    assert_eq!(String::from_utf8_lossy(&environment), "TZ=UTC\0");
    assert!(!processes_with(place.marker()).contains(&worker));
    for entry in fs::read_dir(format!("/proc/{worker}/fd")).expect("root reads it").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        // A keeper that root may use.
        let is_keeper = target.ends_with("/procledger-keeper");
        let known = ["socket:[", "pipe:[", "anon_inode:", "/proc", &folder.display().to_string()];
        assert!(is_keeper || known.iter().any(|start| target.starts_with(start)), "{target}");
        assert!(!target.ends_with("/secret"), "{target}");
    }
}

/// The related fault: a command that root runs on a user's ledger becomes that user, and had root's
/// environment and terminal.
#[test]
fn a_command_run_by_root_exposes_nothing_of_root_to_the_owner_of_the_ledger() {
    const UID: u32 = 12_352;
    let Some((place, ledger)) = with_a_users_ledger(UID) else { return };
    let forms: [&[&str]; 4] = [
        &["watch"],
        &["run", "--task", "a", "--containment", "session", "--", "sleep", "300"],
        &["run", "--task", "b", "--containment", "keeper", "--", "sleep", "300"],
        &["ps", "--watch"],
    ];
    for form in forms {
        let mut command = roots_shell(&place);
        let child = command.arg("--db").arg(&ledger).args(form).spawn().expect("procledger");
        becomes(child.id(), UID);
        takes_nothing(&place, UID, child.id());
        pidfd_send_signal(pidfd(child.id()).expect("it"), Signal::TERM).expect("a signal");
        finish(child);
    }
}

/// A loop that searches for the moment between setuid and exec, or between exec and prctl.
#[test]
fn a_starting_worker_never_exposes_the_environment_of_root() {
    const UID: u32 = 12_353;
    let Some((place, ledger)) = with_a_users_ledger(UID) else { return };
    let mut spy = as_user(&place, UID);
    spy.arg(std::env::current_exe().expect("this binary"));
    spy.args(["--exact", "orphans::watch_workers::as_the_spy", "--nocapture"]);
    let spy = spy.env(SPY, "1").spawn().expect("a spy");
    becomes(spy.id(), UID);
    thread::sleep(Duration::from_millis(300));
    for round in 0..15 {
        let mut command = roots_shell(&place);
        if round % 3 == 0 {
            let answer = answer(command.arg("--db").arg(&ledger).args(["ps", "--all"])).expect(0);
            assert!(answer.out.contains("theirs"), "{answer:?}");
            continue;
        }
        let watch = Watch::start(command.arg("watch").arg(&ledger));
        becomes(watch.worker(&ledger).pid(), UID);
        thread::sleep(Duration::from_millis(50));
        watch.stop().expect(0);
    }
    pidfd_send_signal(pidfd(spy.id()).expect("it"), Signal::KILL).expect("killed");
    let seen = finish(spy);
    assert!(seen.out.contains("it looks") && !seen.out.contains("it saw"), "{seen:#?}");
}

/// The peak of the memory of a process, in KiB.
fn peak(pid: u32) -> u64 {
    let status = status(pid);
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Writes to a descriptor of a worker as fast as possible, as only root can; until it is dropped.
struct Flood {
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    fn start(worker: &PidfdWatch, descriptor: u32, bytes: Vec<u8>) -> Self {
        let path = format!("/proc/{}/fd/{descriptor}", worker.pid());
        let mut pipe = fs::OpenOptions::new().write(true).open(path).expect("root opens it");
        let ended = Arc::new(AtomicBool::new(false));
        let (until, chunk) = (Arc::clone(&ended), bytes);
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) && pipe.write_all(&chunk).is_ok() {}
        });
        Self { ended, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A flood took 444 MB of the supervisor's memory, and SIGTERM was ignored; the output reached the
/// terminal raw.
#[test]
fn a_worker_that_floods_its_output_is_ended_and_blocks_nothing() {
    if !root() {
        return;
    }
    let _alone = alone();
    let place = Place::new();
    for ledger in ["loud.db", "endless.db", "good.db"] {
        start_host(&place, ledger).stop();
    }
    let mut watch = Watch::on(&place, &["loud.db", "endless.db", "good.db"]);
    let (loud, endless) =
        (watch.worker(Path::new("loud.db")), watch.worker(Path::new("endless.db")));
    watch.worker(Path::new("good.db"));
    thread::sleep(Duration::from_millis(300));
    let lines = b"\x1b[2J\rprocledger: good.db: forged\n".repeat(512);
    let floods = [Flood::start(&loud, 1, lines), Flood::start(&endless, 2, b"x".repeat(16 << 10))];
    let line = watch.out.recv_timeout(PATIENCE).expect("a line of the flood");
    assert_eq!(line, "loud.db: \\x1b[2J\\x0dprocledger: good.db: forged");
    // From here on the output is not read: the reader is slow. The others are served all the same.
    let mut host = start_host(&place, "good.db");
    let root = host.spawn("served", "exec sleep 300");
    host.crash();
    until("another ledger is served", || root.is_dead());
    watch.complaint(&["loud.db: ", "printed too much"]);
    until("it was ended", || loud.is_dead());
    eventually("and replaced", || {
        (watch.worker(Path::new("loud.db")).pid() != loud.pid()).then_some(())
    });
    let peak = peak(watch.child.id());
    assert!(peak < 64 << 10, "{peak} KiB");
    assert!(!endless.is_dead(), "an endless line is cut, and costs nothing");
    stops_soon(watch.child.id());
    drop(floods);
    finish(watch.child).expect(0);
}

/// A journal that hangs, or a terminal that was stopped, made the supervisor hang in a write.
#[test]
fn a_log_that_is_not_read_blocks_neither_the_work_nor_the_stop() {
    let place = Place::new();
    start_host(&place, "good.db").stop();
    let mut command = bare(&place);
    let names = (0..40).map(|index| format!("{}{index}.db", "x".repeat(150)));
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    // Each writes a line, and together they write more than a pipe holds.
    for name in names {
        for part in ["a", "b"] {
            let path = folder.join(format!("{part}{name}"));
            fs::write(&path, "no ledger at all, and long enough to be read").expect("a file");
        }
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // A pipe of one page is full at once.
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a size");
    command.current_dir(place.path()).args(["watch", "good.db", "--dir", "folder"]);
    command.stderr(writer.try_clone().expect("a copy")).stdout(writer);
    let child = command.spawn().expect("procledger");
    drop(command);
    until("its output is full", || is_full(&reader));
    let mut host = start_host(&place, "good.db");
    let root = host.spawn("served", "exec sleep 300");
    host.crash();
    until("the work goes on", || root.is_dead());
    stops_soon(child.id());
    drop(reader);
    finish(child).expect(0);
}

/// Its content is nearly all that a pipe of one page holds.
fn is_full(reader: &std::io::PipeReader) -> bool {
    rustix::io::ioctl_fionread(reader).is_ok_and(|bytes| bytes > 2048)
}

/// A mount whose server takes requests and never answers, as a dead NFS or FUSE server: it lives
/// until this is dropped.
struct DeadMount {
    device: OwnedFd,
    ended: Arc<AtomicBool>,
    server: Option<thread::JoinHandle<()>>,
}

impl DeadMount {
    fn new() -> Option<Self> {
        let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let ended = Arc::new(AtomicBool::new(false));
        Some(Self { device: device.into(), ended, server: None })
    }

    /// `answers`: it completes the handshake with the kernel first, so that a process that waits
    /// for it cannot even be killed.
    fn serve(&mut self, answers: bool) {
        let device = self.device.try_clone().expect("a copy");
        let ended = Arc::clone(&self.ended);
        self.server = Some(thread::spawn(move || {
            let mut device = File::from(device);
            let flags = rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(&device, flags).expect("a flag");
            let mut request = vec![0; 1 << 20];
            while !ended.load(Ordering::Relaxed) {
                let read = if answers { device.read(&mut request).unwrap_or(0) } else { 0 };
                // FUSE_INIT of linux/fuse.h is operation 26; its answer, for version 7.31.
                if read >= 16 && u32::from_ne_bytes(request[4..8].try_into().expect("four")) == 26 {
                    let mut reply = Vec::new();
                    reply.extend(80_u32.to_ne_bytes());
                    reply.extend(0_u32.to_ne_bytes());
                    reply.extend_from_slice(&request[8..16]);
                    reply.extend(7_u32.to_ne_bytes());
                    reply.extend(31_u32.to_ne_bytes());
                    reply.extend(4096_u32.to_ne_bytes());
                    reply.extend(0_u32.to_ne_bytes());
                    reply.extend([0; 4]);
                    reply.extend(4096_u32.to_ne_bytes());
                    reply.extend(1_u32.to_ne_bytes());
                    reply.resize(80, 0);
                    device.write_all(&reply).expect("an answer");
                }
                thread::sleep(Duration::from_millis(2));
            }
        }));
    }
}

impl Drop for DeadMount {
    fn drop(&mut self) {
        // Once no descriptor is left, the kernel aborts the connection, and processes that hang in
        // it continue.
        self.ended.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// The supervisor accessed users' paths itself, and hung in a mount that did not answer.
fn a_dead_mount_hangs_its_worker_alone(answers: bool) {
    if !root() {
        return;
    }
    let place = Place::new();
    start_host(&place, "good.db").stop();
    fs::create_dir(place.path().join("dead")).expect("a folder");
    let Some(mut mount) = DeadMount::new() else { return skipped("no /dev/fuse") };
    let mut command = Command::new("unshare");
    clean(&mut command, &place);
    let script = "mount -i -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0 none dead || exit 9; \
                  echo mounted >&2; exec \"$@\" </dev/null";
    command.current_dir(place.path()).args(["--mount", "sh", "-c", script, "sh", PROCLEDGER]);
    command.args([
        "watch",
        "good.db",
        "dead/x.db",
        "dead/y.db",
        "--dir",
        "dead",
        "--dir",
        "dead/in",
    ]);
    command.stdin(mount.device.try_clone().expect("a copy"));
    let mut watch = Watch::start(&mut command);
    drop(command);
    mount.serve(answers);
    watch.complaint(&["mounted"]);
    let hung = watch.worker(Path::new("dead/x.db"));
    // The others are served at once.
    let mut host = start_host(&place, "good.db");
    let root = host.spawn("served", "exec sleep 300");
    host.crash();
    watch.done(&["good.db: ", "served pid"]);
    assert!(root.is_dead());
    for path in ["dead/x.db: ", "dead/y.db: ", "dead: ", "dead/in: "] {
        watch.complaint(&[path, "has not answered"]);
    }
    if answers {
        watch.complaint(&["dead/x.db: ", "cannot be killed"]);
        assert!(!hung.is_dead());
        let own = watch.child.id();
        let children = pids().into_iter().filter(|pid| crate::support::parent(*pid) == Some(own));
        assert_eq!(children.count(), 5, "one that hangs is not joined by another");
    } else {
        until("the worker is ended", || hung.is_dead());
        eventually("and another one tries", || {
            (watch.worker(Path::new("dead/x.db")).pid() != hung.pid()).then_some(())
        });
    }
    let mut host = start_host(&place, "good.db");
    host.spawn("again", "exec sleep 300");
    host.crash();
    watch.done(&["good.db: ", "again pid"]);
    stops_soon(watch.child.id());
    drop(mount);
    until("what hung is dead once the mount is", || hung.is_dead());
    finish(watch.child).expect(0);
}

#[test]
fn a_mount_that_does_not_answer_hangs_only_its_worker() {
    a_dead_mount_hangs_its_worker_alone(false);
}

#[test]
fn a_mount_that_blocks_even_sigkill_hangs_only_its_worker() {
    a_dead_mount_hangs_its_worker_alone(true);
}

/// The owner of a ledger may signal its worker, and stop it.
#[test]
fn a_worker_that_its_owner_stops_is_replaced_and_stops_no_other() {
    const UID: u32 = 12_354;
    let Some((place, ledger)) = with_a_users_ledger(UID) else { return };
    start_host(&place, "mine.db").stop();
    let mut watch = Watch::on(&place, &["mine.db", ledger.to_str().expect("text")]);
    let worker = watch.worker(&ledger);
    becomes(worker.pid(), UID);
    let mut stop = as_user(&place, UID);
    answer(stop.args(["kill", "-STOP", &worker.pid().to_string()])).expect(0);
    let mut mine = start_host(&place, "mine.db");
    mine.spawn("mine", "exec sleep 300");
    mine.crash();
    watch.done(&["mine.db: ", "mine pid"]);
    // It may have been about to open its ledger.
    watch.complaint(&[ledger.to_str().expect("text"), "it is killed and replaced"]);
    until("it is ended", || worker.is_dead());
    let running = run_as(&place, UID, &ledger);
    let orphan = PidfdWatch::on(running.said.parse().expect("a pid"));
    running.crash();
    until("the next one does its work", || orphan.is_dead());
    watch.stop().expect(0);
}

/// It waited 15 s for a worker in the middle of a long grace period.
#[test]
fn a_stop_does_not_wait_for_a_long_grace_and_loses_nothing() {
    let place = Place::new();
    let mut stubborn =
        Host::start_on(&place, &place.path().join("busy.db"), "program=api grace=60000");
    // Not before it ignores the signal.
    let deaf = place.path().join("deaf");
    let script = format!("trap '' TERM; : > {}; while :; do sleep 1; done", deaf.display());
    let tree = stubborn.spawn("busy", &script);
    place.wait_for("deaf");
    let mut stubborn = Some(stubborn);
    for args in [&["watch", "busy.db"][..], &["--db", "busy.db", "watch"]] {
        let watch = Watch::start(bare(&place).args(args).current_dir(place.path()));
        if let Some(stubborn) = stubborn.take() {
            watch.worker(Path::new("busy.db"));
            stubborn.crash();
        }
        let state = || {
            let ledger =
                rusqlite::Connection::open(place.path().join("busy.db")).expect("a ledger");
            let query = "SELECT count(*) FROM process JOIN instance ON instance.id = process.claimed_by \
                         WHERE state = 'ending' AND instance.pid IN (SELECT value FROM json_each(?1))";
            let own = watch.child.id();
            let ours: Vec<u32> = pids()
                .into_iter()
                .filter(|&pid| pid == own || crate::support::parent(pid) == Some(own))
                .collect();
            ledger
                .query_row(query, [serde_json::to_string(&ours).expect("JSON")], |row| {
                    row.get::<_, i64>(0)
                })
                .is_ok_and(|count| count > 0)
        };
        until("it is in the middle of ending the tree", state);
        stops_soon(watch.child.id());
        finish(watch.child);
        assert!(!tree.is_dead(), "its grace is not over");
    }
    let ledger = rusqlite::Connection::open(place.path().join("busy.db")).expect("a ledger");
    let count: i64 = ledger
        .query_row("SELECT count(*) FROM process WHERE state <> 'ended'", [], |row| row.get(0))
        .expect("a count");
    assert!(count >= 1, "the row is the next one's");
}

/// Names in another user's folder are untrusted data, and so are the paths that are built from
/// them.
#[test]
fn a_hostile_name_in_a_folder_is_printed_as_one_harmless_line() {
    let place = Place::new();
    let folder = place.path().join("folder");
    fs::create_dir(&folder).expect("a folder");
    let name = "a\x1b[2J\nprocledger: good.db: forged\r.db";
    fs::write(folder.join(name), "no ledger at all, and long enough to be read").expect("a file");
    fs::set_permissions(folder.join(name), Permissions::from_mode(0o600)).expect("a mode");
    let mut watch = Watch::on(&place, &["--dir", "folder"]);
    watch.complaint(&["procledger: folder/a\\x1b[2J\\x0aprocledger: good.db: forged\\x0d.db: "]);
    assert!(
        watch.log.iter().all(|line| line.starts_with("procledger: folder/a\\x1b")),
        "{:?}",
        watch.log
    );
    watch.stop().expect(0);
}

#[test]
fn a_removed_and_recreated_folder_is_watched_again() {
    let place = Place::new();
    let folder = place.path().join("folder");
    let mut watch = Watch::on(&place, &["--dir", "folder", "folder/named.db"]);
    watch.complaint(&["folder: does not exist"]);
    for round in ["one", "two", "three"] {
        fs::create_dir(&folder).expect("a folder");
        for name in ["named", round] {
            let mut host = start_host(&place, &format!("folder/{name}.db"));
            host.spawn(&format!("{name}-{round}"), "exec sleep 300");
            host.crash();
            watch.done(&[&format!("folder/{name}.db: "), &format!("{name}-{round} pid")]);
        }
        let workers =
            ["named", round].map(|name| watch.worker(&PathBuf::from(format!("folder/{name}.db"))));
        thread::sleep(Duration::from_millis(300));
        fs::remove_dir_all(&folder).expect("removed");
        until("the one that was found has no worker any more", || workers[1].is_dead());
    }
    watch.stop().expect(0);
}

/// A worker must not handle a user's folder that belongs to another user: the owner is looked up as
/// root, the rest is done as the owner.
#[test]
fn a_folder_of_a_user_is_listed_as_that_user() {
    const UID: u32 = 12_355;
    need!("setpriv");
    if !root() {
        return;
    }
    let place = Place::new();
    let ledger = users_place(&place, UID);
    let folder = ledger.parent().expect("a folder");
    // A link to a file that this user may not see is not a ledger of the folder.
    let hidden = place.path().join("hidden");
    fs::create_dir(&hidden).expect("a folder");
    fs::set_permissions(&hidden, Permissions::from_mode(0o700)).expect("a mode");
    fs::write(hidden.join("roots.db"), "").expect("a file");
    std::os::unix::fs::symlink(hidden.join("roots.db"), folder.join("link.db")).expect("a link");
    let watch = Watch::on(&place, &["--dir", folder.to_str().expect("text")]);
    becomes(watch.worker(folder).pid(), UID);
    let running = run_as(&place, UID, &ledger);
    let orphan = PidfdWatch::on(running.said.parse().expect("a pid"));
    becomes(watch.worker(&ledger).pid(), UID);
    running.crash();
    until("what was left is dead", || orphan.is_dead());
    watch.done(&[&ledger.display().to_string(), "theirs pid"]);
    let path = folder.join("link.db");
    let has_worker = pids().into_iter().any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let path = path.as_os_str().as_encoded_bytes();
        line.split(|&byte| byte == 0).any(|word| word == path)
    });
    assert!(!has_worker);
    let _ = chown(folder, Some(0), Some(0));
    watch.stop().expect(0);
}
