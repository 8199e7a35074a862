//! `procledger scan`: what looks orphaned is listed with its tree and the reason, and nothing is
//! changed.
//!
//! Each scan runs in a PID namespace of its own, whose first process is a shell that adopts
//! orphans.

use std::process::Command;

use serde_json::Value;

use crate::{
    cli::command::{Answer, PROCLEDGER, answer, bare, clean},
    support::{Place, namespaced, namespaces, need, root},
};

/// Functions for the scripts. `orphan NAME CMD...` starts a program whose starter and session
/// leader have ended, and writes its pid into the file NAME once it is so; `scan ARGS...` runs the
/// command.
const FUNCTIONS: &str = r#"
cd "$FOLDER" || exit 1
wait_for() { until "$@"; do sleep 0.01; done; }
is_adopted() { [ "$(sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f2)" = 1 ]; }
has_become() { [ "$(tr '\0' ' ' < "/proc/$1/cmdline")" = "$2 " ]; }
orphan() {
  name=$1; shift
  setsid sh -c 'name=$1; shift; "$@" & echo $! > "$name.new"; mv "$name.new" "$name"' sh "$name" "$@"
  wait_for test -e "$name"; pid=$(cat "$name")
  wait_for is_adopted "$pid"; wait_for has_become "$pid" "$*"
}
scan() { "$PROCLEDGER" scan "$@"; }
"#;

/// Runs a script as the first process of a PID namespace; `None` where there is none.
fn inside(place: &Place, script: &str) -> Option<Answer> {
    if !namespaces() {
        return None;
    }
    let mut shell = namespaced("sh");
    clean(&mut shell, place);
    shell.args(["-c", &format!("{FUNCTIONS}{script}")]);
    shell.env("FOLDER", place.path()).env("HOME", place.path()).env("PROCLEDGER", PROCLEDGER);
    shell.env("PROCLEDGER_CONTAINMENT", "session").env("MARKER", place.marker());
    Some(answer(&mut shell))
}

fn pid_in(place: &Place, file: &str) -> u64 {
    let text = std::fs::read_to_string(place.path().join(file)).expect("a pid");
    text.trim().parse().expect("a pid")
}

fn pids(scan: &Value) -> Vec<u64> {
    let trees = scan["trees"].as_array().expect("trees").iter();
    trees.map(|tree| tree["pid"].as_u64().expect("a pid")).collect()
}

