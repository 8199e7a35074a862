//! Decides which unregistered processes match a configured name, and which of those were left
//! behind.
//!
//! A name is compared with three things only: the base name of the executable, of `argv[0]`, and of
//! the script that an interpreter runs. Text elsewhere in a command line never counts: `tail -f
//! NAME.log` and `sh -c '… NAME …'` are likely run by a person. A matching process is ended only
//! when nothing exempts it and its parent is a process that adopts orphans; a doubtful one is
//! reported and left running.

use std::time::Duration;

use super::interpreter::{Script, is_generic, scripts};
use crate::{identity::Pid, model::Named};

/// Programs that adopt orphans, besides pid 1: a user's service manager, and the inits that
/// containers use. The shims of container engines are not among them: they started their children
/// themselves.
const REAPERS: [&str; 6] = ["systemd", "init", "tini", "dumb-init", "docker-init", "catatonit"];

/// Executables that contain many programs, of which `argv[0]` selects one.
const MULTI_CALL: [&[u8]; 3] = [b"busybox", b"toybox", b"coreutils"];

/// The program of a process, as `/proc` shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// Path of the executable, if it may be read.
    pub(crate) executable: Option<Vec<u8>>,
    pub(crate) argv: Vec<Vec<u8>>,
}

impl Program {
    /// Returns the scripts that it may be interpreting. `argv[0]` may be anything, so the
    /// executable is checked as well.
    fn scripts(&self) -> Vec<Script<'_>> {
        let argv0 = self.argv.first().map_or(&b""[..], |argv0| base_name(argv0));
        let executable = self.executable.as_deref().map(without_deletion);
        [argv0, executable.map_or(&b""[..], base_name)]
            .into_iter()
            .map(|interpreter| scripts(interpreter, &self.argv))
            .find(|scripts| !scripts.is_empty())
            .unwrap_or_default()
    }
}

/// A program that matches a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    /// Which part of it has the name.
    pub(crate) named: Named,
    /// Why the match may be accidental.
    pub(crate) doubt: Option<&'static str>,
}

/// The facts that decide what happens to a process that matches.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    /// Why the pass must not end it, if that is certain.
    pub(crate) exempt: Option<String>,
    /// Why it may be in use, or must be left running.
    pub(crate) doubt: Option<String>,
    pub(crate) on_terminal: bool,
    pub(crate) age: Duration,
    pub(crate) parent: Parent,
}

/// The parent of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Pid 1, which adopts orphans.
    Init,
    /// Another process, with the base name of its executable.
    Alive(Pid, String),
    /// It has this pid but cannot be read: it belongs to another user, whose processes `/proc`
    /// hides.
    Hidden(u32),
    /// Its number is 0: the process entered this PID namespace from outside, as with `docker exec`.
    /// Orphans never have such a parent.
    Outside,
}

/// The judgement of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It was left behind and is ended. With the part of it that has the name.
    Leak(Named),
    /// It matches but may be in use: it is reported and left running. With the reason.
    Suspect(String),
    /// It matches, and is exempt. With the reason.
    Spared(String),
    /// It matches, and is younger than the minimum age. With the reason.
    Young(String),
}

/// Judges a process that matches.
pub(crate) fn judge(matched: &Matched, about: &Circumstances, min_age: Duration) -> Judgement {
    let Matched { named, doubt } = matched;
    let spared = |why: &str| Judgement::Spared(format!("{named}, but {why}"));
    let suspect = |why: &str| Judgement::Suspect(format!("{named}, but {why}"));
    if let Some(why) = &about.exempt {
        return spared(why);
    }
    if about.on_terminal {
        return spared("it has a controlling terminal: it may be a person's");
    }
    if about.age < min_age {
        let age = whole(about.age);
        return Judgement::Young(format!(
            "{named}, but it is {age:?} old, and younger than {min_age:?}"
        ));
    }
    if let Some(why) = doubt.or(about.doubt.as_deref()) {
        return suspect(why);
    }
    match &about.parent {
        Parent::Init => Judgement::Leak(named.clone()),
        Parent::Alive(_, name) if is_reaper(name) => Judgement::Leak(named.clone()),
        Parent::Alive(pid, name) => suspect(&format!("its parent {pid} ({name}) lives")),
        Parent::Hidden(pid) => suspect(&format!("its parent {pid} cannot be seen")),
        Parent::Outside => suspect("its parent is outside of this PID namespace"),
    }
}

