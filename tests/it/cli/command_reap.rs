//! `procledger reap`: a dry run changes nothing, a name match is not a text search, and a forged
//! row cannot misuse root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

use crate::{
    cli::command::{Answer, PROCLEDGER, Running, answer, bytes_of, clean, on_ledger, run},
    cli::command_queries::rows_of,
    support::{
        Host, Place, canary, copy_program, is_alive, namespaced, need, root, skipped, sqlite3, tool,
    },
};

#[test]
fn a_dry_run_reports_rule_and_evidence_and_changes_nothing() {
    let place = Place::new();
    let script = "sleep 300 & echo $$; wait";
    let running = Running::start(&place, "orphan", &[], script);
    let pid: u32 = running.said.parse().expect("a pid");
    running.crash();
    let alive = place.alive();
    let files = files(&place);
    let rows = rows_of(&place);
    let text = run(&place, &["reap", "--dry-run"]).expect(0).out;
    for part in ["WOULD", "orphan", "its instance is dead: ", "nothing was changed; would act on 2"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let plan = run(&place, &["reap", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(plan["endings"].as_array().expect("endings").len(), 2, "{plan:#}");
    assert_eq!(rows_of(&place), rows);
    assert!(self::files(&place) == files, "a dry run changed the disk");
    assert_eq!(place.alive(), alive, "a dry run ended something");
    let report = run(&place, &["reap"]).expect(0).out;
    assert!(report.contains("checked 2, ended 2"), "{report}");
    assert!(!is_alive(pid));
    assert_eq!(run(&place, &["reap"]).expect(0).out, "checked 0, ended 0, already gone 0\n");
}

/// If the path of the ledger is mistyped, `checked 0` alone looks as if all were well.
#[test]
fn a_reap_without_a_ledger_reports_that_it_created_one() {
    let place = Place::new();
    let path = place.ledger();
    let first = run(&place, &["reap"]).expect(0);
    let said = format!("there was no ledger at {}: an empty one was created\n", path.display());
    assert_eq!(first.err, said);
    assert_eq!(run(&place, &["reap"]).expect(0).err, "");
}

/// Excludes SQLite's `-shm`: locks and an index of the WAL in shared memory, which every reader
/// writes.
fn files(place: &Place) -> Vec<(std::path::PathBuf, u32, u32, Vec<u8>)> {
    let mut all = bytes_of(place.path());
    all.retain(|(path, ..)| !path.to_string_lossy().ends_with("-shm"));
    all
}

#[test]
fn a_dry_run_changes_nothing_that_sqlite3_sees() {
    need!("sqlite3");
    let place = Place::new();
    Running::start(&place, "orphan", &[], "echo up; exec sleep 300").crash();
    let dump = sqlite3(&place.ledger(), ".dump");
    run(&place, &["reap", "--dry-run"]).expect(0);
    assert_eq!(sqlite3(&place.ledger(), ".dump"), dump);
}

/// The pids of the endings in a report.
fn pids(answer: Answer) -> Vec<u64> {
    let report = answer.expect(0).json();
    let endings = report["endings"].as_array().expect("endings").iter();
    let mut pids: Vec<u64> = endings.map(|ending| ending["pid"].as_u64().expect("a pid")).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn a_dry_run_predicts_what_the_reap_does() {
    let place = Place::new();
    // All of them run before the first owner dies: each start would reap what the one before left.
    let script = "sh -c 'echo up; sleep 300; :' & wait";
    let running = ["a", "b", "c"].map(|task| Running::start(&place, task, &[], script));
    running.into_iter().for_each(Running::crash);
    let planned = pids(run(&place, &["reap", "--dry-run", "--json"]));
    let done = pids(run(&place, &["reap", "--json"]));
    assert_eq!(planned, done);
    assert!(done.len() >= 9, "{done:?}");
}

/// A process that was registered is a task of its own, also where it runs below the root of another
/// task.
#[test]
fn a_process_registered_below_another_task_is_in_one_tree_only() {
    let place = Place::new();
    let mut host = Host::start(&place, "no-monitor containment=session");
    let inner = format!("echo $$ > {}/inner; sleep 300 & wait", place.path().display());
    host.spawn("outer", &format!("/bin/sh -c '{inner}' {} & wait", place.marker()));
    let inner = place.watch("inner").pid();
    assert_eq!(host.ask(&format!("register inner {inner}")), "done");
    let shown = |task: &str| -> Vec<u64> {
        let tree = run(&place, &["tree", task, "--json"]).expect(0).json()[0].take();
        let members = tree["members"].as_array().expect("members").iter();
        members.map(|member| member["pid"].as_u64().expect("a pid")).collect()
    };
    let (outer, inner_tree) = (shown("outer"), shown("inner"));
    assert!(inner_tree.len() == 2 && inner_tree.contains(&u64::from(inner)), "{inner_tree:?}");
    assert!(outer.iter().all(|pid| !inner_tree.contains(pid)), "{outer:?} and {inner_tree:?}");
    host.crash();
    let (planned, done) = (
        pids(run(&place, &["reap", "--dry-run", "--json"])),
        pids(run(&place, &["reap", "--json"])),
    );
    assert_eq!(planned, done, "each once");
    assert_eq!(done.len(), outer.len() + inner_tree.len(), "{done:?}");
}

#[test]
fn processes_of_a_live_owner_are_left_running() {
    let place = Place::new();
    let running = Running::start(&place, "mine", &[], "echo $$; exec sleep 300");
    assert_eq!(run(&place, &["reap"]).expect(0).out, "checked 0, ended 0, already gone 0\n");
    assert!(is_alive(running.said.parse().expect("a pid")));
}

/// One namespace, with the program that is searched for and with everything that resembles it.
/// Prints `LABEL alive|dead` for each.
const LOOK_ALIKES: &str = r#"
cd "$FOLDER" || exit 1
spawn() { label=$1; shift; ( "$@" > /dev/null 2>&1 & echo "$label $!" >> labels ); }
printf '#!/bin/sh\nsleep 300\n:\n' > "$NAME"; chmod 755 "$NAME"
cp "$(command -v sleep)" vim; cp "$(command -v sleep)" "$NAME-helper"; : > "$NAME.log"
printf 'sleep 300\n' > notes.sh
spawn script ./"$NAME"
spawn tail tail -f "$NAME.log"
spawn mention sh -c "sleep 300; : $NAME"
spawn editor ./vim 300
spawn longer ./"$NAME-helper" 300
spawn argument sh notes.sh "$NAME"
spawn grep sh -c 'exec tail -f /dev/null' grep "$NAME"
# Each has become what it is to be.
while [ ! "$(tr '\0' ' ' < /proc/$(sed -n 's/^script //p' labels)/cmdline)" = "/bin/sh ./$NAME " ]; do sleep 0.05; done
while [ "$(wc -l < labels)" -lt 7 ]; do sleep 0.05; done
"$PROCLEDGER" --db "$FOLDER/ledger.db" $ARGS; echo "code $?"
while read -r label pid; do
  case "$(sed -n 's/^State:.//p' "/proc/$pid/status" 2>/dev/null)" in
    ''|Z*) echo "$label dead";;
    *) echo "$label alive";;
  esac
done < labels
"#;

fn look_alikes(place: &Place, args: &str) -> Option<String> {
    let (out, err) = look_alikes_with(place, args)?;
    assert_eq!(err, "", "{out}");
    Some(out)
}

/// Does the same; returns also what was printed to stderr.
fn look_alikes_with(place: &Place, args: &str) -> Option<(String, String)> {
    tool("unshare")?;
    let mut shell = namespaced("sh");
    clean(&mut shell, place);
    shell
        .args(["-c", LOOK_ALIKES])
        .env("FOLDER", place.path())
        .env("NAME", place.marker())
        .env("PROCLEDGER", PROCLEDGER)
        .env("ARGS", args.replace("NAME", place.marker()));
    let answer = answer(&mut shell);
    if answer.err.contains("unshare failed") {
        skipped("this machine allows no PID namespaces");
        return None;
    }
    let answer = answer.expect(0);
    Some((answer.out, answer.err))
}

#[test]
fn a_name_ends_the_program_and_spares_every_look_alike() {
    let place = Place::new();
    let Some(out) = look_alikes(&place, "reap --min-age 0s --orphan-name NAME") else { return };
    assert!(out.contains("script dead"), "{out}");
    for label in ["tail", "mention", "editor", "longer", "argument", "grep"] {
        assert!(out.contains(&format!("{label} alive")), "{label} was hit: {out}");
    }
    assert!(out.contains("code 0"), "{out}");
}

#[test]
fn a_dry_run_with_a_name_ends_nothing() {
    let place = Place::new();
    run(&place, &["reap"]).expect(0);
    let Some(out) = look_alikes(&place, "reap --dry-run --min-age 0s --orphan-name NAME") else {
        return;
    };
    assert!(out.contains("script alive") && !out.contains(" dead\n"), "{out}");
    assert!(out.contains("would act on"), "{out}");
}

#[test]
fn a_young_process_is_left_running() {
    let place = Place::new();
    let Some(out) = look_alikes(&place, "reap --min-age 1h --orphan-name NAME") else { return };
    assert!(out.contains("script alive") && out.contains(", too young 1\n"), "{out}");
}

/// Without a ledger only names are matched; processes below the minimum age are counted, and listed
/// on request.
#[test]
fn a_dry_run_with_a_name_needs_no_ledger_and_counts_processes_that_are_too_young() {
    let place = Place::new();
    let args = "reap --dry-run --orphan-name NAME";
    let Some((out, err)) = look_alikes_with(&place, &format!("{args} --min-age 0s")) else {
        return;
    };
    let none = format!("no ledger at {}: only processes with", place.ledger().display());
    assert!(err.starts_with(&none) && err.lines().count() == 1, "{err}");
    assert!(out.contains("would act on ") && out.contains(" is named "), "{out}");
    assert!(!out.contains("too young") && !out.contains(" dead\n"), "{out}");
    let all = |args: &str| look_alikes_with(&Place::new(), args).expect("a namespace").0;
    let young = all(args);
    assert!(young.contains("would act on 0, too young 1\n"), "{young}");
    assert!(!young.contains("Left running"), "{young}");
    let listed = all(&format!("{args} -v"));
    assert!(listed.contains("Left running (younger than --min-age):\n"), "{listed}");
    assert!(listed.contains(" old, and younger than 10s"), "{listed}");
    let json = all(&format!("{args} --json"));
    let json = json.split_once("code 0").expect("the exit code").0;
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["endings"], serde_json::json!([]), "{json:#}");
    assert_eq!(json["young"].as_array().map(Vec::len), Some(1), "{json:#}");
    assert!(!place.ledger().exists(), "a dry run created a ledger");
}

const NOBODY: u32 = 65534;

/// A folder and the command for uid 65534; `None` if the test cannot become that user.
pub(crate) fn nobodys_place(place: &Place) -> Option<std::path::PathBuf> {
    if !root() {
        return None;
    }
    tool("setpriv")?;
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
    // The built command may be in a folder that this user may not read.
    let copy = place.path().join("procledger");
    copy_program(PROCLEDGER, copy);
    let folder = place.path().join("theirs");
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(NOBODY), Some(NOBODY)).expect("a gift");
    Some(folder.join("ledger.db"))
}

