//! Commands that inspect a ledger, and those that change it on request.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{Running, answer, bare, bytes_of, on_ledger, procledger, run},
    support::{Host, PidfdWatch, Place, canary, is_alive, need, pidfd, state, until},
};

const UP: &str = "echo $$; exec sleep 300";

/// A ledger whose owner was killed, with an orphan that reap has ended.
fn with_a_leak(place: &Place, task: &str) {
    Running::start(place, task, &[], UP).crash();
    run(place, &["reap"]).expect(0);
}

fn names(value: &serde_json::Value) -> Vec<String> {
    let mut names: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn ps_shows_running_processes_and_all_shows_ended_ones() {
    let place = Place::new();
    run(&place, &["run", "--task", "done", "--", "true"]).expect(0);
    let running = Running::start(&place, "going", &[], UP);
    let table = run(&place, &["ps"]).expect(0).out;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("TASK"), "{table}");
    assert!(lines[1].starts_with("going") && lines[1].contains(&running.said), "{table}");
    let all = run(&place, &["ps", "--all"]).expect(0).out;
    assert_eq!(all.lines().count(), 3, "{all}");
    let done = all.lines().find(|line| line.starts_with("done")).expect("a row");
    let words: Vec<&str> = done.split_whitespace().collect();
    assert_eq!(words[2..4], ["exited", "0"], "{all}");
}

#[test]
fn ps_json_has_the_documented_fields() {
    let place = Place::new();
    let running = Running::start(&place, "going", &["--grace", "2s", "--max-rss", "1G"], UP);
    let rows = run(&place, &["ps", "--json"]).expect(0).json();
    let row = &rows[0];
    // The help text is the documentation; it must name exactly the existing commands.
    let help = run(&place, &["ps", "--help"]).expect(0).out;
    let documented = help.split("with all of these:").nth(1).expect("a list of fields");
    let documented = documented.split("Fields may be added").next().expect("an end");
    for name in names(row) {
        assert!(documented.contains(&name), "{name} is not documented");
    }
    for name in [
        "id",
        "task_id",
        "pid",
        "state",
        "owner",
        "owner_alive",
        "owner_instance",
        "root",
        "origin",
        "containment",
        "command",
        "cwd",
        "uid",
        "attributes",
        "started_at",
        "ended_at",
        "exit_code",
        "exit_signal",
        "end_reason",
        "end_rule",
        "end_evidence",
        "peak_rss_bytes",
        "cpu_ms",
        "survive",
        "grace_ms",
        "max_runtime_ms",
        "max_rss_bytes",
        "asked_by",
        "last_error",
        "alive",
        "tree_rss_bytes",
        "tree_cpu_ms",
        "descendants",
        "figures",
    ] {
        assert!(documented.contains(name), "{name} is not documented any more");
        assert!(row.get(name).is_some(), "{name} is gone from {row:#}");
    }
    assert_eq!(row["task_id"], "going");
    assert_eq!(row["pid"].to_string(), running.said);
    assert_eq!(row["state"], "running");
    assert_eq!(row["grace_ms"], 2000);
    assert_eq!(row["max_rss_bytes"], 1 << 30);
    assert_eq!(row["command"][0], "sh");
}

#[test]
fn kill_ends_several_tasks_and_names_unknown_ones() {
    let place = Place::new();
    let a = Running::start(&place, "a", &[], UP);
    let b = Running::start(&place, "b", &[], UP);
    let c = Running::start(&place, "c", &[], UP);
    let answer = run(&place, &["kill", "a", "nobody", "b"]).expect(1);
    assert_eq!(answer.out.lines().count(), 2, "{answer:?}");
    assert!(answer.err.contains("no task nobody is running"), "{answer:?}");
    for ended in [a, b] {
        ended.finish().expect(128 + 15);
    }
    assert!(is_alive(c.said.parse().expect("a pid")), "c was not named");
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    let killed: Vec<_> =
        rows.as_array().expect("rows").iter().filter(|row| row["end_reason"] == "killed").collect();
    assert_eq!(killed.len(), 2, "{rows:#}");
    let asked_by = killed[0]["asked_by"].as_str().expect("a name");
    assert!(asked_by.starts_with("uid ") && asked_by.contains("procledger kill"), "{asked_by}");
    let answer = run(&place, &["kill", "--all"]).expect(0);
    assert!(answer.out.starts_with("c pid "), "{answer:?}");
    c.finish().expect(128 + 15);
    assert_eq!(run(&place, &["kill", "--all"]).expect(0).err, "no task is running\n");
}

