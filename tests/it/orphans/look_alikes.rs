//! The name sweep among processes that only resemble its matches.
//!
//! All of it in a PID namespace whose first process is this test: orphans become its children.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    cli::command::{Answer, PROCLEDGER, answer, clean, run},
    cli::pty::Pty,
    support::{Eye, Guard, Host, Place, in_namespace, need, root, tool, until},
};

/// The expected fate of a member of the cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Left behind: ended.
    Ended,
    /// Exempt, or no match: neither ended nor reported.
    Spared,
    /// Reported and left.
    Suspect,
}

struct Stage {
    place: Place,
    /// The name that is searched for: longer than the 15 characters of `comm`.
    name: String,
    cast: Vec<(&'static str, Eye, Fate)>,
    guards: Vec<Guard>,
    hosts: Vec<Host>,
    terminals: Vec<Pty>,
}

impl Stage {
    fn new(name: impl Fn(&str) -> String) -> Self {
        let place = Place::new();
        let name = name(place.marker());
        let stage = Self {
            place,
            name,
            cast: Vec::new(),
            guards: Vec::new(),
            hosts: Vec::new(),
            terminals: Vec::new(),
        };
        // Other users may run them as well.
        fs::set_permissions(stage.place.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::create_dir(stage.path("cast")).expect("a folder");
        stage.program(&stage.name);
        stage
    }

    fn path(&self, file: &str) -> PathBuf {
        self.place.path().join(file)
    }

    /// A real program of this name that sleeps as long as its argument says.
    fn program(&self, file: &str) -> PathBuf {
        let sleep = tool("sleep").expect("sleep");
        fs::create_dir_all(self.path(file).parent().expect("a folder")).expect("a folder");
        fs::copy(sleep, self.path(file)).expect("a copy");
        self.path(file)
    }

    fn text(&self, file: &str, text: &str) -> PathBuf {
        fs::create_dir_all(self.path(file).parent().expect("a folder")).expect("a folder");
        fs::write(self.path(file), text).expect("a file");
        fs::set_permissions(self.path(file), fs::Permissions::from_mode(0o755)).expect("a mode");
        self.path(file)
    }

    /// A shell script; `$NAME` is the name that is searched for, and its parent is gone when this returns.
    fn orphan(&mut self, label: &'static str, fate: Fate, script: &str) -> u32 {
        let around =
            "sh -c \"$SCRIPT\" & echo $! > \"cast/$0.new\"; mv \"cast/$0.new\" \"cast/$0\"";
        let mut shell = self.shell(around, label);
        shell.env("SCRIPT", script);
        let ended = shell.status().expect("a shell");
        assert!(ended.success(), "{label}: {ended}");
        self.enter(label, fate)
    }

    /// The same below a parent that lives.
    fn child(&mut self, label: &'static str, fate: Fate, script: &str) -> u32 {
        let around =
            "sh -c \"$SCRIPT\" & echo $! > \"cast/$0.new\"; mv \"cast/$0.new\" \"cast/$0\"; wait";
        let mut shell = self.shell(around, label);
        shell.env("SCRIPT", script);
        self.guards.push(Guard(shell.spawn().expect("a shell")));
        self.enter(label, fate)
    }

    fn shell(&self, script: &str, label: &str) -> Command {
        let mut shell = Command::new("sh");
        clean(&mut shell, &self.place);
        shell.args(["-c", script, label]).current_dir(self.place.path()).env("NAME", &self.name);
        // A process that stays must not keep our pipes open.
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        shell
    }

    /// Waits until the process that wrote its pid has executed its final program: no longer the shell with the script's text.
    fn enter(&mut self, label: &'static str, fate: Fate) -> u32 {
        let eye = self.place.eye(&format!("cast/{label}"));
        let pid = eye.pid();
        until(label, || {
            assert!(!eye.is_dead(), "{label} has not begun to play");
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is = |text: &[u8]| line.windows(text.len()).any(|part| part == text);
            !line.is_empty() && !is(b"exec ") && !is(b"$SCRIPT")
        });
        self.cast.push((label, eye, fate));
        pid
    }

    fn add(&mut self, label: &'static str, pid: u32, fate: Fate) {
        self.cast.push((label, Eye::on(pid), fate));
    }

    fn host(&mut self, ledger: &str) -> &mut Host {
        let host = Host::start_on(&self.place, &self.path(ledger), "program=host");
        self.hosts.push(host);
        self.hosts.last_mut().expect("a host")
    }

    fn reap(&self, args: &[&str]) -> Answer {
        let mut all = vec!["reap", "--orphan-name", &self.name];
        all.extend(args);
        run(&self.place, &all)
    }

    fn pids(&self, fate: Fate) -> BTreeSet<u32> {
        self.cast.iter().filter(|(.., its)| *its == fate).map(|(_, eye, _)| eye.pid()).collect()
    }

    fn label(&self, pid: u32) -> &str {
        let member = self.cast.iter().find(|(_, eye, _)| eye.pid() == pid);
        member.map_or("(not of the cast)", |(label, ..)| label)
    }

    /// Checks that no other process was ended.
    fn check_all_live(&self) {
        for (label, eye, _) in &self.cast {
            assert!(!eye.is_dead(), "{label} is dead");
        }
    }

    /// Plans, reaps, and checks that both agree with each other and with the fates.
    fn play(self) {
        let young = self.reap(&["--json", "--min-age", "1h"]).expect(0).json();
        assert_eq!(pids(&young, "endings"), BTreeSet::new(), "{young:#}");
        self.check_all_live();
        let plan = self.reap(&["--dry-run", "--json", "--min-age", "0s"]).expect(0).json();
        let text = self.reap(&["--dry-run", "--min-age", "0s"]).expect(0).out;
        self.check_all_live();
        self.check("planned", &plan);
        for pid in pids(&plan, "endings") {
            assert!(text.contains(&format!(" {pid} ")), "{}: {text}", self.label(pid));
        }
        let done = self.reap(&["--json", "--min-age", "0s"]).expect(0).json();
        self.check("done", &done);
        assert_eq!(pids(&plan, "endings"), pids(&done, "endings"));
        assert_eq!(pids(&plan, "suspects"), pids(&done, "suspects"));
        for ending in done["endings"].as_array().expect("endings") {
            let said = |key: &str| ending[key].as_str().is_some_and(|text| !text.is_empty());
            assert!(said("rule") && said("evidence"), "{ending:#}");
        }
        for (label, eye, fate) in &self.cast {
            assert_eq!(eye.is_dead(), *fate == Fate::Ended, "{label}: {done:#}");
        }
    }

    fn check(&self, what: &str, report: &serde_json::Value) {
        let check = |key, fate| {
            let (actual, meant) = (pids(report, key), self.pids(fate));
            let missing: Vec<_> = meant.difference(&actual).map(|pid| self.label(*pid)).collect();
            let wrong: Vec<_> = actual
                .difference(&meant)
                .map(|pid| self.label(*pid))
                .filter(|label| key != "endings" || *label != "(not of the cast)")
                .collect();
            assert!(missing.is_empty(), "not {what} among {key}: {missing:?}: {report:#}");
            assert!(wrong.is_empty(), "wrongly {what} among {key}: {wrong:?}: {report:#}");
        };
        check("endings", Fate::Ended);
        check("suspects", Fate::Suspect);
    }
}

fn pids(report: &serde_json::Value, key: &str) -> BTreeSet<u32> {
    let all = report[key].as_array().expect("a list");
    all.iter()
        .map(|one| one["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid"))
        .collect()
}

/// The name with characters that confuse code which parses `/proc/PID/stat` or splits by spaces.
fn odd(marker: &str) -> String {
    format!("odd ) S 1 (name {marker}")
}

fn left_behind(stage: &mut Stage) {
    stage.orphan("executable", Fate::Ended, "exec ./\"$NAME\" 300");
    stage.orphan("another argv[0]", Fate::Ended, "exec bash -c 'exec -a other ./\"$NAME\" 300'");
    stage.orphan("argv[0]", Fate::Ended, "exec bash -c 'exec -a \"/x/$NAME\" sleep 300'");
    stage.orphan("wiped environment", Fate::Ended, "exec env -i ./\"$NAME\" 300");
    stage.orphan("own session", Fate::Ended, "exec setsid ./\"$NAME\" 300");
    stage.program(&format!("deleted/{}", stage.name));
    stage.orphan("deleted", Fate::Ended, "cd deleted; exec ./\"$NAME\" 300");
    fs::remove_dir_all(stage.path("deleted")).expect("removed");
    stage.text(&format!("sh/{}", stage.name), "#!/bin/sh\n(sleep 300; :) & sleep 300; :\n");
    // A shell, its subshell of the same name, and their sleeps.
    stage.orphan("script", Fate::Ended, "exec sh/\"$NAME\"");
    stage.orphan("script of sh", Fate::Ended, "exec sh -u sh/\"$NAME\" argument");
    stage.orphan("script of bash", Fate::Ended, "exec bash --norc -o pipefail sh/\"$NAME\"");
    stage.text(&format!("env/{}", stage.name), "#!/usr/bin/env -S bash -eu\nsleep 300\n:\n");
    stage.orphan("env -S", Fate::Ended, "exec env/\"$NAME\"");
}

/// `python3` on PATH may be a script that takes a while to find the real one.
fn becomes(stage: &Stage, interpreter: &str) {
    let (label, eye, _) = stage.cast.last().expect("it was just added");
    until(label, || {
        assert!(!eye.is_dead(), "{label} has not begun to play");
        let path = fs::read_link(format!("/proc/{}/exe", eye.pid())).unwrap_or_default();
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(interpreter))
    });
}

fn left_behind_by_interpreters(stage: &mut Stage) {
    if tool("perl").is_some() {
        let title = "$0 = \"$ENV{NAME}: idle\"; sleep 300";
        stage.text("title", title);
        stage.orphan("title", Fate::Ended, "exec perl title");
        until("the title is set", || {
            let pid = stage.cast.last().expect("the title").1.pid();
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(": idle"))
        });
        stage.text(&format!("perl/{}", stage.name), "sleep 300;");
        stage.orphan("script of perl", Fate::Ended, "exec perl -I lib -w perl/\"$NAME\"");
        stage.orphan("text of perl", Fate::Spared, "exec perl -we 'sleep 300' \"$NAME\"");
    }
    if tool("python3").is_some() {
        stage.text(&format!("python/{}", stage.name), "import time\ntime.sleep(300)\n");
        stage.text(&format!("python/{}.py", stage.name), "import time\ntime.sleep(300)\n");
        let python =
            "PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE; cd python; exec python3";
        let orphan = format!("{python} -u -W ignore ./\"$NAME\"");
        stage.orphan("script of python", Fate::Ended, &orphan);
        becomes(stage, "python");
        stage.orphan("NAME.py", Fate::Spared, &format!("{python} \"$NAME.py\""));
        becomes(stage, "python");
        stage.orphan("module", Fate::Spared, &format!("{python} -m \"$NAME\""));
        becomes(stage, "python");
    }
    if tool("node").is_some() {
        stage.text(&format!("node/{}", stage.name), "setTimeout(() => {}, 300000);\n");
        stage.text("node/other.cjs", "setTimeout(() => {}, 300000);\n");
        let node = "exec node --require ./node/other.cjs node/\"$NAME\"";
        stage.orphan("script of node", Fate::Ended, node);
        becomes(stage, "node");
        let required = "exec node --require \"./node/$NAME\" node/other.cjs";
        stage.orphan("required by node", Fate::Spared, required);
        becomes(stage, "node");
    }
}