pub(crate) fn as_nobody(place: &Place, ledger: &Path) -> Command {
    let mut command = Command::new("setpriv");
    clean(&mut command, place);
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(place.path().join("procledger"))
        .env("PROCLEDGER_DB", ledger);
    command
}

#[test]
fn a_forged_row_does_not_make_root_kill_an_unrelated_process() {
    let place = Place::new();
    let Some(ledger) = nobodys_place(&place) else { return };
    let script = "echo $$; exec sleep 300";
    let args = ["run", "--task", "theirs", "--", "sh", "-c", script, place.marker()];
    let running = Running::spawn(as_nobody(&place, &ledger).args(args));
    running.crash();
    // Its owner points the row of that orphan at a process of root, and claims that the instance
    // was root's.
    let mut canary = canary();
    let tick = crate::support::start_tick(canary.pid()).expect("a tick");
    let forged = format!(
        "UPDATE process SET pid = {}, start_tick = {tick}, pidfd_inode = NULL, uid = 0; UPDATE instance SET uid = 0;",
        canary.pid()
    );
    forge(&ledger, &forged);
    let reap = answer(on_ledger(&place, &ledger).arg("reap"));
    assert!(canary.is_running(), "a forged row made root kill an unrelated process: {reap:?}");
    let kill = answer(on_ledger(&place, &ledger).args(["kill", "theirs"]));
    assert!(canary.is_running(), "a forged row made root kill an unrelated process: {kill:?}");
    for uid in ["uid = 65534", "uid = 0"] {
        forge(
            &ledger,
            &format!(
                "UPDATE process SET {uid}, state = 'running', ended_at = NULL, end_reason = NULL, claimed_by = NULL, exit_code = NULL, exit_signal = NULL"
            ),
        );
        for args in
            [&["health"][..], &["kill", "--all"], &["reap"], &["run", "--task", "x", "--", "true"]]
        {
            let answer = answer(on_ledger(&place, &ledger).args(args));
            assert!(!answer.err.contains("panicked"), "{answer:?}");
            assert!(canary.is_running(), "{uid}, {args:?}: {answer:?}");
        }
    }
}