/// Milliseconds are exact enough for messages.
fn whole(age: Duration) -> Duration {
    Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// Returns the part by which a program matches one of the names.
pub(crate) fn matched(program: &Program, names: &[String]) -> Option<Matched> {
    names.iter().find_map(|name| match_one(program, name))
}

fn match_one(program: &Program, name: &str) -> Option<Matched> {
    let is_named = |path: &[u8]| base_name(path) == name.as_bytes();
    let by = |part, doubt| Some(Matched { named: Named { part, name: name.to_owned() }, doubt });
    let executable = program.executable.as_deref().map(without_deletion);
    if executable.is_some_and(is_named) {
        return by("executable", None);
    }
    let argv0 = program.argv.first().map_or(&b""[..], Vec::as_slice);
    if is_named(title(argv0)) {
        return by("argv[0]", None);
    }
    let script = program.scripts().into_iter().find(|script| is_named(script.path))?;
    by("script", script.doubtful.then_some("it may be the value of an unknown option"))
}

/// Returns a name by which a program matches for certain, and which an unrelated program does not
/// have: that of the script that it interprets, else of its executable. `None` for a shell, an
/// interpreter or a runtime without a script, such as `sh -c`: its name is that of every other one,
/// including a person's.
pub(crate) fn name_of(program: &Program) -> Option<String> {
    let executable = program.executable.as_deref().map(|path| base_name(without_deletion(path)));
    let argv0 = program.argv.first().map_or(&b""[..], |argv0| base_name(title(argv0)));
    let scripts = program.scripts();
    let script = scripts.iter().find(|script| !script.doubtful);
    let own = executable.filter(|name| !MULTI_CALL.contains(name)).unwrap_or(argv0);
    let name = script.map_or(own, |script| base_name(script.path));
    // A process may call itself by any name, so a shell is recognised by its executable as well.
    let is_runtime = script.is_none() && [own, argv0].into_iter().any(is_generic);
    let is_specific =
        !name.is_empty() && !is_runtime && !is_generic(name) && !MULTI_CALL.contains(&name);
    String::from_utf8(name.to_vec()).ok().filter(|_| is_specific)
}

/// Removes the kernel's mark on the path of a file that no longer exists (`proc_pid_exe(5)`).
pub(crate) fn without_deletion(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

/// Returns the text before the first `": "`: programs overwrite their `argv[0]` with `NAME: what
/// they do`.
fn title(argv0: &[u8]) -> &[u8] {
    let end = argv0.windows(2).position(|pair| pair == b": ").unwrap_or(argv0.len());
    &argv0[..end]
}

/// Returns whether a program of this name adopts orphans.
pub(super) fn is_reaper(name: &str) -> bool {
    REAPERS.contains(&name)
}

/// Returns the part after the last slash.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::SpareReason, sys::snapshot::tests::pid};

    fn program(executable: &str, argv: &[&str]) -> Program {
        Program {
            executable: Some(executable.as_bytes().to_vec()),
            argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        }
    }

    fn rule(executable: &str, argv: &[&str]) -> Option<String> {
        let found = matched(&program(executable, argv), &["worker".to_owned()])?;
        Some(found.named.to_string())
    }

    fn orphan() -> Circumstances {
        Circumstances {
            exempt: None,
            doubt: None,
            on_terminal: false,
            age: Duration::from_mins(1),
            parent: Parent::Init,
        }
    }

    fn verdict(about: &Circumstances) -> Judgement {
        let matched =
            Matched { named: Named { part: "executable", name: "worker".into() }, doubt: None };
        judge(&matched, about, Duration::from_secs(1))
    }

    #[test]
    fn a_program_matches_by_executable_argv0_or_script() {
        for (executable, argv, what) in [
            ("/opt/worker", &["anything"][..], "executable"),
            ("/opt/worker (deleted)", &["anything"], "executable"),
            ("/opt/worker", &[], "executable"),
            ("/opt/other", &["worker", "run"], "argv[0]"),
            ("/opt/other", &["/opt/worker"], "argv[0]"),
            ("/opt/other", &["worker: idle"], "argv[0]"),
            ("/bin/bash", &["/bin/bash", "/usr/bin/worker", "run"], "script"),
            ("/usr/bin/python3.11", &["python3.11", "-u", "/opt/worker"], "script"),
            ("/usr/bin/node", &["node", "/opt/worker"], "script"),
            ("/usr/bin/node", &["a title", "/opt/worker"], "script"),
            ("/usr/bin/busybox", &["sh", "worker"], "script"),
        ] {
            assert_eq!(rule(executable, argv), Some(format!("{what} is named worker")), "{argv:?}");
        }
    }

    #[test]
    fn w1_look_alikes_do_not_match() {
        for (executable, argv) in [
            ("/usr/bin/tail", &["tail", "-f", "worker.log"][..]),
            ("/usr/bin/tail", &["tail", "-f", "/opt/worker"]),
            ("/usr/bin/vim", &["vim", "worker.md"]),
            ("/usr/bin/vim", &["vim", "worker"]),
            ("/bin/bash", &["bash", "-c", "worker"]),
            ("/bin/bash", &["bash", "-ec", "worker"]),
            ("/usr/bin/python3", &["python3", "-m", "worker"]),
            ("/usr/bin/python3", &["python3", "worker.py"]),
            ("/usr/bin/node", &["node", "-e", "worker"]),
            ("/usr/bin/node", &["node", "--require", "worker", "other"]),
            ("/opt/worker-2", &["worker-2"]),
            ("/opt/worker/bin/other", &["other"]),
            ("/usr/bin/rsync", &["rsync: watching /srv/worker"]),
            ("/bin/bash", &["bash", "other", "worker"]),
            ("/opt/basher", &["basher", "worker"]),
            ("/opt/x", &[]),
        ] {
            assert_eq!(rule(executable, argv), None, "{argv:?}");
        }
    }

    /// Of several names only those are proposed that match the program itself, and no shell or
    /// interpreter that runs something else.
    #[test]
    fn the_name_of_a_program_is_never_that_of_a_shell() {
        let plain = [
            program("/usr/bin/dash", &["sh"]),
            program("/usr/bin/dash", &["/bin/sh", "-c", "true"]),
            program("/usr/bin/bash", &["-bash"]),
            program("/usr/bin/zsh", &["zsh", "other"]),
            program("/usr/bin/fish", &["fish"]),
            program("/bin/busybox", &["sh"]),
            program("/usr/bin/python3.11", &["python3", "other.py"]),
            program("/usr/bin/node", &["node"]),
            program("/usr/bin/java", &["java", "-jar", "other.jar"]),
        ];
        for (executable, argv, name) in [
            ("/opt/worker", &["anything"][..], Some("worker")),
            ("/opt/worker (deleted)", &["worker"], Some("worker")),
            ("/usr/bin/sleep", &["sleep", "300"], Some("sleep")),
            ("/usr/bin/dash", &["sh", "-c", "worker"], None),
            ("/usr/bin/dash", &["worker", "-c", "x"], None),
            ("/usr/bin/dash", &["sh"], None),
            ("/usr/bin/bash", &["-bash"], None),
            ("/usr/bin/fish", &["fish", "-c", "worker"], None),
            ("/usr/bin/dash", &["/bin/sh", "/opt/worker", "run"], Some("worker")),
            ("/usr/bin/dash", &["sh", "/opt/sh"], None),
            ("/usr/bin/python3.11", &["python3", "/opt/worker.py"], Some("worker.py")),
            ("/usr/bin/python3.11", &["python3", "-m", "worker"], None),
            ("/usr/bin/python3.11", &["python3", "-c", "x"], None),
            ("/usr/bin/node", &["node", "/opt/worker"], Some("worker")),
            ("/usr/bin/node", &["node", "/usr/lib/node_modules/.bin/node"], None),
            ("/usr/bin/node", &["node", "--unheard-of", "worker", "other"], None),
            ("/usr/bin/java", &["java", "-jar", "worker.jar"], None),
            ("/bin/busybox", &["sh", "-c", "worker"], None),
            ("/bin/busybox", &["busybox"], None),
            ("/bin/busybox", &["sleep", "300"], Some("sleep")),
            ("/bin/busybox", &["sh", "/opt/worker"], Some("worker")),
            ("/opt/worker", &[], Some("worker")),
        ] {
            let listed = program(executable, argv);
            let proposed = name_of(&listed);
            assert_eq!(proposed.as_deref(), name, "{executable} {argv:?}");
            let Some(name) = proposed else { continue };
            let found = matched(&listed, std::slice::from_ref(&name)).expect("it matches itself");
            assert_eq!(found.doubt, None, "{executable} {argv:?}");
            for other in &plain {
                assert_eq!(matched(other, std::slice::from_ref(&name)), None, "{name}: {other:?}");
            }
        }
    }

    #[test]
    fn a_terminal_a_young_age_or_a_known_reason_exempts() {
        let plain = orphan();
        for about in [
            Circumstances { on_terminal: true, ..plain.clone() },
            Circumstances { exempt: Some("it is ours".into()), ..plain.clone() },
        ] {
            assert!(matches!(verdict(&about), Judgement::Spared(_)), "{about:?}");
        }
        let young = |age| Circumstances { age, ..plain.clone() };
        let nearly = young(Duration::from_millis(999));
        assert!(matches!(verdict(&nearly), Judgement::Young(_)));
        let why = "executable is named worker, but it is 12ms old, and younger than 1s";
        assert_eq!(verdict(&young(Duration::from_micros(12_345))), Judgement::Young(why.into()));
    }

    #[test]
    fn a_living_parent_makes_a_suspect_unless_it_adopts_orphans() {
        let below = |parent| Circumstances { parent, ..orphan() };
        let named = |name: &str| below(Parent::Alive(pid(5), name.to_owned()));
        assert!(matches!(verdict(&orphan()), Judgement::Leak(_)));
        assert!(matches!(verdict(&named("systemd")), Judgement::Leak(_)));
        assert!(matches!(verdict(&named("bash")), Judgement::Suspect(_)));
        assert!(matches!(verdict(&named("containerd-shim-runc-v2")), Judgement::Suspect(_)));
        assert!(matches!(verdict(&below(Parent::Hidden(5))), Judgement::Suspect(_)));
        assert!(matches!(verdict(&below(Parent::Outside)), Judgement::Suspect(_)));
    }

    #[test]
    fn a_protected_name_is_left_running_and_reported() {
        let node = program("/usr/bin/node", &["node", "/opt/worker"]);
        let find = |name: &str| matched(&node, &[name.to_owned()]);
        let doubt = find("node").map(|other| SpareReason::Protected(other.named).to_string());
        let worker = find("worker").expect("a match");
        let why = "script is named worker, but its executable is named node, which is protected";
        let about = Circumstances { doubt, ..orphan() };
        assert_eq!(judge(&worker, &about, Duration::ZERO), Judgement::Suspect(why.to_owned()));
        assert_eq!(find("worker.js"), None);
    }

    #[test]
    fn a_doubtful_match_is_a_suspect() {
        let argv = ["node", "--unheard-of", "worker", "other"];
        let found = matched(&program("/usr/bin/node", &argv), &["worker".to_owned()]);
        let found = found.expect("a match");
        assert!(matches!(judge(&found, &orphan(), Duration::ZERO), Judgement::Suspect(_)));
        let doubt = Circumstances { doubt: Some("unclear".into()), ..orphan() };
        assert!(matches!(verdict(&doubt), Judgement::Suspect(_)));
    }
}
