//! A program that misrepresents itself: another title, no environment, another session, a name that
//! breaks parsers. It is ended all the same, and its claimed name never reaches a terminal raw.

use std::fs;

use procledger::{Containment, ContainmentMode, Job, Stdio, Tracker};

use crate::support::{PidfdWatch, Place, canary, need, until};

/// Perl overwrites its arguments, and with them its environment, when `$0` is set.
const LIES: &str = r#"
use POSIX ();
my ($ready, $away) = @ARGV;
$0 = "\e]0;owned\a) S 1 (b" . ("x" x 3000);
open(my $comm, ">", "/proc/$$/comm"); print $comm "a) S 1 (b"; close $comm;
if (fork() == 0) {
    POSIX::setsid();
    $SIG{TERM} = "IGNORE";
    open(my $file, ">", $away); print $file $$; close $file;
    sleep 3600 while 1;
}
$SIG{TERM} = "IGNORE";
open(my $file, ">", $ready); print $file $$; close $file;
sleep 3600 while 1;
"#;

fn is_harmless(text: &str) -> bool {
    !text.chars().any(|char| char.is_control() && char != '\n')
}

#[test]
fn a_program_that_misrepresents_itself_is_shown_escaped_and_ended_with_its_descendants() {
    need!("perl");
    let place = Place::new();
    let mut canary = canary();
    let builder = Tracker::builder(place.ledger()).monitor(false);
    let tracker = builder.containment(ContainmentMode::Session).open().expect("a ledger");
    let job = Job::new("liar", "perl")
        .args(["-e", LIES])
        .args([place.path().join("ready"), place.path().join("away")])
        .env("PROCLEDGER_IT_MARKER", place.marker())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let process = tracker.spawn(job).expect("spawned");
    let (liar, away) = (place.watch("ready"), place.watch("away"));
    assert_eq!(liar.pid(), process.pid().get());
    let title = fs::read(format!("/proc/{}/cmdline", liar.pid())).expect("a title");
    assert!(title.starts_with(b"\x1b]0;owned\x07) S 1 (b"), "it lies");

    let pass = tracker.health_pass().expect("a pass");
    assert!(pass.endings.is_empty() && pass.errors.is_empty(), "{pass:?}");
    let rows = tracker.ledger().processes().expect("rows");
    assert_eq!(rows.len(), 2, "with the one that left the session: {rows:?}");
    assert!(rows.iter().any(|row| row.spec.containment == Containment::Session));
    for verb in [&["ps"][..], &["tree"], &["ps", "--all"], &["reap", "--dry-run"]] {
        let output = place.procledger(verb);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && is_harmless(&text), "{verb:?}: {text:?}");
    }
    let report = tracker.terminate("liar").expect("ended");
    assert_eq!(report.ended(), 2, "{report:?}");
    assert!(liar.is_dead() && away.is_dead());
    tracker.shutdown().expect("an orderly end");
    assert!(canary.is_running());
    until("nothing is left", || place.alive().iter().all(|&pid| PidfdWatch::find(pid).is_none()));
}