/// `tree` printed nothing, and `ps` an empty table: a wrong ledger looked like one that works.
#[test]
fn without_a_running_task_nothing_was_printed() {
    let place = Place::new();
    run(&place, &["reap"]).expect(0);
    let said = |args: &[&str]| run(&place, args).expect(0).err;
    assert_eq!(said(&["ps", "--all"]), "no process is recorded\n");
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    for args in [&["ps"][..], &["ps", "--wide"]] {
        assert_eq!(said(args), "no task is running: --all shows what has ended\n", "{args:?}");
    }
    for args in [&["tree"][..], &["kill", "--all"]] {
        assert_eq!(said(args), "no task is running\n", "{args:?}");
    }
    let quiet: [&[&str]; 5] = [
        &["ps", "--all"],
        &["ps", "--json"],
        &["ps", "--all", "--json"],
        &["tree", "--json"],
        &["kill", "--all", "--json"],
    ];
    for args in quiet {
        assert_eq!(said(args), "", "{args:?}");
    }
    let running = Running::start(&place, "up", &[], UP);
    for args in [&["ps"][..], &["ps", "--all"], &["tree"], &["kill", "--all"]] {
        assert_eq!(said(args), "", "{args:?}");
    }
    running.finish().expect(128 + 15);
}

#[test]
fn forget_refuses_a_process_that_is_known_to_run() {
    let place = Place::new();
    let running = Running::start(&place, "known", &[], UP);
    let refused = run(&place, &["forget", "known"]).expect(1);
    assert!(refused.complaint().contains("known"), "{refused:?}");
    assert!(is_alive(running.said.parse().expect("a pid")));
    assert!(run(&place, &["ps"]).expect(0).out.contains("known"));
}

/// Only the row of the root identified the descendant: once that row was closed, the descendant ran
/// on forever.
#[test]
fn forget_left_no_way_to_end_processes_of_a_dead_root() {
    let place = Place::new();
    let mut host = Host::start(&place, "containment=session");
    let pid = place.path().join("daemon").display().to_string();
    let script = format!("setsid sleep 3600 & echo $! > {pid}.tmp; mv {pid}.tmp {pid}; wait");
    let root = host.spawn("gone", &script);
    let daemon = place.watch("daemon");
    host.crash();
    root.kill();
    let refused = run(&place, &["forget", "gone"]).expect(1);
    assert!(refused.complaint().contains("procledger kill"), "{refused:?}");
    assert!(!daemon.is_dead());
    run(&place, &["kill", "gone"]).expect(0);
    assert!(daemon.is_dead());
    assert_eq!(run(&place, &["forget", "gone"]).expect(1).out, "", "it is over");
}

#[test]
fn forget_closes_a_row_of_another_machine_and_sends_no_signal() {
    let place = Place::new();
    let running = Running::start(&place, "far", &[], UP);
    let pid: u32 = running.said.parse().expect("a pid");
    running.crash();
    // As if the ledger had been written on another machine.
    let ledger = rusqlite::Connection::open(place.ledger()).expect("a ledger");
    ledger
        .execute("UPDATE instance SET machine_id = 'ffffffffffffffffffffffffffffffff', boot_id = '00000000000000000000000000000001'", [])
        .expect("a change");
    drop(ledger);
    let report = run(&place, &["reap", "--json"]).expect(3).json();
    assert_eq!(report["endings"].as_array().expect("endings").len(), 0, "{report:#}");
    assert!(is_alive(pid), "a row of another machine was taken for our own process");
    let doctor = run(&place, &["doctor"]).expect(0);
    assert!(doctor.out.contains("1 rows cannot be judged from here"), "{doctor:?}");
    run(&place, &["run", "--task", "far", "--", "true"]).expect(0);
    let answer = run(&place, &["forget", "far"]).expect(0);
    assert_eq!(answer.out, "far: forgot 1 process\n");
    assert!(is_alive(pid));
    assert_eq!(run(&place, &["ps"]).expect(0).out.lines().count(), 1, "only the header");
}

