//! The processes of a task, as `ps` summarizes them and `tree` shows them: looked up at the time of
//! the call.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{
    cli::command::{Answer, Running, answer, procledger, run},
    support::{Host, Place, eventually, need, root, until},
};

/// A root that stays, a child that has a child, a child in another session, and a child that holds
/// 64 MiB: it has read them and cannot write them, because its reader sleeps.
const FAMILY: &str = "sh -c 'sleep 300; true' & setsid sleep 300 & \
    dd if=/dev/zero bs=64M count=1 2>/dev/null | sleep 300 & \
    echo $$; exec sleep 300";

fn tree(place: &Place, task: &str) -> Value {
    run(place, &["tree", task, "--json"]).expect(0).json()[0].take()
}

fn members(tree: &Value) -> &Vec<Value> {
    tree["members"].as_array().expect("members")
}

/// Bytes of the resident set according to `/proc/PID/status`: a different file from the one that is
/// read for the figures.
fn resident(pid: &Value) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn ps_sums_up_the_current_processes_of_a_tree() {
    let place = Place::new();
    let running = Running::start(&place, "family", &[], FAMILY);
    let shown = eventually("all are there", || {
        let tree = tree(&place, "family");
        // Of the one: the sum exceeds that while it is still reading.
        let grown =
            members(&tree).iter().any(|member| member["rss_bytes"].as_u64() >= Some(64 << 20));
        (grown && tree["descendants"].as_u64() >= Some(5)).then_some(tree)
    });
    assert_eq!((&shown["figures"], &shown["obstacle"]), (&"live".into(), &Value::Null));
    assert_eq!(shown["pid"].to_string(), running.said);
    let all = members(&shown);
    assert_eq!(all.len() as u64, shown["descendants"].as_u64().expect("a number") + 1);
    let sum: u64 = all.iter().map(|member| member["rss_bytes"].as_u64().expect("bytes")).sum();
    assert_eq!(sum, shown["rss_bytes"].as_u64().expect("bytes"));
    let status: u64 = all.iter().map(|member| resident(&member["pid"])).sum();
    // The kernel counts in batches for each thread, so two readings differ by some pages.
    assert!(sum.abs_diff(status) < 8 << 20, "{sum} is not {status}");
    let row = &run(&place, &["ps", "--json"]).expect(0).json()[0];
    assert_eq!(row["descendants"], shown["descendants"]);
    assert!(row["tree_rss_bytes"].as_u64().expect("bytes").abs_diff(sum) < 8 << 20, "{row:#}");
    assert_eq!((&row["alive"], &row["figures"]), (&true.into(), &"live".into()));
}

#[test]
fn every_member_is_shown_below_its_parent_with_its_evidence() {
    let place = Place::new();
    let running = Running::start(&place, "family", &["--containment", "session"], FAMILY);
    let own = format!("child of {}", running.said);
    let shown = eventually("all are there, and one has left the session", || {
        let tree = tree(&place, "family");
        let left = members(&tree).iter().any(|member| member["evidence"] == own.as_str());
        (left && tree["descendants"].as_u64() >= Some(5)).then_some(tree)
    });
    let all = members(&shown);
    assert_eq!((&all[0]["evidence"], &all[0]["parent"]), (&"identity".into(), &Value::Null));
    for (index, member) in all.iter().enumerate().skip(1) {
        let parent = all[..index].iter().find(|above| above["pid"] == member["parent"]);
        assert!(parent.is_some(), "{member:#} stands above its parent");
        assert_eq!(member["process"], Value::Null, "no pass has recorded it yet");
    }
    let sessions = all.iter().filter(|member| member["evidence"] == "session").count();
    assert!(sessions >= 4, "{shown:#}");
    let text = run(&place, &["tree", "family"]).expect(0).out;
    assert_eq!(text.lines().count(), all.len() + 2, "{text}");
    assert!(text.starts_with("family: running, ") && text.contains("└─ "), "{text}");
    let everything = run(&place, &["tree"]).expect(0).out;
    assert!(everything.starts_with("family: running, "), "all that run: {everything}");
}