fn look_alikes(stage: &mut Stage) {
    fs::write(stage.path(&format!("{}.log", stage.name)), "").expect("a log");
    stage.orphan("tail", Fate::Spared, "exec tail -f \"$NAME.log\"");
    stage.orphan("tail of itself", Fate::Spared, "exec tail -f \"$NAME\"");
    stage.text("vim", "#!/bin/sh\nsleep 300\n:\n");
    stage.orphan("editor", Fate::Spared, "exec ./vim \"$NAME.md\"");
    stage.orphan("editor of the program", Fate::Spared, "exec ./vim \"$NAME\"");
    stage.orphan("mention", Fate::Spared, "eval \"exec sh -c \\\"sleep 300; : '$NAME'\\\"\"");
    stage.orphan("argument", Fate::Spared, "exec sh ./vim \"$NAME\"");
    stage.program(&format!("{}-helper", stage.name));
    stage.orphan("longer name", Fate::Spared, "exec ./\"$NAME-helper\" 300");
    stage.program(&format!("{}.d/other", stage.name));
    stage.orphan("folder", Fate::Spared, "exec ./\"$NAME.d\"/other 300");
    stage.child("living parent", Fate::Suspect, "exec ./\"$NAME\" 300");
    stage.orphan("service", Fate::Suspect, "SYSTEMD_EXEC_PID=$$ exec ./\"$NAME\" 300");
    stage.orphan("below a service", Fate::Ended, "SYSTEMD_EXEC_PID=1 exec ./\"$NAME\" 300");
}

