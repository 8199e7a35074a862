//! W6: the recorded process is the new host itself, as when a task has restarted its host. It must
//! not end itself.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::support::{Guard, Host, Place};

#[test]
fn invariant_13_a_host_that_finds_its_own_row_does_not_end_itself() {
    let place = Place::new();
    let script = format!(
        "read go; exec {} --exact handle::as_a_host::as_a_host --nocapture --test-threads=1",
        std::env::current_exe().expect("this binary").display()
    );
    let mut next = Guard(
        Command::new("/bin/sh")
            .args(["-c", &script])
            .env("PROCLEDGER_IT_HOST", place.ledger())
            .env("PROCLEDGER_IT_MARKER", place.marker())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh"),
    );
    let mut former = Host::start(&place, "");
    assert_eq!(former.ask(&format!("register restart {}", next.pid())), "done");
    former.crash();
    let mut stdin = next.0.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, b"go\n").expect("it reads");
    let lines = BufReader::new(next.0.stdout.take().expect("piped")).lines();
    let opened = lines.map_while(Result::ok).any(|line| line.contains("host> open 0"));
    assert!(opened, "the new host ended itself");
    assert!(next.is_running());
    assert_eq!(place.sqlite3("SELECT state FROM process WHERE task_id = 'restart'"), "running");
}