#[test]
fn a_descendant_recorded_by_a_pass_is_shown_without_other_evidence() {
    let place = Place::new();
    let mut host = Host::start(&place, "no-monitor containment=session");
    // It leaves its session and wipes its environment at once, and loses its parent on command.
    let lost = "echo $$ > lost; while :; do sleep 0.2; done";
    let script = format!(
        "cd {}; (env -i /usr/bin/setsid /bin/sh -c '{lost}' {} & while [ ! -e go ]; do sleep 0.05; done) & exec sleep 300",
        place.path().display(),
        place.marker()
    );
    let _root = host.spawn("loses", &script);
    let lost = place.watch("lost");
    let evidence = || {
        let tree = tree(&place, "loses");
        let found = members(&tree).iter().find(|member| member["pid"] == lost.pid()).cloned();
        let found = found.unwrap_or_else(|| panic!("it is missing: {tree:#}"));
        (found["evidence"].as_str().expect("a text").to_owned(), found["process"].is_i64())
    };
    let (tie, recorded) = evidence();
    assert!(tie.starts_with("child of ") && !recorded, "{tie}");
    host.ask("health");
    let (tie, recorded) = evidence();
    assert!(tie.starts_with("child of ") && recorded, "{tie}");
    let text = run(&place, &["tree", "loses"]).expect(0).out;
    let line = text.lines().find(|line| line.trim_start().starts_with(&lost.pid().to_string()));
    assert!(line.is_some_and(|line| line.contains(" +")), "it is recorded as well: {text}");
    fs::write(place.path().join("go"), "").expect("a file");
    until("nothing else ties it", || evidence() == ("recorded descendant".to_owned(), true));
    host.stop();
    assert!(lost.is_dead());
}

/// No pass has seen the process, and neither session nor token nor parent identifies it: only the
/// keeper does.
#[test]
fn a_process_known_only_as_a_descendant_of_the_keeper_is_shown() {
    let place = Place::new();
    let mut host = Host::start(&place, "no-monitor containment=keeper keeper");
    let lost = "echo $$ > lost; while :; do sleep 0.2; done";
    let script = format!(
        "cd {}; (env -i /usr/bin/setsid /bin/sh -c '{lost}' {} &); exec sleep 300",
        place.path().display(),
        place.marker()
    );
    let _root = host.spawn("keeps", &script);
    let lost = place.watch("lost");
    until("its keeper is what ties it", || {
        let tree = tree(&place, "keeps");
        let member = members(&tree).iter().find(|member| member["pid"] == lost.pid());
        member.is_some_and(|member| {
            member["evidence"] == "below its keeper" && member["process"].is_null()
        })
    });
    host.stop();
    assert!(lost.is_dead());
}

/// Arguments of live processes are masked like recorded ones.
#[test]
fn a_members_secrets_are_masked() {
    let place = Place::new();
    let secret = format!("sikrit{}", place.marker());
    let script = format!("sh -c 'sleep 300; true' --token {secret} & exec sleep 300");
    let _running = Running::start(&place, "hush", &[], &format!("echo up; {script}"));
    until("both are there", || tree(&place, "hush")["descendants"].as_u64() >= Some(2));
    for args in [&["tree", "hush"][..], &["tree", "hush", "--json"], &["ps", "--json"]] {
        let answer = run(&place, args).expect(0);
        assert!(!answer.out.contains(&secret) && !answer.err.contains(&secret), "{answer:?}");
    }
    assert!(run(&place, &["tree", "hush"]).expect(0).out.contains("--token "), "the option stays");
}

#[test]
fn cpu_time_includes_children_that_were_waited_for() {
    let place = Place::new();
    // Each child uses about 50 ms of CPU time and is waited for; the shell itself does nothing.
    let script =
        "echo up; while :; do sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done'; done";
    let _running = Running::start(&place, "burns", &[], script);
    until("the tree has used a second", || {
        tree(&place, "burns")["cpu_ms"].as_u64().is_some_and(|cpu| cpu > 1000)
    });
    let shown = tree(&place, "burns");
    let root = members(&shown)[0]["cpu_ms"].as_u64().expect("a number");
    assert!(root > 500, "what its dead children used is the root's: {shown:#}");
}

