//! `run --die-with-parent` and `--owner`: when the caller ends, however it ends, the whole tree is
//! ended and recorded, and the task can be started again.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Signal, pidfd_send_signal},
};

use crate::{
    cli::command::{
        Answer, PROCLEDGER, Running, answer, clean, containments, finish, procledger, run,
    },
    containment::task_cgroups::can_use_cgroups,
    support::{
        FairClock, Guard, PidfdWatch, Place, at_once, eventually, in_namespace,
        in_namespace_with_init, is_alive, parent, pidfd, processes_with, root, state, stays, until,
    },
};

const GRACE: Duration = Duration::from_millis(300);
/// What an end may take beyond the grace, by a [`FairClock`].
const LIMIT: Duration = Duration::from_secs(2);

/// What the task starts.
#[derive(Clone, Copy, Debug)]
enum Tree {
    Obedient,
    /// A member ignores SIGTERM.
    Stubborn,
    /// A member has a session of its own, and its parent is gone.
    Daemon,
}

/// How the task loses its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    CallerKilled,
    /// The caller and `run` are killed at the same moment.
    BothKilled,
    /// The caller exits normally and does not wait for `run`.
    CallerExits,
    /// `run` is a child of another process than its owner.
    OwnerKilled,
    /// `run` is stopped when its caller is killed.
    RunStopped,
}

const TREES: [Tree; 3] = [Tree::Obedient, Tree::Stubborn, Tree::Daemon];
const LOSSES: [Loss; 5] =
    [Loss::CallerKilled, Loss::BothKilled, Loss::CallerExits, Loss::OwnerKilled, Loss::RunStopped];

impl Tree {
    /// A script that creates `up` once all of the tree runs.
    fn script(self) -> &'static str {
        match self {
            Self::Obedient => "sleep 3600 & echo $$ > up; wait",
            Self::Stubborn => {
                "sh -c 'trap \"\" TERM; echo $PPID > up; while :; do sleep 3600; done' & wait"
            }
            Self::Daemon => {
                "(setsid sh -c 'touch daemon; exec sleep 3600' &); \
                 while [ ! -e daemon ]; do sleep 0.05; done; echo $$ > up; exec sleep 3600"
            }
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    let fd = pidfd(pid).expect("it lives");
    pidfd_send_signal(&fd, signal).expect("a signal");
}

/// A task, its `run`, and the process on whose behalf it runs.
struct Scene {
    place: Place,
    run: PidfdWatch,
    caller: Guard,
    /// `run`, where it is a child of this test.
    child: Option<Guard>,
}

impl Scene {
    fn new(containment: &str, tree: Tree, loss: Loss) -> Self {
        let place = Place::new();
        place.script("tree", tree.script());
        let options = format!("--containment {containment} --grace {}ms", GRACE.as_millis());
        let mut child = None;
        let caller = if loss == Loss::OwnerKilled {
            let owner = place.child("exec sleep 3600");
            let command = format!("/proc/{}/cmdline", owner.pid());
            let is_sleep = |line: String| line.starts_with("sleep");
            until("it is sleep", || std::fs::read_to_string(&command).is_ok_and(is_sleep));
            let mut run = procledger(&place);
            run.args(["run", "--task", "t", "--owner", &owner.pid().to_string()]);
            run.args(options.split(' ')).args(["--", "./tree"]).current_dir(place.path());
            run.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            child = Some(Guard(run.spawn().expect("procledger")));
            owner
        } else {
            let end = if loss == Loss::CallerExits {
                "while [ ! -e leave ]; do sleep 0.05; done; exit 0"
            } else {
                "wait"
            };
            let mut caller = Command::new("sh");
            clean(&mut caller, &place);
            let script = format!(
                "\"$0\" run --task t --die-with-parent {options} -- ./tree > out 2>&1 & \
                 echo $! > run; {end}"
            );
            caller.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
            caller.args(["-c", &script, PROCLEDGER, place.marker()]);
            Guard(caller.spawn().expect("a caller"))
        };
        place.wait_for("up");
        let run = match &child {
            Some(child) => PidfdWatch::on(child.pid()),
            None => place.watch("run"),
        };
        Self { place, run, caller, child }
    }