#[test]
fn health_records_dead_processes_of_dead_owners() {
    let place = Place::new();
    let running = Running::start(
        &place,
        "died",
        &[],
        "echo up; while [ ! -e \"$0.go\" ]; do sleep 0.05; done",
    );
    running.crash();
    // A `sleep` of the loop may have ended since. A process that is exiting has no environment
    // any more and is not listed as alive, but is not dead yet: wait on the pidfds as well.
    let killed: Vec<_> = place.alive().into_iter().filter_map(PidfdWatch::find).collect();
    killed.iter().for_each(PidfdWatch::send_kill);
    until("all are dead", || killed.iter().all(PidfdWatch::is_dead) && place.alive().is_empty());
    let report = run(&place, &["health", "--json"]).expect(0).json();
    assert_eq!(names(&report), ["adopted", "checked", "endings", "errors", "suspects", "young"]);
    let ending = &report["endings"][0];
    assert_eq!(
        names(ending),
        ["command", "died_after_ms", "evidence", "obstacle", "outcome", "pid", "rule", "task_id"]
    );
    assert_eq!((&ending["task_id"], &ending["outcome"]), (&"died".into(), &"gone".into()));
    assert!(
        run(&place, &["health"]).expect(0).out.contains("checked 0"),
        "there is nothing left to check"
    );
}

#[test]
fn report_shows_rule_and_evidence_in_every_format() {
    let place = Place::new();
    assert_eq!(run(&place, &["run", "--task", "x", "--", "true"]).expect(0).out, "");
    assert!(run(&place, &["report"]).expect(0).out.starts_with("No leaks found in "));
    let task = "a,b \"quoted\" = 'single'";
    with_a_leak(&place, task);
    let table = run(&place, &["report"]).expect(0).out;
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains(task) && table.contains("its instance is dead: identity"), "{table}");
    let json = run(&place, &["report", "--format", "json"]).expect(0).json();
    assert_eq!(json[0]["task_id"], task);
    assert_eq!(json[0]["rule"], "its instance is dead");
    assert_eq!(
        (&json[0]["rule_key"], &json[0]["evidence_key"]),
        (&"instance_dead".into(), &"identity".into())
    );
    let csv = run(&place, &["report", "--format", "csv"]).expect(0).out;
    let records = parse_csv(&csv);
    assert_eq!(records.len(), 2, "{csv}");
    assert_eq!(records[0].len(), 15);
    assert_eq!(records[1].len(), 15);
    for (name, field) in records[0].iter().zip(&records[1]) {
        match &json[0][name] {
            serde_json::Value::String(text) => assert_eq!(text, field, "{name}"),
            serde_json::Value::Number(number) => assert_eq!(&number.to_string(), field, "{name}"),
            serde_json::Value::Null => assert_eq!(field, "", "{name}"),
            serde_json::Value::Array(words) => assert_eq!(
                words[0].as_str().expect("text"),
                field.split(' ').next().expect("one"),
                "{name}"
            ),
            other => panic!("{name}: {other}"),
        }
    }
}

/// RFC 4180, implemented independently: records end with CRLF, quotes are doubled.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (vec![], vec![], String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push(chars.next().expect("peeked"));
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted && chars.peek() == Some(&'\n') => {
                chars.next();
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            other => field.push(other),
        }
    }
    assert!(field.is_empty() && record.is_empty() && !quoted, "cut off: {text}");
    records
}

#[test]
fn report_counts_by_day_task_and_rule() {
    let place = Place::new();
    for task in ["one", "two", "one"] {
        with_a_leak(&place, task);
    }
    let by = |by: &str| run(&place, &["report", "--by", by, "--format", "json"]).expect(0).json();
    let tasks = by("task");
    let of = |key: &str| {
        let group = tasks.as_array().expect("groups").iter().find(|group| group["key"] == key);
        group.expect("it leaked")["leaks"].clone()
    };
    assert_eq!((of("one"), of("two")), (2.into(), 1.into()));
    assert_eq!(by("day")[0]["orphans"], 3);
    assert_eq!(by("rule")[0]["key"], "its instance is dead");
    assert!(run(&place, &["report", "--by", "task"]).expect(0).out.starts_with("TASK"));
    let hours = by("hour");
    let hour = hours[0]["key"].as_str().expect("a key");
    assert!(hour.len() == 17 && hour.ends_with(":00Z"), "{hours:#}");
    assert_eq!((&by("program")[0]["key"], &by("program")[0]["leaks"]), (&"sh".into(), &3.into()));
    assert_eq!(
        run(&place, &["report", "--since", "0s", "--format", "json"]).expect(0).out.trim(),
        "[]"
    );
    let everything =
        run(&place, &["report", "--since", "900years", "--format", "json"]).expect(0).json();
    assert_eq!(everything.as_array().expect("leaks").len(), 3);
}

