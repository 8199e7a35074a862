//! A task restarts the host that started it.

use std::fs;

use crate::support::{Host, PidfdWatch, Place, eventually, is_alive, until};

#[test]
fn invariant_13_a_host_restarted_by_its_own_task_survives_and_the_old_tree_is_ended() {
    let place = Place::new();
    let mut old = Host::start(&place, "");
    let binary = std::env::current_exe().expect("this binary");
    let folder = place.path().display();
    // Double-forked: the new host is in the task's session, has its token, and has lost its parent.
    // Its input stays open through a FIFO that the task holds.
    let script = format!(
        "mkfifo {folder}/in; sleep 3600 & echo $! > {folder}/sibling; \
         (setsid sh -c 'while [ ! -e {folder}/go ]; do sleep 0.05; done; echo $$ > {folder}/host; \
            exec {binary} --exact handle::as_a_host::as_a_host --nocapture --test-threads=1 \
            <> {folder}/in > {folder}/out 2>&1' &) ; wait",
        binary = binary.display()
    );
    let root = old.spawn("restarts", &script);
    let sibling = place.watch("sibling");
    let same_session = old.spawn("other", "exec sleep 3600");
    old.crash();
    fs::write(place.path().join("go"), "").expect("the sign");

    let new = place.watch("host");
    let out = place.path().join("out");
    let open = eventually("the new host opens the ledger", || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.lines().find_map(|line| Some(line.split_once("host> ")?.1.to_owned()))
    });
    assert!(open.starts_with("open "), "{open}");
    assert!(root.is_dead() && sibling.is_dead() && same_session.is_dead(), "the old tree is gone");
    assert!(!new.is_dead() && is_alive(new.pid()), "the new host lives");
    let hit = format!("SELECT count(*) FROM process WHERE pid = {}", new.pid());
    assert_eq!(place.sqlite3(&hit), "0", "and it never was a member of anything");

    // The programs that it starts have a token of their own, and outlive a further pass.
    place.send_to_fifo("spawn fresh exec sleep 3600");
    let fresh = "SELECT pid FROM process WHERE task_id = 'fresh'";
    let fresh = eventually("it spawns", || place.sqlite3(fresh).parse().ok().map(PidfdWatch::on));
    // The row exists before the program: until exec the child still shows its host's environment.
    let commands = format!("/proc/{}/cmdline", fresh.pid());
    until("it runs", || fs::read(&commands).is_ok_and(|command| command.starts_with(b"sleep")));
    let environment = fs::read(format!("/proc/{}/environ", fresh.pid())).expect("its environment");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let tokens = environment.split('\0').find_map(|line| line.strip_prefix("PROCLEDGER_TOKEN="));
    let row = "SELECT replace(token, '-', '') FROM process WHERE task_id = 'fresh'";
    assert_eq!(tokens, Some(place.sqlite3(row).as_str()), "its own, and not the inherited one");
    let reap = place.procledger(&["reap"]);
    assert!(reap.status.success(), "{reap:?}");
    assert!(!new.is_dead() && !fresh.is_dead());
    place.send_to_fifo("quit");
    until("the new host stops in order", || new.is_dead());
    assert!(fresh.is_dead());
}