fn forge(ledger: &Path, change: &str) {
    let connection = rusqlite::Connection::open(ledger).expect("a ledger");
    connection.execute_batch(change).expect("a forgery");
    drop(connection);
    for file in fs::read_dir(ledger.parent().expect("a folder")).expect("a folder") {
        chown(file.expect("an entry").path(), Some(NOBODY), Some(NOBODY)).expect("still theirs");
    }
}

#[test]
fn a_reap_by_root_leaves_a_users_ledger_usable_by_its_owner() {
    let place = Place::new();
    let Some(ledger) = nobodys_place(&place) else { return };
    let args = ["run", "--task", "t", "--", "sh", "-c", "echo $$; exec sleep 300", place.marker()];
    let running = Running::spawn(as_nobody(&place, &ledger).args(args));
    let orphan: u32 = running.said.parse().expect("a pid");
    running.crash();
    for args in [&["ps"][..], &["doctor"], &["reap"], &["run", "--task", "r", "--", "id", "-u"]] {
        let answer = answer(on_ledger(&place, &ledger).args(args)).expect(0);
        if args[0] == "run" {
            assert_eq!(answer.out, "65534\n", "the program runs as the ledger's owner");
        }
    }
    assert!(!is_alive(orphan), "root ends what is theirs, as they could");
    for (path, _, uid, _) in bytes_of(ledger.parent().expect("a folder")) {
        assert_eq!(uid, NOBODY, "{} is not theirs any more", path.display());
    }
    answer(as_nobody(&place, &ledger).args(["run", "--task", "again", "--", "true"])).expect(0);
}