#[test]
fn report_is_written_to_a_file() {
    let place = Place::new();
    with_a_leak(&place, "t");
    let file = place.path().join("report.csv");
    let args = ["report", "--format", "csv", "-o", file.to_str().expect("UTF-8")];
    assert_eq!(run(&place, &args).expect(0).out, "");
    assert_eq!(parse_csv(&fs::read_to_string(file).expect("a file")).len(), 2);
}

#[test]
fn export_and_import_use_the_format_of_the_former_implementation() {
    let place = Place::new();
    let running = Running::start(&place, "exported", &[], UP);
    let json = run(&place, &["export", "-"]).expect(0);
    let entries = json.json();
    assert_eq!(names(&entries[0]), ["process_id", "start_time", "task_id"]);
    assert_eq!(entries[0]["process_id"].to_string(), running.said);
    assert_eq!(json.out, run(&place, &["export"]).expect(0).out, "`-` is what it does by itself");
    let file = place.path().join("running.json");
    run(&place, &["export", file.to_str().expect("UTF-8")]).expect(0);
    assert_eq!(fs::read_to_string(&file).expect("a file"), json.out);
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o644);
    // Processes that the ledger itself tracks are not legacy orphans.
    let report = run(&place, &["import", "--json", file.to_str().expect("UTF-8")]).expect(0).json();
    assert_eq!(report["endings"].as_array().expect("endings").len(), 0, "{report:#}");
    assert!(is_alive(running.said.parse().expect("a pid")));
}

#[test]
fn import_leaves_a_process_running_that_only_the_file_names() {
    let place = Place::new();
    let mut canary = canary();
    let file = place.path().join("former.json");
    let start = chrono::Utc::now().to_rfc3339();
    let json =
        format!(r#"[{{"task_id":"t","process_id":{},"start_time":"{start}"}}]"#, canary.pid());
    fs::write(&file, json).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    let file = file.to_str().expect("UTF-8");
    let report = run(&place, &["import", "--min-age", "0s", "--json", file]).expect(0).json();
    assert_eq!(report["endings"].as_array().expect("endings").len(), 0, "{report:#}");
    assert_eq!(report["suspects"].as_array().expect("suspects").len(), 1, "{report:#}");
    run(&place, &["import", "--orphan-name", "sleep", "--min-age", "0s", file]).expect(0);
    assert!(canary.is_running(), "its parent, this test, lives: it is not an orphan");
}

#[test]
fn import_renames_a_malformed_file() {
    let place = Place::new();
    let file = place.path().join("broken.json");
    fs::write(&file, "[{\"task_id\": \"cut o").expect("a file");
    let answer = run(&place, &["import", file.to_str().expect("UTF-8")]).expect(1);
    assert!(answer.err.contains("is malformed"), "{answer:?}");
    assert!(!file.exists());
    assert!(place.path().join("broken.json.corrupt").exists());
}

#[test]
fn prune_deletes_old_history_and_nothing_else() {
    let place = Place::new();
    with_a_leak(&place, "oldest");
    with_a_leak(&place, "old");
    let running = Running::start(&place, "going", &[], UP);
    assert!(
        run(&place, &["prune", "--older-than", "1h"]).expect(0).out.starts_with("deleted 0 rows")
    );
    let answer = run(&place, &["prune", "--older-than", "0s"]).expect(0);
    assert!(!answer.out.starts_with("deleted 0 "), "{answer:?}");
    let rows = run(&place, &["ps", "--all", "--json"]).expect(0).json();
    let tasks: Vec<_> = rows.as_array().expect("rows").iter().map(|row| &row["task_id"]).collect();
    // The last leak stays with its process, so that its row number is not reused.
    assert_eq!(tasks, ["going", "old"], "{rows:#}");
    assert!(is_alive(running.said.parse().expect("a pid")));
    assert_eq!(run(&place, &["doctor"]).expect(0).code(), 0);
}

#[test]
fn doctor_finds_no_problem_in_a_sound_ledger() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    let findings = run(&place, &["doctor", "--json"]).expect(0).json();
    for finding in findings.as_array().expect("findings") {
        assert_eq!(names(finding), ["advice", "check", "detail", "level"]);
        assert_ne!(finding["level"], "problem", "{finding:#}");
    }
}

