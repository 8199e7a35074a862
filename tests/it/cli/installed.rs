//! What a package installs besides the command: manual pages and completions, each written by the
//! command itself.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    cli::command::{PROCLEDGER, Running, answer, bare, bytes_of, clean, finish, run},
    support::{Place, need},
};

/// The subcommands that `--help` lists, of the command or of a subcommand.
fn subcommands(place: &Place, of: &[&str]) -> Vec<String> {
    let help = answer(bare(place).args(of).arg("--help")).expect(0).out;
    let (_, list) = help.split_once("\nCommands:\n").expect("a list of commands");
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then(|| name.to_owned())
    });
    names.collect()
}

fn pages(place: &Place) -> Vec<String> {
    let folder = place.path().join("man");
    answer(bare(place).arg("man").arg(&folder)).expect(0);
    let names = fs::read_dir(&folder).expect("a folder");
    let mut names: Vec<String> =
        names.map(|name| name.expect("a page").file_name().into_string().expect("text")).collect();
    names.sort();
    names
}

#[test]
fn every_subcommand_has_a_manual_page_that_renders_without_a_warning() {
    let place = Place::new();
    let pages = pages(&place);
    let mut expected: Vec<String> =
        subcommands(&place, &[]).iter().map(|name| format!("procledger-{name}.1")).collect();
    assert!(expected.len() >= 14, "{expected:?}");
    let of_fleet = subcommands(&place, &["fleet"]);
    expected.extend(of_fleet.iter().map(|name| format!("procledger-fleet-{name}.1")));
    expected.push("procledger.1".to_owned());
    expected.sort();
    assert_eq!(pages, expected);

    need!("groff");
    for page in &pages {
        let file = place.path().join("man").join(page);
        let mut groff = Command::new("groff");
        groff.args(["-man", "-ww", "-Tutf8", "-P-cbou"]).arg(&file);
        clean(&mut groff, &place);
        let rendered = answer(&mut groff).expect(0);
        assert_eq!(rendered.err, "", "{page}");
        assert!(rendered.out.contains("NAME") && rendered.out.contains("SYNOPSIS"), "{page}");
    }
}

#[test]
fn pages_that_cannot_be_written_are_reported_in_one_line() {
    let place = Place::new();
    fs::write(place.path().join("file"), "").expect("a file");
    let failed = answer(bare(&place).arg("man").arg(place.path().join("file"))).expect(1);
    assert!(failed.complaint().contains("failed to write manual pages"), "{failed:?}");
}

#[test]
fn bash_completes_subcommands_and_options() {
    need!("bash");
    let place = Place::new();
    let script = place.path().join("completions");
    fs::write(&script, answer(bare(&place).args(["completions", "bash"])).expect(0).out)
        .expect("written");
    let complete = |words: &str, last: usize| {
        let code = format!(
            "source \"$1\"; COMP_WORDS=({words}); COMP_CWORD={last}; {}",
            "_procledger procledger \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; \
             printf '%s\\n' \"${COMPREPLY[@]}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-euc", &code, "bash"]).arg(&script);
        clean(&mut bash, &place);
        let answer = answer(&mut bash).expect(0);
        assert_eq!(answer.err, "");
        answer.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("procledger re", 1), ["reap", "report"]);
    assert_eq!(complete("procledger reap --dry", 2), ["--dry-run"]);
    assert!(complete("procledger report --format ''", 3).contains(&"json".to_owned()));
}

/// A ledger with tasks that run and one that has ended.
fn with_tasks(place: &Place) -> [Running; 2] {
    run(place, &["run", "--task", "agent-7/ended", "--", "true"]).expect(0);
    let start = |task| Running::start(place, task, &[], "echo up; exec sleep 300");
    ["agent-7/web:80", "it's a $(task)"].map(start)
}

/// `PATH` with the folder of the command first.
fn path() -> String {
    let folder = Path::new(PROCLEDGER).parent().expect("a folder");
    format!("{}:{}", folder.display(), std::env::var("PATH").expect("a path"))
}

fn script(place: &Place, shell: &str) -> PathBuf {
    let script = place.path().join(format!("completions.{shell}"));
    let text = answer(bare(place).args(["completions", shell])).expect(0).out;
    assert!(!text.contains("--supervise"), "{text}");
    fs::write(&script, text).expect("written");
    script
}

