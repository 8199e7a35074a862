//! Daemons that keep the token of their task and still hide it: they become another user, or make
//! their environment unreadable. None outlives its task where the kernel reports fork events, or
//! where a keeper or a cgroup holds the tree; elsewhere they are reported.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
};

use crate::support::{
    Host, PidfdWatch, Place, canary, find, in_namespace_as_a_user, need, root, skipped, sqlite3,
    until,
};

/// An ordinary user.
const USER: u32 = 61234;
const EVIDENCE: &str = "forked below it, as the kernel reported";

/// Forks twice, and hides in one of these ways; the token stays in its environment.
const HIDES: &str = r#"
use POSIX ();
my ($ready, $how, $marker) = @ARGV;
my %prctl = (x86_64 => 157, aarch64 => 167);
sub undumpable { syscall($prctl{(POSIX::uname())[4]}, 4, 0, 0, 0, 0) == 0 or die "prctl: $!" }
sub away { POSIX::setsid() > 0 or die "setsid: $!" }
sub become { POSIX::setuid(61235) or die "setuid: $!" }
sub ready { open my $file, '>', "$ready.new" or die "$ready: $!"; print $file $$; close $file; rename "$ready.new", $ready }
sub pause { select(undef, undef, undef, $_[0]) }
exit if fork();
# The folder is no other user's.
open my $early, '>', "$ready.early" if $how =~ /uid/;
if ($how eq 'uid-before-setsid') { become(); away() }
elsif ($how eq 'uid-after-setsid') { away(); become() }
elsif ($how eq 'effective-uid') { away(); $> = 61235; $> == 61235 or die "seteuid: $!" }
elsif ($how eq 'undumpable') { undumpable(); away() }
elsif ($how eq 'unreadable-file') { away() }
elsif ($how eq 'user-namespace') { away() }
elsif ($how =~ /late/) { away() }
exit if fork();
if ($how =~ /late/) { pause(0.4); $how =~ /uid/ ? become() : undumpable() }
if ($early) { print $early $$; close $early; sleep 3600 while 1 }
ready();
exec "$ready.sleep", '3600' if $how eq 'unreadable-file';
exec 'unshare', '-U', 'sleep', '3600' if $how eq 'user-namespace';
sleep 3600 while 1;
"#;

const AS_ROOT: [&str; 8] = [
    "uid-before-setsid",
    "uid-after-setsid",
    "uid-late",
    "effective-uid",
    "undumpable",
    "undumpable-late",
    "unreadable-file",
    "user-namespace",
];
const AS_USER: [&str; 4] = ["undumpable", "undumpable-late", "unreadable-file", "user-namespace"];

fn prepare(place: &Place) {
    std::fs::write(place.path().join("hides.pl"), HIDES).expect("a script");
    // Only root may read it.
    let (sleep, copy) = (find("sleep").expect("sleep"), place.path().join("hidden.sleep"));
    std::fs::copy(sleep, &copy).expect("copied");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o111)).expect("its mode");
}

fn script(place: &Place, how: &str) -> String {
    let path = place.path().display();
    if how == "ssh-agent" {
        let socket = place.path().join("agent");
        let start = format!("eval $(ssh-agent -a {}) > /dev/null", socket.display());
        return format!("{start}; echo $SSH_AGENT_PID > {path}/hidden; exec sleep 3600");
    }
    let file = if how.contains("uid") { "hidden.early" } else { "hidden" };
    let link = if file == "hidden" {
        String::new()
    } else {
        format!("until [ -s {path}/{file} ]; do sleep 0.01; done; cp {path}/{file} {path}/hidden;")
    };
    format!("perl {path}/hides.pl {path}/hidden {how} \"$0\"; {link} exec sleep 3600")
}

/// A host of root, or of an ordinary user with the same place.
fn host(place: &Place, user: bool, options: &str) -> Host {
    if !user {
        return Host::start(place, options);
    }
    chown(place.path(), Some(USER), Some(USER)).expect("given");
    let mut command = as_user();
    command.arg(std::env::current_exe().expect("this binary"));
    let host = Host::launch_by(command, place, &place.ledger(), options);
    let first = host.answer();
    assert!(first.starts_with("open "), "the host did not open its ledger: {first}");
    host
}

fn as_user() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=61234", "--regid=61234", "--clear-groups", "--inh-caps=-all"]);
    command
}