#[test]
fn doctor_reports_orphans_and_how_to_end_them() {
    let place = Place::new();
    Running::start(&place, "left", &[], UP).crash();
    let answer = run(&place, &["doctor"]).expect(0);
    assert!(answer.out.contains("warning  orphans: 1 rows of dead instances"), "{answer:?}");
    assert!(answer.out.contains("procledger reap"), "{answer:?}");
}

#[test]
fn doctor_finds_a_damaged_ledger() {
    let place = Place::new();
    for index in 0..40 {
        run(&place, &["run", "--task", &format!("t{index}"), "--", "true"]).expect(0);
    }
    // A copy of the main file; no instance is open, so the WAL is empty and has been removed.
    let copy = place.path().join("copy.db");
    fs::copy(place.ledger(), &copy).expect("a copy");
    let mut file = File::options().read(true).write(true).open(&copy).expect("a copy");
    let size = file.metadata().expect("a size").len();
    for page in 2..size / 4096 {
        file.seek(SeekFrom::Start(page * 4096 + 8)).expect("a seek");
        file.write_all(&[0x5a; 200]).expect("damage");
    }
    drop(file);
    let doctor = answer(on_ledger(&place, &copy).arg("doctor")).expect(1);
    assert!(doctor.out.contains("problem") && doctor.out.contains("damaged"), "{doctor:?}");
    assert!(doctor.out.contains("->"), "no advice: {doctor:?}");
    damaged_ledgers_were_reported_as_busy(&place, &copy);
}

/// Inspecting a damaged ledger took ten seconds, and then reported that no connection was free and
/// to try again.
fn damaged_ledgers_were_reported_as_busy(place: &Place, damaged: &Path) {
    let before = fs::read(damaged).expect("a ledger");
    for args in [&["ps"][..], &["report"], &["reap", "--dry-run"], &["kill", "--all"], &["reap"]] {
        let since = Instant::now();
        let answer = answer(on_ledger(place, damaged).args(args)).expect(1);
        assert!(answer.complaint().contains("it is damaged"), "{args:?}: {answer:?}");
        assert!(since.elapsed() < Duration::from_secs(8), "{args:?} took {:?}", since.elapsed());
    }
    assert_eq!(fs::read(damaged).expect("a ledger"), before);
}

#[test]
fn doctor_does_not_create_a_missing_ledger() {
    let place = Place::new();
    let answer = run(&place, &["doctor"]).expect(0);
    assert!(answer.out.contains("warning  ledger"), "{answer:?}");
    assert!(bytes_of(place.path()).is_empty());
}

#[test]
fn each_shell_has_a_completion_script() {
    let place = Place::new();
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef procledger"),
        ("fish", "complete -c procledger"),
    ] {
        let answer = answer(bare(&place).args(["completions", shell])).expect(0);
        assert!(answer.out.contains(part), "{shell}");
        assert!(answer.out.contains("orphan-name"), "{shell}");
    }
    assert!(bytes_of(place.path()).is_empty());
}

#[test]
fn bash_accepts_its_completion_script() {
    need!("bash");
    let place = Place::new();
    let mut bash = std::process::Command::new("bash");
    crate::cli::command::clean(&mut bash, &place);
    let script = "set -eu; eval \"$(\"$0\" completions bash)\"; complete -p procledger";
    let answer =
        answer(bash.args(["--norc", "-c", script, crate::cli::command::PROCLEDGER])).expect(0);
    assert!(answer.out.contains("_procledger"), "{answer:?}");
}