/// A root that is gone but not yet recorded as ended is reported as gone, not as running.
#[test]
fn a_dead_root_of_a_dead_owner_is_reported_as_gone() {
    let place = Place::new();
    let running = Running::start(&place, "left", &[], "sleep 300 & echo $$; exec sleep 300");
    let pid: u32 = running.said.parse().expect("a pid");
    running.crash();
    let root = crate::support::PidfdWatch::on(pid);
    root.kill();
    until("it is reaped", || crate::support::state(pid).is_none());
    let shown = tree(&place, "left");
    assert_eq!((&shown["state"], &members(&shown)[0]["alive"]), (&"gone".into(), &false.into()));
    let table = run(&place, &["ps"]).expect(0).out;
    assert!(table.contains("STATE") && table.contains(" gone "), "{table}");
    let row = &run(&place, &["ps", "--json"]).expect(0).json()[0];
    assert_eq!((&row["state"], &row["alive"]), (&"running".into(), &false.into()), "as recorded");
}

/// From another PID namespace the pids mean nothing: the recorded values are shown, and marked.
#[test]
fn a_process_of_another_pid_namespace_is_shown_as_recorded() {
    need!("unshare");
    if !root() || !crate::support::namespaces() {
        return;
    }
    let place = Place::new();
    let mut host = Host::start(&place, "no-monitor");
    let _root = host.spawn("far", "sleep 300 & exec sleep 300");
    host.ask("health");
    let inside = |args: &[&str]| -> Answer {
        let mut command = crate::support::namespaced(crate::cli::command::PROCLEDGER);
        crate::cli::command::clean(&mut command, &place);
        answer(command.env("PROCLEDGER_DB", place.ledger()).args(args)).expect(0)
    };
    let rows = inside(&["ps", "--json"]).json();
    let far =
        rows.as_array().expect("rows").iter().find(|row| row["root"].is_null()).expect("a root");
    assert_eq!((&far["figures"], &far["alive"]), (&"recorded".into(), &Value::Null));
    assert!(far["tree_rss_bytes"].as_u64().is_some_and(|rss| rss > 0), "{far:#}");
    let table = inside(&["ps"]);
    assert!(table.out.contains("M*") || table.out.contains("K*"), "{table:?}");
    assert!(table.err.starts_with("* as recorded: "), "{table:?}");
    assert!(inside(&["tree", "far"]).out.contains("as recorded: "), "and why");
    host.stop();
}

/// Two hundred tasks are looked up in one walk over `/proc`.
#[test]
fn many_tasks_are_looked_up_in_one_scan() {
    let place = Place::new();
    let mut host = Host::start(&place, "no-monitor");
    for index in 0..200 {
        drop(host.spawn(&format!("t{index}"), "exec sleep 300"));
    }
    let since = std::time::Instant::now();
    let rows = run(&place, &["ps", "--json"]).expect(0).json();
    let took = since.elapsed();
    assert_eq!(rows.as_array().expect("rows").len(), 200);
    assert!(rows.as_array().expect("rows").iter().all(|row| row["figures"] == "live"));
    assert!(took < Duration::from_secs(10), "{took:?}");
    host.stop();
}

#[test]
fn a_task_that_does_not_run_is_reported_and_the_others_are_shown() {
    let place = Place::new();
    run(&place, &["run", "--task", "over", "--", "true"]).expect(0);
    let _running = Running::start(&place, "going", &[], "echo up; exec sleep 300");
    let answer = answer(procledger(&place).args(["tree", "over", "going", "never"])).expect(1);
    assert!(answer.out.starts_with("going: running"), "{answer:?}");
    let lines: Vec<&str> = answer.err.lines().collect();
    assert_eq!(lines.len(), 2, "{answer:?}");
    assert!(
        lines[0].contains("task over has ended") && lines[0].contains("ps --all"),
        "{answer:?}"
    );
    assert!(lines[1].contains("no task never"), "{answer:?}");
}
