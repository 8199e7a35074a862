//! A name match among processes that only resemble the matches.
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
    support::{
        Guard, Host, PidfdWatch, Place, copy_program, in_namespace, need, root, tool, until,
        write_program,
    },
};

/// The expected fate of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Left behind: ended.
    Ended,
    /// Exempt, or no match: neither ended nor reported.
    Spared,
    /// Reported and left.
    Suspect,
}

struct Fixture {
    place: Place,
    /// The name that is searched for: longer than the 15 characters of `comm`.
    name: String,
    members: Vec<(&'static str, PidfdWatch, Fate)>,
    guards: Vec<Guard>,
    hosts: Vec<Host>,
    terminals: Vec<Pty>,
}

impl Fixture {
    fn new(name: impl Fn(&str) -> String) -> Self {
        let place = Place::new();
        let name = name(place.marker());
        let fixture = Self {
            place,
            name,
            members: Vec::new(),
            guards: Vec::new(),
            hosts: Vec::new(),
            terminals: Vec::new(),
        };
        // Other users may run them as well.
        fs::set_permissions(fixture.place.path(), fs::Permissions::from_mode(0o755))
            .expect("a mode");
        fs::create_dir(fixture.path("members")).expect("a folder");
        fixture.program(&fixture.name);
        fixture
    }

    fn path(&self, file: &str) -> PathBuf {
        self.place.path().join(file)
    }

    /// A real program of this name that sleeps as long as its argument says.
    fn program(&self, file: &str) -> PathBuf {
        let sleep = tool("sleep").expect("sleep");
        fs::create_dir_all(self.path(file).parent().expect("a folder")).expect("a folder");
        copy_program(sleep, self.path(file));
        self.path(file)
    }

    fn text(&self, file: &str, text: &str) -> PathBuf {
        fs::create_dir_all(self.path(file).parent().expect("a folder")).expect("a folder");
        write_program(&self.path(file), text);
        self.path(file)
    }

    /// A shell script; `$NAME` is the name that is searched for, and its parent is gone when this
    /// returns.
    fn orphan(&mut self, label: &'static str, fate: Fate, script: &str) -> u32 {
        let around = "sh -c \"$SCRIPT\" & echo $! > \"members/$0.new\"; mv \"members/$0.new\" \"members/$0\"";
        let mut shell = self.shell(around, label);
        shell.env("SCRIPT", script);
        let ended = shell.status().expect("a shell");
        assert!(ended.success(), "{label}: {ended}");
        self.enter(label, fate)
    }