    fn lose(&mut self, loss: Loss) {
        match loss {
            Loss::CallerExits => {
                std::fs::write(self.place.path().join("leave"), "").expect("a file");
                self.caller.0.wait().expect("a child");
            }
            Loss::CallerKilled | Loss::OwnerKilled => {
                self.caller.0.kill().expect("killed");
            }
            Loss::BothKilled => {
                signal(self.run.pid(), Signal::KILL);
                self.caller.0.kill().expect("killed");
                // Until it has exited it holds its lock, as a `run` does that is only stopped.
                until("it is dead", || self.run.is_dead());
            }
            Loss::RunStopped => {
                signal(self.run.pid(), Signal::STOP);
                until("it is stopped", || state(self.run.pid()) == Some('T'));
                self.caller.0.kill().expect("killed");
            }
        }
        self.caller.0.wait().expect("a child");
    }

    fn again(&self) -> Answer {
        run(&self.place, &["run", "--task", "t", "--containment", "session", "--", "true"])
    }
}

fn check(containment: &str, tree: Tree, loss: Loss) {
    let what = format!("{containment}, {tree:?}, {loss:?}");
    let mut scene = Scene::new(containment, tree, loss);
    let marker = scene.place.marker().to_owned();
    let clock = FairClock::start(move || processes_with(&marker));
    scene.lose(loss);
    // Nothing that is alive acts for a `run` that is killed or stopped, except a keeper.
    let acts = containment == "keeper" && loss == Loss::BothKilled
        || !matches!(loss, Loss::BothKilled | Loss::RunStopped);
    if acts && matches!(tree, Tree::Stubborn) {
        // The restarted caller comes within the grace.
        scene.again().expect(0);
    }
    let ended = |scene: &Scene| {
        let stopped = (loss == Loss::RunStopped).then(|| scene.run.pid());
        let mut alive = scene.place.alive();
        alive.retain(|pid| Some(*pid) != stopped);
        alive.is_empty()
    };
    if acts {
        until(&what, || ended(&scene));
    } else {
        scene.again().expect(0);
        assert!(ended(&scene), "{what}: {:?}", scene.place.alive());
    }
    let took = clock.stop();
    assert!(took < GRACE + LIMIT, "{what}: {took:?}");
    if loss == Loss::RunStopped {
        signal(scene.run.pid(), Signal::CONT);
        until(&what, || scene.run.is_dead());
    }
    if let Some(child) = &mut scene.child {
        let status = eventually(&what, || child.0.try_wait().expect("a child"));
        assert!(!status.success(), "{what}: {status}");
    }
    scene.again().expect(0);
    let leaks = run(&scene.place, &["report", "--format", "json"]).expect(0).json();
    let leaks = leaks.as_array().expect("leaks");
    assert!(leaks.len() >= 2, "{what}: {leaks:#?}");
    for leak in leaks {
        assert_eq!((&leak["kind"], &leak["task_id"]), (&"orphan".into(), &"t".into()), "{what}");
        let rule = leak["rule"].as_str().expect("a rule");
        if loss == Loss::BothKilled {
            assert!(rule.starts_with("its instance "), "{what}: {rule}");
        } else {
            let caller = format!("its caller {} (", scene.caller.pid());
            let command = if loss == Loss::OwnerKilled { "(sleep 3600)" } else { "(sh -c " };
            assert!(rule.starts_with(&caller) && rule.contains(command), "{what}: {rule}");
        }
    }
    let rows = run(&scene.place, &["ps", "--all", "--json"]).expect(0).json();
    let rows = rows.as_array().expect("rows").iter();
    let mut reasons: Vec<_> = rows.map(|row| row["end_reason"].as_str().expect("ended")).collect();
    reasons.retain(|reason| *reason != "exited");
    assert!(reasons.iter().all(|reason| *reason == "orphan"), "{what}: {reasons:?}");
}

fn check_all(containment: &str) {
    for tree in TREES {
        std::thread::scope(|scope| {
            for loss in LOSSES {
                scope.spawn(move || check(containment, tree, loss));
            }
        });
    }
}

#[test]
fn in_a_session_no_tree_outlives_its_caller() {
    if in_namespace_with_init("cli::run_callers::in_a_session_no_tree_outlives_its_caller") {
        check_all("session");
    }
}

#[test]
fn in_a_cgroup_no_tree_outlives_its_caller() {
    if in_namespace_with_init("cli::run_callers::in_a_cgroup_no_tree_outlives_its_caller")
        && can_use_cgroups()
    {
        check_all("cgroup");
    }
}

#[test]
fn under_a_keeper_no_tree_outlives_its_caller() {
    // Inside a user namespace the keeper's file belongs to an unknown user, and root there does not
    // use it.
    if root()
        && in_namespace_with_init("cli::run_callers::under_a_keeper_no_tree_outlives_its_caller")
    {
        check_all("keeper");
    }
}

/// The program does not run; one line says why.
#[track_caller]
fn refused(place: &Place, command: &mut Command, why: &str) {
    let answer = answer(command).expect(2);
    assert!(answer.complaint().contains(why), "{answer:#?}");
    assert!(!place.path().join("ran").exists(), "the program ran");
}

#[test]
fn an_owner_that_cannot_be_pinned_is_a_usage_error() {
    let place = Place::new();
    let mut dead = place.child("exit 0");
    until("it is a zombie", || state(dead.pid()) == Some('Z'));
    let alive = place.child("exec sleep 3600");
    let owners = [
        (dead.pid().to_string(), "has ended"),
        ("4194304".to_owned(), "does not exist"),
        (format!("{}:1", alive.pid()), "PID was reused"),
    ];
    let command = || {
        let mut command = procledger(&place);
        command.current_dir(place.path()).args(["run", "--task", "t"]);
        command
    };
    for (owner, why) in &owners {
        refused(&place, command().args(["--owner", owner, "--", "touch", "ran"]), why);
        let mut by_variable = command();
        by_variable.env("PROCLEDGER_OWNER", owner).args(["--", "touch", "ran"]);
        refused(&place, &mut by_variable, why);
    }
    dead.0.wait().expect("a child");
    let dead = dead.pid().to_string();
    refused(&place, command().args(["--owner", &dead, "--", "touch", "ran"]), "does not exist");
    for typed in ["0", "-1", "x", "", "1:", "1:x", "99999999999"] {
        let mut by_variable = command();
        by_variable.env("PROCLEDGER_OWNER", typed).args(["--", "touch", "ran"]);
        if !typed.is_empty() {
            refused(&place, &mut by_variable, "PROCLEDGER_OWNER");
        }
        let answer = answer(command().args([&format!("--owner={typed}"), "--", "touch", "ran"]));
        assert!(answer.expect(2).err.contains("--owner"), "{typed}");
    }
    // A shell executes its last command in its own place, so `$$` is `run` itself.
    for line in
        ["exec $P run --owner $$ -- touch ran", "PROCLEDGER_OWNER=$$ exec $P run -- touch ran"]
    {
        let mut shell = Command::new("sh");
        clean(&mut shell, &place);
        shell.args(["-c", line]).env("P", PROCLEDGER).env("PROCLEDGER_DB", place.ledger());
        shell.current_dir(place.path());
        refused(&place, &mut shell, "use --die-with-parent");
    }
    for both in [["--owner=1", "--survive"], ["--die-with-parent", "--survive"]] {
        let answer = answer(command().args(both).args(["--", "touch", "ran"])).expect(2);
        assert!(answer.err.contains("cannot be used with"), "{answer:#?}");
    }
    assert!(!place.path().join("ran").exists(), "the program ran");
}

#[test]
fn an_owner_can_be_named_with_its_start_tick() {
    let place = Place::new();
    let mut owner = place.child("exec sleep 3600");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", owner.pid())).expect("a stat");
    let tick = stat.rsplit_once(") ").expect("a name").1.split(' ').nth(22 - 3).expect("a tick");
    let named = format!("{}:{tick}", owner.pid());
    let running = Running::start(&place, "t", &["--owner", &named], "echo up; exec sleep 3600");
    owner.0.kill().expect("killed");
    let answer = running.finish().expect(128 + 15);
    assert_eq!(answer.err, "procledger: task t was ended, since its owner has ended\n");
}

/// If the environment names an owner for all tasks, a task that is to survive does not get it.
#[test]
fn a_task_that_survives_its_owners_ignores_the_owner_in_the_environment() {
    let place = Place::new();
    let mut owner = place.child("exec sleep 3600");
    let mut command = procledger(&place);
    command.env("PROCLEDGER_OWNER", owner.pid().to_string());
    command.args(["run", "--task", "t", "--survive", "--", "sh", "-c", "echo $$; exec sleep 3600"]);
    let running = Running::spawn(&mut command);
    let program: u32 = running.said.parse().expect("a pid");
    owner.0.kill().expect("killed");
    owner.0.wait().expect("a child");
    stays("it runs", || is_alive(program));
    run(&place, &["kill", "t"]).expect(0);
    running.finish().expect(128 + 15);
}

/// The parent of an orphan is its reaper, which may be the caller, unless it is the init of the
/// machine.
#[test]
fn a_parent_that_has_ended_already_is_a_usage_error() {
    let place = Place::new();
    let mut caller = Command::new("sh");
    clean(&mut caller, &place);
    let orphan = "echo $$ > pid; while [ ! -e go ]; do sleep 0.05; done; \
                  exec \"$0\" run --task t --die-with-parent -- touch ran";
    let script = format!("sh -c '{orphan}' \"$0\" > out 2> err < /dev/null &");
    caller.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    answer(caller.args(["-c", &script, PROCLEDGER, place.marker()])).expect(0);
    let orphan = place.watch("pid");
    let initial = std::fs::read_link("/proc/self/ns/pid").expect("a link");
    let certain = parent(orphan.pid()) == Some(1) && initial.ends_with("pid:[4026531836]");
    std::fs::write(place.path().join("go"), "").expect("a file");
    until("it has ended", || orphan.is_dead());
    let err = std::fs::read_to_string(place.path().join("err")).expect("a file");
    assert_eq!(place.path().join("ran").exists(), !certain, "{err}");
    assert_eq!(err.contains("--die-with-parent: the parent of this process has ended"), certain);
}

/// In a container the caller may be the first process: when it ends, the kernel ends all others.
#[test]
fn the_first_process_of_a_container_may_be_the_caller() {
    if in_namespace("cli::run_callers::the_first_process_of_a_container_may_be_the_caller") {
        assert_eq!(std::process::id(), 1);
        let place = Place::new();
        let answer = run(&place, &["run", "--task", "t", "--die-with-parent", "--", "true"]);
        assert_eq!(answer.expect(0).err, "");
    }
}

#[test]
fn a_second_run_waits_for_the_first_or_replaces_it_or_fails() {
    let place = Place::new();
    let first = Running::start(&place, "t", &[], "echo up; while [ ! -e go ]; do sleep 0.05; done");
    for fails in [&["run", "--task", "t"][..], &["run", "--task", "t", "--if-running", "fail"]] {
        let answer = run(&place, &[fails, &["--", "true"]].concat()).expect(75);
        assert!(answer.complaint().contains("already"), "{answer:#?}");
    }
    let waiting = procledger(&place)
        .args(["run", "--task", "t", "--if-running", "wait", "--", "sh", "-c", "exit 4"])
        .spawn()
        .expect("procledger");
    let mut waiting = Guard(waiting);
    stays("it waits", || waiting.is_running());
    run(&place, &["kill", "t"]).expect(0);
    first.finish().expect(128 + 15);
    let status = eventually("the second one runs", || waiting.0.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(4));

    let third = Running::start(&place, "t", &[], "echo up; exec sleep 3600");
    let args = ["run", "--task", "t", "--if-running", "replace", "--", "sh", "-c", "exit 5"];
    let answer = run(&place, &args).expect(5);
    assert_eq!(answer.err, "procledger: task t already runs: ending it first\n");
    third.finish().expect(128 + 15);
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    assert_eq!(rows[1]["end_reason"], "killed", "{rows:#}");
    assert!(rows[1]["end_rule"].as_str().expect("a rule").contains("(procledger run)"), "{rows:#}");
}

#[test]
fn a_run_that_waits_for_an_earlier_one_can_be_interrupted() {
    let place = Place::new();
    let first = Running::start(&place, "t", &[], "echo up; exec sleep 3600");
    let mut waiting = Guard(
        procledger(&place)
            .args(["run", "--task", "t", "--if-running", "wait", "--", "true"])
            .spawn()
            .expect("procledger"),
    );
    stays("it waits", || waiting.is_running());
    signal(waiting.pid(), Signal::TERM);
    let status = eventually("it ends", || waiting.0.try_wait().expect("a child"));
    assert_eq!(status.signal(), Some(15));
    first.signal(Signal::TERM);
    first.finish().expect(128 + 15);
}

/// Whichever is first ends the earlier run, with its whole grace; it was killed at once if two came
/// at the same time, and each of them printed hundreds of lines meanwhile.
#[test]
fn several_runs_that_replaced_the_same_one_cut_its_grace_short() {
    // It gets a single stop signal, and ends after a while.
    const OBEYS: &str = "trap 'sleep 0.3; exit 3' TERM; echo up; sleep 3600 & wait";
    at_once(containments(), |containment| {
        let place = Place::new();
        let options = ["--containment", containment, "--grace", "60s"];
        let first = Running::start(&place, "t", &options, OBEYS);
        let others: Vec<Child> = (0..5)
            .map(|_| {
                let args = ["run", "--task", "t", "--if-running", "replace"];
                let mut run = procledger(&place);
                run.args(args).args(options).args(["--", "true"]);
                run.spawn().expect("procledger")
            })
            .collect();
        let ended = first.finish();
        assert_eq!(ended.code(), 3, "{containment}: {ended:#?}");
        for other in others {
            let answer = finish(other);
            let announced = answer.err.matches("already runs: ending it first").count();
            assert!(announced <= 1, "{containment}: {answer:#?}");
        }
        let killed = "SELECT count(*) FROM process WHERE exit_signal = 9";
        assert_eq!(place.sqlite3(killed), "0", "{containment}");
    });
}

/// What a caller passes as stderr, and does not read: it is full.
fn full(kind: &str) -> (File, OwnedFd) {
    let (reader, writer): (OwnedFd, OwnedFd) = match kind {
        "pipe" => io::pipe().map(|(reader, writer)| (reader.into(), writer.into())).expect("one"),
        _ => {
            UnixStream::pair().map(|(reader, writer)| (reader.into(), writer.into())).expect("one")
        }
    };
    let flags = fcntl_getfl(&writer).expect("flags");
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).expect("set");
    for length in [1 << 16, 1] {
        while rustix::io::write(&writer, &vec![b'x'; length]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).expect("set");
    (reader.into(), writer)
}

#[test]
fn a_message_that_was_not_read_blocked_run_forever() {
    let kinds = ["pipe", "socket"]
        .into_iter()
        .flat_map(|kind| ["kill", "limit", "owner"].into_iter().map(move |reason| (kind, reason)));
    at_once(kinds.collect::<Vec<_>>(), |(kind, reason)| {
        let place = Place::new();
        let mut owner = place.child("exec sleep 3600");
        let (_reader, writer) = full(kind);
        let pid = owner.pid().to_string();
        let mut command = procledger(&place);
        command.args(["run", "--task", "t", "--owner", &pid]).stderr(Stdio::from(writer));
        if reason == "limit" {
            command.args(["--max-runtime", "300ms"]);
        }
        let script = "echo up; exec sleep 3600";
        let running = Running::spawn(command.args(["--", "sh", "-c", script, place.marker()]));
        match reason {
            "kill" => drop(run(&place, &["kill", "t"]).expect(0)),
            "owner" => owner.0.kill().expect("killed"),
            _ => {}
        }
        running.finish().expect(if reason == "limit" { 124 } else { 128 + 15 });
    });
}

#[test]
fn a_late_reader_gets_the_number_of_dropped_messages() {
    let place = Place::new();
    let first = Running::start(&place, "t", &[], "echo up; exec sleep 3600");
    let (mut reader, writer) = full("pipe");
    let mut command = procledger(&place);
    command.args(["run", "--task", "t", "--if-running", "replace"]).stderr(Stdio::from(writer));
    let script = "echo up; exec sleep 3600";
    let running = Running::spawn(command.args(["--", "sh", "-c", script, place.marker()]));
    drop(command);
    first.finish().expect(128 + 15);
    let flags = fcntl_getfl(&reader).expect("flags");
    fcntl_setfl(&reader, flags | OFlags::NONBLOCK).expect("set");
    let _ = reader.read_to_end(&mut Vec::new()).expect_err("it is empty now");
    fcntl_setfl(&reader, flags).expect("set");
    run(&place, &["kill", "t"]).expect(0);
    running.finish().expect(128 + 15);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("a pipe");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[0], "procledger: 1 line was dropped: standard error was not read");
    assert!(lines[1].starts_with("procledger: task t was ended: asked by "), "{text}");
}

/// The task would have to end first, and this command with it. The command requested that again and
/// again.
#[test]
fn a_run_that_replaced_its_own_task_never_ended() {
    let place = Place::new();
    for how in ["replace", "wait"] {
        let script =
            format!("\"$P\" run --task t --if-running {how} -- touch ran 2>&1; echo $?; exit 4");
        let mut command = procledger(&place);
        command.args(["run", "--task", "t", "--", "sh", "-c", &script, place.marker()]);
        let answer = answer(command.env("P", PROCLEDGER).current_dir(place.path())).expect(4);
        let lines: Vec<&str> = answer.out.lines().collect();
        assert_eq!(lines.len(), 2, "{how}: {answer:#?}");
        assert!(lines[0].contains("start it again from outside of it"), "{how}: {answer:#?}");
        assert_eq!(lines[1], "75", "{how}");
        assert!(!place.path().join("ran").exists(), "{how}: the program ran");
    }
}