#[test]
fn a_reader_that_closes_the_pipe_early_is_not_a_failure() {
    let place = Place::new();
    let long = "y".repeat(100_000);
    run(&place, &["run", "--task", "long", "--", "true", &long]).expect(0);
    for args in [
        &["ps", "--all"][..],
        &["ps", "--all", "--json"],
        &["tree"],
        &["report", "--format", "html"],
        &["completions", "bash"],
        &["doctor"],
        &["export"],
        &["--help"],
    ] {
        let mut child = procledger(&place).args(args).spawn().expect("procledger");
        let mut out = BufReader::with_capacity(16, child.stdout.take().expect("piped"));
        let mut line = Vec::new();
        out.by_ref().take(10).read_until(b'\n', &mut line).expect("a few bytes");
        drop(out);
        let answer = crate::cli::command::finish(child);
        let said = if args == ["tree"] { "no task is running\n" } else { "" };
        assert_eq!((answer.code(), answer.err.as_str()), (0, said), "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let place = Place::new();
    run(&place, &["run", "--task", "t", "--", "true"]).expect(0);
    for args in [
        &["ps", "--all"][..],
        &["tree", "--json"],
        &["report"],
        &["report", "--format", "html"],
        &["export"],
        &["doctor"],
    ] {
        let full = File::options().write(true).open("/dev/full").expect("/dev/full");
        let answer = answer(procledger(&place).args(args).stdout(Stdio::from(full))).expect(1);
        assert!(answer.complaint().contains("No space left"), "{args:?} {answer:?}");
    }
}

#[test]
fn reading_commands_change_nothing() {
    let place = Place::new();
    let running = Running::start(&place, "t", &[], UP);
    // Stopped, its owner writes nothing meanwhile: a health pass follows soon after a fork.
    let owner = pidfd(running.child.id()).expect("alive");
    pidfd_send_signal(&owner, Signal::STOP).expect("stopped");
    until("it has stopped", || state(running.child.id()) == Some('T'));
    let before = rows_of(&place);
    let files = fs::read(place.ledger()).expect("a ledger");
    for args in [
        &["ps"][..],
        &["ps", "--all", "--json"],
        &["tree"],
        &["tree", "t", "--json"],
        &["report"],
        &["report", "--format", "html"],
        &["export"],
        &["doctor"],
        &["reap", "--dry-run"],
    ] {
        run(&place, args).expect(0);
        assert_eq!(rows_of(&place), before, "{args:?}");
        assert_eq!(fs::read(place.ledger()).expect("a ledger"), files, "{args:?}");
    }
    pidfd_send_signal(&owner, Signal::CONT).expect("continued");
    drop(running.said);
}

/// Every row of every table.
pub(crate) fn rows_of(place: &Place) -> Vec<String> {
    use rusqlite::{Connection, OpenFlags, types::Value};
    let ledger = Connection::open_with_flags(place.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("a ledger");
    let mut all = Vec::new();
    for table in ["instance", "process", "pass", "leak"] {
        let mut statement =
            ledger.prepare(&format!("SELECT * FROM {table} ORDER BY id")).expect("a table");
        let width = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..width).map(|column| row.get::<_, Value>(column)).collect::<Result<Vec<_>, _>>()
        });
        all.extend(rows.expect("rows").map(|row| format!("{table} {:?}", row.expect("a row"))));
    }
    all
}

#[test]
fn the_ledger_path_comes_from_the_first_source_that_is_set() {
    let place = Place::new();
    let home = place.path().join("home");
    let state = place.path().join("state");
    let named = place.path().join("named.db");
    let given = place.path().join("given.db");
    fs::create_dir(&home).expect("a folder");
    let run = |set: &[(&str, &Path)], args: &[&str]| {
        let mut command = bare(&place);
        command.env_remove("HOME").envs(set.iter().copied()).args(args);
        answer(command.args(["run", "--task", "t", "--", "true"]))
    };
    let home = ("HOME", home.as_path());
    let (xdg, db) = (("XDG_STATE_HOME", state.as_path()), ("PROCLEDGER_DB", named.as_path()));
    run(&[home], &[]).expect(0);
    let by_home = home.1.join(".local/state/procledger");
    assert!(by_home.join("ledger.db").exists());
    assert_eq!(fs::metadata(&by_home).expect("a folder").mode() & 0o777, 0o700);
    run(&[home, xdg], &[]).expect(0);
    assert!(state.join("procledger/ledger.db").exists());
    run(&[home, xdg, db], &[]).expect(0);
    assert!(named.exists());
    run(&[home, xdg, db], &["--db", given.to_str().expect("UTF-8")]).expect(0);
    assert!(given.exists());
    assert_eq!(fs::metadata(&given).expect("a ledger").mode() & 0o777, 0o600);
    let nowhere = run(&[], &[]).expect(125);
    assert!(nowhere.complaint().contains("--db"), "{nowhere:?}");
    let nowhere = answer(bare(&place).env_remove("HOME").arg("ps")).expect(1);
    assert!(nowhere.complaint().contains("--db"), "{nowhere:?}");
}