#[test]
fn a_process_that_cannot_be_ended_keeps_its_row_and_yields_exit_code_3() {
    let place = Place::new();
    let Some(ledger) = nobodys_place(&place) else { return };
    let args = ["run", "--task", "t", "--", "sh", "-c", "echo $$; exec sleep 300", place.marker()];
    let running = Running::spawn(as_nobody(&place, &ledger).args(args));
    let theirs = running.said.clone();
    running.crash();
    // The row of the user `nobody` names a process of root as its own: EPERM.
    let mut canary = canary();
    let tick = crate::support::start_tick(canary.pid()).expect("a tick");
    let inode = rustix::fs::fstat(crate::support::pidfd(canary.pid()).expect("it lives"))
        .expect("a stat")
        .st_ino;
    forge(
        &ledger,
        &format!(
            "UPDATE process SET pid = {}, start_tick = {tick}, pidfd_inode = {inode} WHERE pid = {theirs}",
            canary.pid()
        ),
    );
    let answer = answer(as_nobody(&place, &ledger).arg("reap"));
    assert!(canary.is_running());
    let answer = answer.expect(3);
    assert!(answer.out.contains("survived 1"), "{answer:?}");
    let rows = crate::cli::command::answer(as_nobody(&place, &ledger).args(["ps", "--json"]))
        .expect(0)
        .json();
    assert_eq!(rows[0]["state"], "survived", "{rows:#}");
    assert!(rows[0]["last_error"].as_str().is_some_and(|error| !error.is_empty()), "{rows:#}");
    assert_eq!(fs::metadata(&ledger).expect("a ledger").uid(), NOBODY);
}