fn owned(stage: &mut Stage) {
    let registered = stage.orphan("registered", Fate::Spared, "exec ./\"$NAME\" 300");
    let program = stage.path(&stage.name.clone());
    let program = format!("'{}' 300", program.display());
    let (wiped, token) = (stage.path("cast/wiped"), stage.path("cast/token"));
    let host = stage.host("ledger.db");
    assert_eq!(host.ask(&format!("register theirs {registered}")), "done");
    let spawned = host.spawn("spawned", &format!("exec {program}")).pid();
    let below = format!("env -i {program} & echo $! > {}; wait", wiped.display());
    host.spawn("root", &below);
    stage.enter("wiped", Fate::Spared);
    stage.add("spawned", spawned, Fate::Spared);
    let other = stage.host("other.db");
    // Its parent is gone, and a process with a token of a ledger that this sweep does not know is left.
    let daemon = format!("(setsid {program} & echo $! > {}); sleep 300; :", token.display());
    other.spawn("daemon", &daemon);
    stage.enter("token", Fate::Spared);
}

fn a_person(stage: &mut Stage) {
    let terminal = Pty::new();
    let person = terminal.spawn(Command::new(stage.path(&stage.name.clone())).arg("300"));
    stage.add("person", person.pid(), Fate::Spared);
    stage.guards.push(person);
    stage.terminals.push(terminal);
}