/// As with a mistyped HOME, or that of a user whose home is not mounted yet; also where
/// `XDG_STATE_HOME` is below it.
#[test]
fn a_home_that_does_not_exist_was_created() {
    let place = Place::new();
    let (home, file) = (place.path().join("missing/me"), place.path().join("file"));
    fs::write(&file, "").expect("a file");
    for home in [&home, &file] {
        for state in [None, Some(home.join(".state"))] {
            let mut command = bare(&place);
            command.args(["run", "--", "true"]).env("HOME", home).current_dir(place.path());
            command.envs(state.as_ref().map(|state| ("XDG_STATE_HOME", state)));
            let refused = answer(&mut command).expect(125);
            let line = refused.complaint();
            let named = format!("the home folder {} (HOME) does not exist", home.display());
            assert!(line.contains(&named) && line.contains("--db"), "{line}");
        }
    }
    // A relative one would be another folder in each working directory.
    let mut relative = bare(&place);
    relative.args(["run", "--", "true"]).env("HOME", "home").current_dir(place.path());
    let refused = answer(&mut relative).expect(125);
    assert!(refused.complaint().contains("absolute"), "{refused:?}");
    assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 1, "nothing was created");
    // XDG_STATE_HOME elsewhere needs no home.
    let state = place.path().join("state");
    let mut elsewhere = bare(&place);
    elsewhere.args(["run", "--", "true"]).env("HOME", &home).env("XDG_STATE_HOME", &state);
    answer(&mut elsewhere).expect(0);
    assert!(state.join("procledger/ledger.db").exists());
}

#[test]
fn the_log_file_is_readable_only_by_its_owner() {
    let place = Place::new();
    let log = place.path().join("log");
    Running::start(&place, "t", &[], UP).crash();
    run(&place, &["--log-file", log.to_str().expect("UTF-8"), "reap"]).expect(0);
    assert_eq!(fs::metadata(&log).expect("a log").mode() & 0o777, 0o600);
    let text = fs::read_to_string(&log).expect("text");
    assert!(text.contains("INFO: Cleaned up 1 orphaned processes from previous run"), "{text}");
}

/// `export` printed C1 controls and direction overrides raw: JSON itself escapes only the
/// characters below a space.
#[test]
fn export_printed_c1_controls_raw() {
    let place = Place::new();
    let task = "evil\u{9b}31m\u{202e}";
    let _running = Running::start(&place, task, &[], UP);
    let answer = run(&place, &["export"]).expect(0);
    assert!(answer.out.contains("evil\\u009b31m\\u202e"), "{answer:?}");
    assert_eq!(answer.json()[0]["task_id"], task);
}

#[test]
fn control_characters_never_reach_a_terminal() {
    let place = Place::new();
    let task = "evil\u{1b}[2J\u{1b}]0;title\u{7}\r\nnew\u{9b}31m\u{202e}";
    with_a_leak(&place, task);
    let _running = Running::start(&place, task, &[], UP);
    for args in [
        &["ps"][..],
        &["ps", "--all"],
        &["ps", "--all", "--json"],
        &["tree"],
        &["tree", task, "--json"],
        &["tree", "\u{1b}[2Jnobody"],
        &["report"],
        &["doctor"],
        &["report", "--format", "html"],
        &["report", "--format", "json"],
        &["report", "--format", "csv"],
        &["report", "--by", "task"],
        &["export"],
        &["reap", "--dry-run"],
        &["forget", task],
        &["kill", task],
        &["kill", task],
        &["forget", "\u{1b}[2Jnobody"],
        &["reap", "--orphan-name", "\u{1b}[2J/"],
    ] {
        let answer = run(&place, args);
        let said = answer.out.replace("\r\n", "\n") + &answer.err;
        let raw =
            said.chars().find(|&char| (char.is_control() && char != '\n') || char == '\u{202e}');
        assert_eq!(raw, None, "{args:?}: {answer:?}");
    }
}