#[test]
fn an_orphan_is_listed_with_its_tree_and_the_reason() {
    let place = Place::new();
    let script = "printf 'sleep 300 & echo $! > child; wait\\n' > server.sh
        orphan tree sh server.sh --password=hunter2
        wait_for test -s child; wait_for has_become \"$(cat child)\" 'sleep 300'
        orphan plain sleep 301
        scan --min-age 0s --json; scan --min-age 0s >text; ls -A >files
        PATH=$(dirname \"$PROCLEDGER\"):$PATH; eval \"$(tail -n1 text) --json\" >planned 2>said";
    let Some(answer) = inside(&place, script) else { return };
    let scan = answer.expect(0).json();
    let (tree, plain, child) =
        (pid_in(&place, "tree"), pid_in(&place, "plain"), pid_in(&place, "child"));
    assert_eq!(pids(&scan), [tree, plain], "the oldest first, and each once: {scan:#}");
    let found = &scan["trees"][0];
    assert_eq!((&found["parent"], &found["name"]), (&1.into(), &"server.sh".into()));
    let why = found["why"].as_str().expect("a reason");
    assert!(why.starts_with("adopted by process 1 (") && why.contains("leader has ended"), "{why}");
    assert_eq!(found["ledger"], Value::Null);
    let members = found["members"].as_array().expect("members");
    assert_eq!(members[0]["command"], serde_json::json!(["sh", "server.sh", "--password=***"]));
    assert_eq!(members[0]["cwd"], place.path().to_str().expect("UTF-8"));
    assert_eq!((&members[1]["pid"], &members[1]["parent"]), (&child.into(), &tree.into()));
    assert_eq!(members.len(), 2, "{found:#}");
    let sum: u64 = members.iter().map(|it| it["rss_bytes"].as_u64().expect("bytes")).sum();
    assert!(sum > 0 && found["rss_bytes"] == sum, "{found:#}");
    assert!(found["age_ms"].is_u64() && found["cpu_ms"].is_u64(), "{found:#}");
    let text = std::fs::read_to_string(place.path().join("text")).expect("a text");
    let reap = "procledger reap --dry-run --orphan-name=server.sh --orphan-name=sleep --min-age 0s";
    for part in ["server.sh: adopted by process 1", "└─ sleep 300", "2 trees, 3 processes", reap]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    let words: Vec<&str> = reap.split(' ').collect();
    assert_eq!(scan["reap"], serde_json::json!(words));
    // The line works as it stands, and means the same processes.
    let text_of = |file: &str| std::fs::read_to_string(place.path().join(file)).expect("a file");
    let planned: Value = serde_json::from_str(&text_of("planned")).expect("JSON");
    let ends = |pid: u64| {
        planned["endings"].as_array().expect("endings").iter().any(|ending| ending["pid"] == pid)
    };
    assert!([tree, plain, child].into_iter().all(ends), "{planned:#}");
    assert!(text_of("said").starts_with("no ledger at "), "{}", text_of("said"));
    let files = std::fs::read_to_string(place.path().join("files")).expect("a list");
    assert!(
        !files.contains(".local") && !files.contains("ledger"),
        "it created something: {files}"
    );
}

/// `--orphan-name=dash` would match every other shell of the user.
#[test]
fn for_a_shell_without_a_script_the_name_of_every_shell_was_proposed() {
    let place = Place::new();
    let script = "orphan shell sh -c 'sleep 300; :'
        scan --min-age 0s --json; scan --min-age 0s >text";
    let Some(answer) = inside(&place, script) else { return };
    let scan = answer.expect(0).json();
    let shell = pid_in(&place, "shell");
    assert_eq!(pids(&scan), [shell], "{scan:#}");
    assert_eq!((&scan["trees"][0]["name"], &scan["reap"]), (&Value::Null, &Value::Null));
    let text = std::fs::read_to_string(place.path().join("text")).expect("a text");
    assert!(text.starts_with("sh: adopted by process 1"), "{text}");
    assert!(
        text.contains("is not found by name") && text.ends_with(&format!(": {shell}\n")),
        "{text}"
    );
}

/// The command's own ancestors and their children, what is young, and a server with windows on a
/// terminal.
#[test]
fn processes_in_use_and_young_processes_are_left_out() {
    need!("script");
    let place = Place::new();
    // tmux is such a server, as is script(1) here: it has no terminal, and its program has one.
    let script = "sleep 300 & setsid --fork sh -c 'sleep 301; :' &
        orphan server script -qfc 'echo up > window; exec sleep 302' /dev/null
        wait_for test -s window
        orphan young sleep 303
        scan --json; scan --json --min-age 0s > all; scan > text";
    let Some(answer) = inside(&place, script) else { return };
    let scan = answer.expect(0).json();
    assert_eq!(pids(&scan), [0_u64; 0], "{scan:#}");
    assert_eq!(scan["left_out"]["terminals"], 1, "{scan:#}");
    assert!(scan["left_out"]["young"].as_u64() >= Some(1), "{scan:#}");
    assert_eq!((&scan["reap"], &scan["min_age_ms"]), (&Value::Null, &10_000.into()));
    let all = std::fs::read_to_string(place.path().join("all")).expect("JSON");
    let all: Value = serde_json::from_str(&all).expect("JSON");
    assert!(pids(&all).contains(&pid_in(&place, "young")), "{all:#}");
    assert!(!pids(&all).contains(&pid_in(&place, "server")), "{all:#}");
    let text = std::fs::read_to_string(place.path().join("text")).expect("a text");
    assert!(text.starts_with("No process of uid ") && text.contains(" younger than 10s"), "{text}");
    assert!(text.contains("1 on terminals") && !text.contains("reap"), "{text}");
    assert!(text.contains("--min-age 0s lists the young ones"), "{text}");
}

/// While the instance lives, it is responsible for its daemons; afterwards they are orphans of its
/// ledger.
#[test]
fn tracked_processes_are_left_out_until_their_owner_is_dead() {
    let place = Place::new();
    let script = r#"
        "$PROCLEDGER" --db "$FOLDER/ledger.db" run --task t -- \
          sh -c 'setsid sh -c "sleep 300 & echo \$! > daemon.new; mv daemon.new daemon"; echo up > up; exec sleep 301' &
        owner=$!
        wait_for test -s up; pid=$(cat daemon); wait_for is_adopted "$pid"; wait_for has_become "$pid" 'sleep 300'
        scan --min-age 0s --json > before
        kill -KILL $owner; wait $owner
        scan --min-age 0s --json; scan --min-age 0s > text"#;
    let Some(answer) = inside(&place, script) else { return };
    let (scan, daemon) = (answer.expect(0).json(), pid_in(&place, "daemon"));
    let before = std::fs::read_to_string(place.path().join("before")).expect("JSON");
    let before: Value = serde_json::from_str(&before).expect("JSON");
    assert_eq!(pids(&before), [0_u64; 0], "{before:#}");
    assert!(before["left_out"]["tracked"].as_u64() >= Some(1), "{before:#}");
    assert!(pids(&scan).contains(&daemon), "{scan:#}");
    let ledger = place.ledger().canonicalize().expect("a ledger");
    let ledger = ledger.to_str().expect("UTF-8");
    for tree in scan["trees"].as_array().expect("trees") {
        assert_eq!(tree["ledger"], ledger, "{scan:#}");
        assert!(tree["why"].as_str().expect("why").contains("token of a task"), "{scan:#}");
    }
    assert_eq!(scan["reap"], Value::Null, "a name match leaves to a ledger what carries its token");
    let text = std::fs::read_to_string(place.path().join("text")).expect("a text");
    assert!(text.contains(&format!("procledger --db {ledger} reap --dry-run\n")), "{text}");
}

#[test]
fn root_scans_as_the_named_user() {
    need!("setpriv");
    let place = Place::new();
    if !root() {
        return;
    }
    let script = r#"
        chmod 777 .
        setsid setpriv --reuid=65534 --regid=65534 --clear-groups \
          sh -c 'sleep 300 & echo $! > theirs.new; mv theirs.new theirs'
        wait_for test -e theirs; pid=$(cat theirs); wait_for is_adopted "$pid"; wait_for has_become "$pid" 'sleep 300'
        orphan ours sleep 301
        scan --min-age 0s --json > own
        scan --min-age 0s --json --user 65534; scan --min-age 0s --user 65534 > text"#;
    let Some(answer) = inside(&place, script) else { return };
    let scan = answer.expect(0).json();
    assert_eq!(pids(&scan), [pid_in(&place, "theirs")], "{scan:#}");
    assert!(scan["trees"][0]["members"][0]["cwd"].is_string(), "{scan:#}");
    let own = std::fs::read_to_string(place.path().join("own")).expect("JSON");
    let own: Value = serde_json::from_str(&own).expect("JSON");
    assert_eq!(pids(&own), [pid_in(&place, "ours")], "{own:#}");
    let text = std::fs::read_to_string(place.path().join("text")).expect("a text");
    assert!(text.contains("would be ended, as uid 65534:"), "{text}");
}

#[test]
fn an_unknown_or_forbidden_user_is_refused_in_one_line() {
    let place = Place::new();
    let refused = answer(bare(&place).args(["scan", "--user", "no-such-user"])).expect(2);
    let part = if root() { "there is no user no-such-user" } else { "--user needs root" };
    assert!(refused.complaint().contains(part), "{refused:?}");
    for option in [&["--db", "x.db"][..], &["--migrate"], &["--export", "x.json"]] {
        let refused = answer(bare(&place).arg("scan").args(option)).expect(2);
        assert!(refused.complaint().contains(option[0]), "{refused:?}");
    }
}

/// `/proc` of another PID namespace shows the wrong processes.
#[test]
fn scan_fails_where_proc_belongs_to_another_pid_namespace() {
    need!("unshare");
    if !namespaces() {
        return;
    }
    let place = Place::new();
    let mut other = Command::new("unshare");
    clean(&mut other, &place);
    if !rustix::process::geteuid().is_root() {
        other.arg("--map-root-user");
    }
    let refused = answer(other.args(["--pid", "--fork", "--kill-child", PROCLEDGER, "scan"]));
    assert!(refused.expect(1).complaint().contains("another PID namespace"));
}
