//! Which unregistered processes match a configured name.
//!
//! A name is matched against three things only: the base name of the executable, of `argv[0]`, and of the script when
//! `argv[0]` is an interpreter. Text elsewhere in a command line never counts: `tail -f NAME.log` and `sh -c '… NAME …'`
//! are people at work.

use std::time::Duration;

use crate::identity::Pid;

/// Programs that run a script named by an argument; versions such as `python3.11` count too.
const INTERPRETERS: [&str; 14] = [
    "sh", "bash", "dash", "zsh", "ksh", "ash", "python", "node", "perl", "ruby", "php", "deno",
    "bun", "tclsh",
];
/// Options after which the interpreter runs text or a module, and no script.
const NOT_A_SCRIPT: [&str; 6] = ["-c", "-e", "-m", "-p", "--eval", "--print"];
/// Programs that adopt orphans, beside pid 1: service managers, and the inits of containers.
const REAPERS: [&str; 8] = [
    "systemd",
    "init",
    "tini",
    "dumb-init",
    "catatonit",
    "conmon",
    "containerd-shim-runc-v2",
    "s6-svscan",
];

/// What a process runs, as far as names are matched against it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    /// Path of the executable, where we may see it.
    pub(crate) executable: Option<Vec<u8>>,
    pub(crate) argv: Vec<Vec<u8>>,
}

/// A process that nobody registered, as far as the sweep looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) program: Program,
    pub(crate) on_terminal: bool,
    pub(crate) age: Duration,
    pub(crate) parent: Parent,
}

/// Who a candidate's parent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// It has none in this namespace, or pid 1.
    Reaper,
    /// Another process, with the base name of its executable.
    Alive(Pid, String),
}

/// What the sweep says of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is left behind: end it. With the rule.
    Leak(String),
    /// It matches, but may be somebody's: report it, leave it. With the reason.
    Suspect(String),
    /// It does not match, or is exempt.
    Nothing,
}

/// Judges one candidate. Exempt by uid, registration or kinship are sorted out before.
///
/// A program that bears a `protected` name as well is left, and told: somebody asked for two things that contradict.
pub(crate) fn judge(
    candidate: &Candidate,
    names: &[String],
    protected: &[String],
    min_age: Duration,
) -> Judgement {
    let Some(rule) = matched(&candidate.program, names) else { return Judgement::Nothing };
    if candidate.on_terminal || candidate.age < min_age {
        return Judgement::Nothing;
    }
    if let Some(other) = matched(&candidate.program, protected) {
        return Judgement::Suspect(format!("{rule}, but {}", protects(&other)));
    }
    match &candidate.parent {
        Parent::Reaper => Judgement::Leak(rule),
        Parent::Alive(_, name) if is_reaper(name) => Judgement::Leak(rule),
        Parent::Alive(pid, name) => {
            Judgement::Suspect(format!("{rule}, but its parent {pid} ({name}) lives"))
        }
    }
}

/// The rule by which a program is protected, from the rule by which it matched.
pub(crate) fn protects(matched: &str) -> String {
    format!("its {matched}, which is protected")
}

/// The rule by which a program matches one of the names.
pub(crate) fn matched(program: &Program, names: &[String]) -> Option<String> {
    let executable =
        program.executable.as_deref().map(|path| path.strip_suffix(b" (deleted)").unwrap_or(path));
    let argv0 = program.argv.first().map(Vec::as_slice);
    let looked_at =
        [("executable", executable), ("argv[0]", argv0), ("script", script(&program.argv))];
    names.iter().find_map(|name| {
        let (what, _) = looked_at
            .iter()
            .find(|(_, path)| path.is_some_and(|path| base_name(path) == name.as_bytes()))?;
        Some(format!("{what} is named {name}"))
    })
}

/// The script that an interpreter runs: its first argument that is no option.
fn script(argv: &[Vec<u8>]) -> Option<&[u8]> {
    let (interpreter, rest) = argv.split_first()?;
    if !is_interpreter(base_name(interpreter)) {
        return None;
    }
    for argument in rest {
        let is_text = NOT_A_SCRIPT.iter().any(|option| argument == option.as_bytes());
        // Short options may be joined, as in `-ec`.
        let joined =
            argument.starts_with(b"-") && !argument.starts_with(b"--") && argument.ends_with(b"c");
        if is_text || joined {
            return None;
        }
        if !argument.starts_with(b"-") {
            return Some(argument);
        }
    }
    None
}