/// Readline splits words also at colons and equals signs, and takes candidates as they stand.
#[test]
fn bash_completes_the_names_of_tasks() {
    need!("bash");
    let place = Place::new();
    let _running = with_tasks(&place);
    let script = script(&place, "bash");
    let files = || bytes_of(place.path()).into_iter().map(|(path, ..)| path).collect::<Vec<_>>();
    let before = files();
    let code = r#"source "$1"; COMP_LINE=$2; COMP_POINT=${#COMP_LINE}; eval "COMP_WORDS=($3)"
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        _procledger_tasks procledger "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let complete = |line: &str, words: &str| {
        let mut bash = Command::new("bash");
        clean(&mut bash, &place);
        bash.args(["--norc", "-uc", code, "bash"]).arg(&script).args([line, words]);
        let answer =
            answer(bash.env("PATH", path()).env("PROCLEDGER_DB", place.ledger())).expect(0);
        assert_eq!(answer.err, "", "{line}");
        answer.out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let same = |line: &str| complete(line, line);
    let all = ["agent-7/web:80", r"it\'s\ a\ \$\(task\)", "agent-7/ended"];
    assert_eq!(complete("procledger kill ", "procledger kill ''"), all);
    assert_eq!(same("procledger wait agent-7/w"), [all[0]]);
    assert_eq!(complete("procledger ps agent-7/web:8", "procledger ps agent-7/web : 8"), ["80"]);
    assert_eq!(complete("procledger tree 'it", r"procledger tree \'it"), ["it's a $(task)"]);
    assert_eq!(same("procledger kill --grace 5s agent-7/e"), [all[2]]);
    let task = complete("procledger report --task=it", "procledger report --task = it");
    assert_eq!(task, [all[1]]);
    assert_eq!(complete("procledger report --task ", "procledger report --task ''"), all);
    assert_eq!(same("procledger kill --al"), ["--all"]);
    for line in ["procledger kill --signal a", "procledger run a", "procledger a"] {
        assert_eq!(same(line), [""; 0], "{line}");
    }
    let other = format!("procledger --db {}/none kill ", place.path().display());
    assert_eq!(complete(&other, &format!("{other}''")), [""; 0], "the ledger that is named");
    assert_eq!(files(), before, "it created a file");
}

/// As a user types it: the shell calls readline, which calls the script.
#[test]
fn bash_completes_a_task_at_a_terminal() {
    need!("bash", "script");
    let place = Place::new();
    let _running = with_tasks(&place);
    let script = script(&place, "bash");
    let mut terminal = Command::new("script");
    clean(&mut terminal, &place);
    terminal.args(["-qefc", "bash --norc --noprofile -i", "/dev/null"]).env("TERM", "dumb");
    terminal.env("PATH", path()).env("PROCLEDGER_DB", place.ledger()).env("HISTFILE", "");
    let mut child = terminal.stdin(Stdio::piped()).spawn().expect("script");
    let mut keys = child.stdin.take().expect("piped");
    let lines =
        format!("source {}\nprocledger wait it\t --timeout 0s; exit $?\n", script.display());
    keys.write_all(lines.as_bytes()).expect("it reads");
    let answer = finish(child).expect(75);
    assert!(answer.out.contains("task it's a $(task) still runs after"), "{answer:?}");
}

#[test]
fn zsh_completes_the_names_of_tasks() {
    need!("zsh");
    let place = Place::new();
    let _running = with_tasks(&place);
    let script = script(&place, "zsh");
    let text = fs::read_to_string(&script).expect("a script");
    assert!(text.starts_with("#compdef procledger"), "{text}");
    assert_eq!(text.matches(":_procledger_task_names'").count(), 6, "{text}");
    // The functions of completion are replaced by what shows the candidates.
    let code = "compdef() { }; source $1; compadd() { shift; print -rl -- ${(P)1} }
        typeset -A opt_args; [[ -z $2 ]] || opt_args[--db]=$2; _procledger_task_names";
    let complete = |db: &str| {
        let mut zsh = Command::new("zsh");
        clean(&mut zsh, &place);
        zsh.args(["-fc", code, "zsh"]).arg(&script).arg(db).env("PATH", path());
        answer(zsh.env("PROCLEDGER_DB", place.path().join("none"))).expect(0).out
    };
    let all = "agent-7/web:80\nit's a $(task)\nagent-7/ended\n";
    assert_eq!(complete(place.ledger().to_str().expect("UTF-8")), all);
    assert_eq!(complete("").trim(), "");
}

#[test]
fn fish_completes_the_names_of_tasks() {
    need!("fish");
    let place = Place::new();
    let _running = with_tasks(&place);
    let script = script(&place, "fish");
    let complete = |line: &str| {
        let mut fish = Command::new("fish");
        clean(&mut fish, &place);
        fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"]).arg(&script);
        fish.arg(line).env("PATH", path()).env("PROCLEDGER_DB", place.ledger());
        let out = answer(fish.env("HOME", place.path())).expect(0).out;
        let names = out.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(complete("procledger kill agent-7/w"), ["agent-7/web:80"]);
    assert_eq!(complete("procledger report --task agent-7/w"), ["agent-7/web:80"]);
    let none = format!("procledger --db {}/none kill agent", place.path().display());
    assert_eq!(complete(&none), [""; 0]);
    assert!(complete("procledger re").contains(&"reap".to_owned()));
}

/// The build matches the package: every program of the crate and every file that the package names
/// exists.
#[test]
fn the_package_contains_every_program() {
    let folder = Path::new(PROCLEDGER).parent().expect("a folder");
    let manifest =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).expect("a manifest");
    let programs: Vec<&str> = manifest
        .split("[[bin]]\n")
        .skip(1)
        .filter_map(|part| {
            part.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        })
        .collect();
    assert!(programs.contains(&"procledger"), "{programs:?}");
    for program in programs {
        assert!(folder.join(program).is_file(), "{program} was not built");
        let asset = format!("[\"target/release/{program}\", \"usr/bin/\", \"755\"]");
        assert!(manifest.contains(&asset), "{program} is not in the package");
    }
}