    /// The same below a parent that lives.
    fn child(&mut self, label: &'static str, fate: Fate, script: &str) -> u32 {
        let around = "sh -c \"$SCRIPT\" & echo $! > \"members/$0.new\"; mv \"members/$0.new\" \"members/$0\"; wait";
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

    /// Waits until the process that wrote its pid has executed its final program: no longer the
    /// shell with the script's text.
    fn enter(&mut self, label: &'static str, fate: Fate) -> u32 {
        let watched = self.place.watch(&format!("members/{label}"));
        let pid = watched.pid();
        until(label, || {
            assert!(!watched.is_dead(), "{label} has not started");
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is = |text: &[u8]| line.windows(text.len()).any(|part| part == text);
            !line.is_empty() && !is(b"exec ") && !is(b"$SCRIPT")
        });
        self.members.push((label, watched, fate));
        pid
    }

    fn add(&mut self, label: &'static str, pid: u32, fate: Fate) {
        self.members.push((label, PidfdWatch::on(pid), fate));
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
        self.members
            .iter()
            .filter(|(.., its)| *its == fate)
            .map(|(_, watched, _)| watched.pid())
            .collect()
    }

    fn label(&self, pid: u32) -> &str {
        let member = self.members.iter().find(|(_, watched, _)| watched.pid() == pid);
        member.map_or("(not a member)", |(label, ..)| label)
    }

    /// Checks that no other process was ended.
    fn check_all_live(&self) {
        for (label, watched, _) in &self.members {
            assert!(!watched.is_dead(), "{label} is dead");
        }
    }

    /// Plans, reaps, and checks that both agree with each other and with the fates.
    fn dry_run_and_reap(self) {
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
        for (label, watched, fate) in &self.members {
            assert_eq!(watched.is_dead(), *fate == Fate::Ended, "{label}: {done:#}");
        }
    }

    fn check(&self, what: &str, report: &serde_json::Value) {
        let check = |key, fate| {
            let (actual, meant) = (pids(report, key), self.pids(fate));
            let missing: Vec<_> = meant.difference(&actual).map(|pid| self.label(*pid)).collect();
            let wrong: Vec<_> = actual
                .difference(&meant)
                .map(|pid| self.label(*pid))
                .filter(|label| key != "endings" || *label != "(not a member)")
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

fn left_behind(fixture: &mut Fixture) {
    fixture.orphan("executable", Fate::Ended, "exec ./\"$NAME\" 300");
    fixture.orphan("another argv[0]", Fate::Ended, "exec bash -c 'exec -a other ./\"$NAME\" 300'");
    fixture.orphan("argv[0]", Fate::Ended, "exec bash -c 'exec -a \"/x/$NAME\" sleep 300'");
    fixture.orphan("wiped environment", Fate::Ended, "exec env -i ./\"$NAME\" 300");
    fixture.orphan("own session", Fate::Ended, "exec setsid ./\"$NAME\" 300");
    fixture.program(&format!("deleted/{}", fixture.name));
    fixture.orphan("deleted", Fate::Ended, "cd deleted; exec ./\"$NAME\" 300");
    fs::remove_dir_all(fixture.path("deleted")).expect("removed");
    fixture.text(&format!("sh/{}", fixture.name), "#!/bin/sh\n(sleep 300; :) & sleep 300; :\n");
    // A shell, its subshell of the same name, and their sleeps.
    fixture.orphan("script", Fate::Ended, "exec sh/\"$NAME\"");
    fixture.orphan("script of sh", Fate::Ended, "exec sh -u sh/\"$NAME\" argument");
    fixture.orphan("script of bash", Fate::Ended, "exec bash --norc -o pipefail sh/\"$NAME\"");
    fixture.text(&format!("env/{}", fixture.name), "#!/usr/bin/env -S bash -eu\nsleep 300\n:\n");
    fixture.orphan("env -S", Fate::Ended, "exec env/\"$NAME\"");
}

/// `python3` on PATH may be a script that takes a while to find the real one.
fn becomes(fixture: &Fixture, interpreter: &str) {
    let (label, watched, _) = fixture.members.last().expect("it was just added");
    until(label, || {
        assert!(!watched.is_dead(), "{label} has not started");
        let path = fs::read_link(format!("/proc/{}/exe", watched.pid())).unwrap_or_default();
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(interpreter))
    });
}

fn left_behind_by_interpreters(fixture: &mut Fixture) {
    if tool("perl").is_some() {
        let title = "$0 = \"$ENV{NAME}: idle\"; sleep 300";
        fixture.text("title", title);
        fixture.orphan("title", Fate::Ended, "exec perl title");
        until("the title is set", || {
            let pid = fixture.members.last().expect("the title").1.pid();
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.contains(": idle"))
        });
        fixture.text(&format!("perl/{}", fixture.name), "sleep 300;");
        fixture.orphan("script of perl", Fate::Ended, "exec perl -I lib -w perl/\"$NAME\"");
        fixture.orphan("text of perl", Fate::Spared, "exec perl -we 'sleep 300' \"$NAME\"");
    }
    if tool("python3").is_some() {
        fixture.text(&format!("python/{}", fixture.name), "import time\ntime.sleep(300)\n");
        fixture.text(&format!("python/{}.py", fixture.name), "import time\ntime.sleep(300)\n");
        let python =
            "PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE; cd python; exec python3";
        let orphan = format!("{python} -u -W ignore ./\"$NAME\"");
        fixture.orphan("script of python", Fate::Ended, &orphan);
        becomes(fixture, "python");
        fixture.orphan("NAME.py", Fate::Spared, &format!("{python} \"$NAME.py\""));
        becomes(fixture, "python");
        fixture.orphan("module", Fate::Spared, &format!("{python} -m \"$NAME\""));
        becomes(fixture, "python");
    }
    if tool("node").is_some() {
        fixture.text(&format!("node/{}", fixture.name), "setTimeout(() => {}, 300000);\n");
        fixture.text("node/other.cjs", "setTimeout(() => {}, 300000);\n");
        let node = "exec node --require ./node/other.cjs node/\"$NAME\"";
        fixture.orphan("script of node", Fate::Ended, node);
        becomes(fixture, "node");
        let required = "exec node --require \"./node/$NAME\" node/other.cjs";
        fixture.orphan("required by node", Fate::Spared, required);
        becomes(fixture, "node");
    }
}

fn look_alikes(fixture: &mut Fixture) {
    fs::write(fixture.path(&format!("{}.log", fixture.name)), "").expect("a log");
    fixture.orphan("tail", Fate::Spared, "exec tail -f \"$NAME.log\"");
    fixture.orphan("tail of itself", Fate::Spared, "exec tail -f \"$NAME\"");
    fixture.text("vim", "#!/bin/sh\nsleep 300\n:\n");
    fixture.orphan("editor", Fate::Spared, "exec ./vim \"$NAME.md\"");
    fixture.orphan("editor of the program", Fate::Spared, "exec ./vim \"$NAME\"");
    fixture.orphan("mention", Fate::Spared, "eval \"exec sh -c \\\"sleep 300; : '$NAME'\\\"\"");
    fixture.orphan("argument", Fate::Spared, "exec sh ./vim \"$NAME\"");
    fixture.program(&format!("{}-helper", fixture.name));
    fixture.orphan("longer name", Fate::Spared, "exec ./\"$NAME-helper\" 300");
    fixture.program(&format!("{}.d/other", fixture.name));
    fixture.orphan("folder", Fate::Spared, "exec ./\"$NAME.d\"/other 300");
    fixture.child("living parent", Fate::Suspect, "exec ./\"$NAME\" 300");
    fixture.orphan("service", Fate::Suspect, "SYSTEMD_EXEC_PID=$$ exec ./\"$NAME\" 300");
    fixture.orphan("below a service", Fate::Ended, "SYSTEMD_EXEC_PID=1 exec ./\"$NAME\" 300");
}

fn owned(fixture: &mut Fixture) {
    let registered = fixture.orphan("registered", Fate::Spared, "exec ./\"$NAME\" 300");
    let program = fixture.path(&fixture.name.clone());
    let program = format!("'{}' 300", program.display());
    let (wiped, token) = (fixture.path("members/wiped"), fixture.path("members/token"));
    let host = fixture.host("ledger.db");
    assert_eq!(host.ask(&format!("register theirs {registered}")), "done");
    let spawned = host.spawn("spawned", &format!("exec {program}")).pid();
    let below = format!("env -i {program} & echo $! > {}; wait", wiped.display());
    host.spawn("root", &below);
    fixture.enter("wiped", Fate::Spared);
    fixture.add("spawned", spawned, Fate::Spared);
    let other = fixture.host("other.db");
    // Its parent is gone, and a process with a token of a ledger that this search does not know is
    // left.
    let daemon = format!("(setsid {program} & echo $! > {}); sleep 300; :", token.display());
    other.spawn("daemon", &daemon);
    fixture.enter("token", Fate::Spared);
}

fn a_person(fixture: &mut Fixture) {
    let terminal = Pty::new();
    let person = terminal.spawn(Command::new(fixture.path(&fixture.name.clone())).arg("300"));
    fixture.add("person", person.pid(), Fate::Spared);
    fixture.guards.push(person);
    fixture.terminals.push(terminal);
}

fn a_container(fixture: &mut Fixture) {
    fixture.text(
        "inner",
        "#!/bin/sh\nunshare --pid --fork ./\"$NAME\" 300 & pid=$!\n\
        while read -r inner < /proc/$pid/task/$pid/children; [ -z \"$inner\" ]; do sleep 0.01; done\n\
        kill -KILL $pid; echo $inner > members/container\n",
    );
    let status = fixture.shell("./inner", "inner").status().expect("a shell");
    assert!(status.success(), "{status}");
    fixture.enter("container", Fate::Spared);
}

#[test]
fn a_name_match_ends_orphans_and_spares_look_alikes() {
    if !in_namespace("orphans::look_alikes::a_name_match_ends_orphans_and_spares_look_alikes") {
        return;
    }
    let mut fixture = Fixture::new(|marker| format!("worker-{marker}"));
    left_behind(&mut fixture);
    left_behind_by_interpreters(&mut fixture);
    look_alikes(&mut fixture);
    owned(&mut fixture);
    a_person(&mut fixture);
    a_container(&mut fixture);
    fixture.dry_run_and_reap();
}

#[test]
fn a_name_may_have_spaces_and_parentheses() {
    if !in_namespace("orphans::look_alikes::a_name_may_have_spaces_and_parentheses") {
        return;
    }
    let mut fixture = Fixture::new(odd);
    left_behind(&mut fixture);
    look_alikes(&mut fixture);
    owned(&mut fixture);
    fixture.dry_run_and_reap();
}

/// A made-up user.
const USER: [&str; 4] = ["--reuid=12345", "--regid=12345", "--clear-groups", "--"];

#[test]
fn root_and_users_spare_matches_of_each_other() {
    need!("setpriv");
    if !root() || !in_namespace("orphans::look_alikes::root_and_users_spare_matches_of_each_other")
    {
        return;
    }
    let mut fixture = Fixture::new(|marker| format!("worker-{marker}"));
    let mine = fixture.orphan("mine", Fate::Ended, "exec ./\"$NAME\" 300");
    let user = USER.join(" ");
    let theirs =
        fixture.orphan("theirs", Fate::Spared, &format!("exec setpriv {user} ./\"$NAME\" 300"));
    until("it belongs to the user", || crate::support::is_only(theirs, 12345));
    // First as the user, on a ledger of that user: root's process lives.
    let folder = fixture.path("theirs.d");
    fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::chown(&folder, Some(12345), Some(12345)).expect("a gift");
    copy_program(PROCLEDGER, fixture.path("procledger"));
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        clean(&mut command, &fixture.place);
        command
            .args(USER)
            .arg(fixture.path("procledger"))
            .arg("--db")
            .arg(folder.join("ledger.db"));
        answer(command.args(args)).expect(0)
    };
    as_user(&["reap"]);
    let name = fixture.name.as_str();
    let plan = as_user(&["reap", "--dry-run", "--json", "--min-age", "0s", "--orphan-name", name]);
    let plan = plan.json();
    assert_eq!(pids(&plan, "endings"), BTreeSet::from([theirs]), "{plan:#}");
    assert!(!pids(&plan, "suspects").contains(&mine), "{plan:#}");
    fixture.dry_run_and_reap();
}