fn a_container(stage: &mut Stage) {
    stage.text(
        "inner",
        "#!/bin/sh\nunshare --pid --fork ./\"$NAME\" 300 & pid=$!\n\
        while read -r inner < /proc/$pid/task/$pid/children; [ -z \"$inner\" ]; do sleep 0.01; done\n\
        kill -KILL $pid; echo $inner > cast/container\n",
    );
    let status = stage.shell("./inner", "inner").status().expect("a shell");
    assert!(status.success(), "{status}");
    stage.enter("container", Fate::Spared);
}

#[test]
fn the_sweep_ends_orphans_and_spares_look_alikes() {
    if !in_namespace("orphans::look_alikes::the_sweep_ends_orphans_and_spares_look_alikes") {
        return;
    }
    let mut stage = Stage::new(|marker| format!("worker-{marker}"));
    left_behind(&mut stage);
    left_behind_by_interpreters(&mut stage);
    look_alikes(&mut stage);
    owned(&mut stage);
    a_person(&mut stage);
    a_container(&mut stage);
    stage.play();
}

#[test]
fn a_name_may_have_spaces_and_parentheses() {
    if !in_namespace("orphans::look_alikes::a_name_may_have_spaces_and_parentheses") {
        return;
    }
    let mut stage = Stage::new(odd);
    left_behind(&mut stage);
    look_alikes(&mut stage);
    owned(&mut stage);
    stage.play();
}

/// A made-up user.
const USER: [&str; 4] = ["--reuid=12345", "--regid=12345", "--clear-groups", "--"];

#[test]
fn root_leaves_another_users_match_and_a_user_leaves_roots() {
    need!("setpriv");
    if !root()
        || !in_namespace(
            "orphans::look_alikes::root_leaves_another_users_match_and_a_user_leaves_roots",
        )
    {
        return;
    }
    let mut stage = Stage::new(|marker| format!("worker-{marker}"));
    let mine = stage.orphan("mine", Fate::Ended, "exec ./\"$NAME\" 300");
    let user = USER.join(" ");
    let theirs =
        stage.orphan("theirs", Fate::Spared, &format!("exec setpriv {user} ./\"$NAME\" 300"));
    until("it belongs to the user", || crate::support::is_only(theirs, 12345));
    // First as the user, on a ledger of that user: root's process lives.
    let folder = stage.path("theirs.d");
    fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::chown(&folder, Some(12345), Some(12345)).expect("a gift");
    fs::copy(PROCLEDGER, stage.path("procledger")).expect("a copy");
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        clean(&mut command, &stage.place);
        command.args(USER).arg(stage.path("procledger")).arg("--db").arg(folder.join("ledger.db"));
        answer(command.args(args)).expect(0)
    };
    as_user(&["reap"]);
    let name = stage.name.as_str();
    let plan = as_user(&["reap", "--dry-run", "--json", "--min-age", "0s", "--orphan-name", name]);
    let plan = plan.json();
    assert_eq!(pids(&plan, "endings"), BTreeSet::from([theirs]), "{plan:#}");
    assert!(!pids(&plan, "suspects").contains(&mine), "{plan:#}");
    stage.play();
}