fn is_interpreter(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"-").unwrap_or(name);
    INTERPRETERS.iter().any(|known| {
        name.strip_prefix(known.as_bytes()).is_some_and(|version| {
            version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
        })
    })
}

fn is_reaper(name: &str) -> bool {
    REAPERS.contains(&name)
}

/// What follows the last slash.
pub(crate) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::{super::observe::tests::pid, *};

    fn candidate(executable: &str, argv: &[&str]) -> Candidate {
        Candidate {
            program: Program {
                executable: Some(executable.as_bytes().to_vec()),
                argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            },
            on_terminal: false,
            age: Duration::from_mins(1),
            parent: Parent::Reaper,
        }
    }

    fn verdict(candidate: &Candidate) -> Judgement {
        judge(candidate, &["worker".to_owned()], &[], Duration::from_secs(1))
    }

    #[test]
    fn a_protected_name_is_left_and_told() {
        let node = candidate("/usr/bin/node", &["node", "/opt/worker"]);
        let judged = |protected: &str| {
            judge(&node, &["worker".to_owned()], &[protected.to_owned()], Duration::ZERO)
        };
        let why = "script is named worker, but its executable is named node, which is protected";
        assert_eq!(judged("node"), Judgement::Suspect(why.to_owned()));
        assert!(matches!(judged("worker.js"), Judgement::Leak(_)));
    }

    #[test]
    fn a_program_matches_by_executable_argv0_or_script() {
        for (executable, argv) in [
            ("/opt/worker", &["anything"][..]),
            ("/opt/worker (deleted)", &["anything"]),
            ("/opt/other", &["worker", "run"]),
            ("/bin/bash", &["/bin/bash", "/usr/bin/worker", "run"]),
            ("/usr/bin/python3.11", &["python3.11", "-u", "/opt/worker"]),
            ("/usr/bin/node", &["node", "/opt/worker"]),
        ] {
            assert!(
                matches!(verdict(&candidate(executable, argv)), Judgement::Leak(_)),
                "{argv:?}"
            );
        }
    }

    #[test]
    fn w1_look_alikes_do_not_match() {
        for (executable, argv) in [
            ("/usr/bin/tail", &["tail", "-f", "worker.log"][..]),
            ("/usr/bin/tail", &["tail", "-f", "/opt/worker"]),
            ("/usr/bin/vim", &["vim", "worker.md"]),
            ("/bin/bash", &["bash", "-c", "worker"]),
            ("/bin/bash", &["bash", "-ec", "worker"]),
            ("/usr/bin/python3", &["python3", "-m", "worker"]),
            ("/usr/bin/node", &["node", "-e", "worker"]),
            ("/opt/worker-2", &["worker-2"]),
            ("/bin/bash", &["bash", "other", "worker"]),
            ("/opt/basher", &["basher", "worker"]),
            ("/opt/x", &[]),
        ] {
            assert_eq!(verdict(&candidate(executable, argv)), Judgement::Nothing, "{argv:?}");
        }
    }

    #[test]
    fn a_terminal_or_a_young_age_exempts() {
        let plain = candidate("/opt/worker", &["worker"]);
        assert_eq!(verdict(&Candidate { on_terminal: true, ..plain.clone() }), Judgement::Nothing);
        assert_eq!(
            verdict(&Candidate { age: Duration::from_millis(999), ..plain }),
            Judgement::Nothing
        );
    }

    #[test]
    fn a_living_parent_makes_a_suspect_unless_it_adopts_orphans() {
        let plain = candidate("/opt/worker", &["worker"]);
        let below = |name: &str| Candidate {
            parent: Parent::Alive(pid(5), name.to_owned()),
            ..plain.clone()
        };
        assert!(matches!(verdict(&below("bash")), Judgement::Suspect(_)));
        assert!(matches!(verdict(&below("systemd")), Judgement::Leak(_)));
    }
}