/// Whether the kernel reports fork events here: without them, these daemons are only reported.
fn reports_forks(place: &Place) -> bool {
    let output = place.procledger(&["doctor", "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let finding = findings.as_array().expect("an array").iter().find(|one| one["check"] == "forks");
    let detail = finding.expect("doctor says it")["detail"].as_str().expect("text").to_owned();
    let reported = detail.starts_with("the kernel reports them");
    if !reported {
        skipped(&format!("forks: {detail}"));
    }
    reported
}

fn has_row(place: &Place, watched: &PidfdWatch) -> bool {
    let row = format!(
        "SELECT count(*) FROM process WHERE pid = {} AND evidence = '{EVIDENCE}'",
        watched.pid()
    );
    sqlite3(&place.ledger(), &row) == "1"
}

/// A task with such a daemon is killed, or reaped after its host has crashed: the daemon is dead,
/// and nothing else is.
fn is_ended(user: bool, containment: &str, how: &str, crash: bool) {
    let place = Place::new();
    prepare(&place);
    let mut unrelated = canary();
    let options = format!("containment={containment} keeper grace=300 interval=3600000");
    let mut host = host(&place, user, &options);
    let task = host.spawn("task", &script(&place, how));
    let hidden = place.watch("hidden");
    let what = format!("{how} in {containment}, as user: {user}, crash: {crash}");
    if containment == "session" {
        // It may be found by its token as long as that can be read: what matters is that it does
        // not escape.
        if how != "user-namespace" && (user || how.contains("uid")) {
            until(&format!("{what}: it has a row"), || has_row(&place, &hidden));
        }
    }
    let verb: &[&str] = if crash { &["reap"] } else { &["kill", "task"] };
    if crash {
        host.crash();
    }
    let output = if user {
        let mut command = as_user();
        command.arg(env!("CARGO_BIN_EXE_procledger")).arg("--db").arg(place.ledger());
        command.args(verb).output().expect("the command runs")
    } else {
        place.procledger(verb)
    };
    // A keeper ends its tree by itself when its host has died.
    until(&format!("{what}: {output:?}"), || task.is_dead() && hidden.is_dead());
    assert!(output.status.success(), "{what}: {output:?}");
    assert!(unrelated.is_running());
}

fn all_are_ended(user: bool, containment: &str) {
    need!("perl", "unshare", "setpriv");
    if !root() {
        return;
    }
    let ways = if user { &AS_USER[..] } else { &AS_ROOT[..] };
    let agent = find("ssh-agent").map(|_| &"ssh-agent");
    for how in ways.iter().chain(agent) {
        for crash in [false, true] {
            is_ended(user, containment, how, crash);
        }
    }
}

#[test]
fn in_a_session_of_root_a_daemon_that_became_another_user_escaped_unreported() {
    if reports_forks(&Place::new()) {
        all_are_ended(false, "session");
    }
}

#[test]
fn in_a_session_of_a_user_a_daemon_is_recorded_before_it_becomes_unreadable() {
    if reports_forks(&Place::new()) {
        all_are_ended(true, "session");
    }
}

#[test]
fn under_a_keeper_of_root_no_hidden_daemon_escapes() {
    all_are_ended(false, "keeper");
}

#[test]
fn under_a_keeper_of_a_user_no_hidden_daemon_escapes() {
    all_are_ended(true, "keeper");
}

#[test]
fn in_a_cgroup_of_root_no_hidden_daemon_escapes() {
    if crate::containment::task_cgroups::can_use_cgroups() {
        all_are_ended(false, "cgroup");
    }
}

/// In another PID namespace there are no fork events: a process that cannot be read is reported
/// with the reason, and left.
#[test]
fn an_unreadable_daemon_is_reported_where_there_are_no_fork_events() {
    need!("perl");
    if !in_namespace_as_a_user(
        "containment::hidden_by_privilege::an_unreadable_daemon_is_reported_where_there_are_no_fork_events",
    ) {
        return;
    }
    for how in ["undumpable", "unreadable-file"] {
        for verb in [&["kill", "task"][..], &["reap", "--dry-run"], &["reap"]] {
            is_reported(how, verb);
        }
    }
}

fn is_reported(how: &str, verb: &[&str]) {
    let place = Place::new();
    prepare(&place);
    // None of these is a suspect: one that is older than the task, and one whose parent is alive.
    let path = place.path().display();
    let older = format!("perl {path}/hides.pl {path}/older undumpable {}", place.marker());
    place.child(&older).0.wait().expect("it forks and ends");
    let older = place.watch("older");
    std::thread::sleep(std::time::Duration::from_millis(30));
    let mut host = Host::start(&place, "containment=session grace=100 interval=3600000");
    let task = host.spawn("task", &script(&place, how));
    let hidden = place.watch("hidden");
    until("it is orphaned", || crate::support::parent(hidden.pid()) == Some(1));
    let _parent = place.child("setsid sh -c 'echo $$ > sibling; exec ./hidden.sleep 3600' & wait");
    let sibling = place.watch("sibling");
    until("it cannot be read", || {
        std::fs::read(format!("/proc/{}/environ", sibling.pid())).is_err()
    });
    let host = if verb[0] == "reap" {
        host.crash();
        None
    } else {
        Some(host)
    };
    let output = place.procledger(verb);
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = text.concat();
    assert!(output.status.success(), "{how} {verb:?}: {text}");
    assert_eq!(task.is_dead(), !verb.contains(&"--dry-run"), "{how} {verb:?}: {text}");
    assert!(!hidden.is_dead(), "{how} {verb:?}: what is not certain is left");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("may not be read")).collect();
    assert_eq!(lines.len(), 1, "{how} {verb:?}: {text}");
    assert!(lines[0].contains(&hidden.pid().to_string()), "{how} {verb:?}: {text}");
    for watched in [hidden, older, sibling] {
        watched.kill();
    }
    if let Some(host) = host {
        host.stop();
    }
}

/// Without the listener even root cannot attribute it to the task: another user may have copied the
/// token.
#[test]
fn another_users_process_with_the_token_is_reported() {
    need!("perl");
    if !root()
        || !crate::support::in_namespace(
            "containment::hidden_by_privilege::another_users_process_with_the_token_is_reported",
        )
    {
        return;
    }
    for how in ["uid-after-setsid", "effective-uid"] {
        let place = Place::new();
        prepare(&place);
        let mut host = Host::start(&place, "containment=session grace=100 interval=3600000");
        host.spawn("task", &script(&place, how));
        let hidden = place.watch("hidden");
        until("it is another user's", || {
            Path::new(&format!("/proc/{}", hidden.pid())).exists()
                && std::fs::read_to_string(format!("/proc/{}/status", hidden.pid()))
                    .is_ok_and(|status| status.contains("\t61235\t"))
        });
        let tree = place.procledger(&["tree"]);
        let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
        assert!(tree.contains("belongs to uid 61235"), "{how}: {tree}");
        let output = place.procledger(&["kill", "task"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("belongs to uid 61235") && !hidden.is_dead(), "{how}: {text}");
        hidden.kill();
        host.stop();
    }
}
