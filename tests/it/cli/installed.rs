//! What a package installs besides the command: manual pages and completions, each written by the command itself.

use std::{fs, path::Path, process::Command};

use crate::{
    cli::command::{PROCLEDGER, answer, bare, clean},
    support::{Place, need},
};

/// The subcommands that `--help` lists.
fn subcommands(place: &Place) -> Vec<String> {
    let help = answer(bare(place).arg("--help")).expect(0).out;
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
        subcommands(&place).iter().map(|name| format!("procledger-{name}.1")).collect();
    assert!(expected.len() >= 14, "{expected:?}");
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
fn pages_that_cannot_be_written_are_one_clear_line() {
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

#[test]
fn zsh_and_fish_get_completions_too() {
    let place = Place::new();
    for (shell, first) in [("zsh", "#compdef procledger"), ("fish", "# ")] {
        let script = answer(bare(&place).args(["completions", shell])).expect(0).out;
        assert!(script.starts_with(first) && script.contains("reap"), "{shell}: {script}");
    }
}

/// The build matches the package: every program of the crate and every file that the package names exists.
#[test]
fn the_package_holds_every_program() {
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
