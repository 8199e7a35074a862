//! `procledger run` passes on to its program what it has inherited, as env(1) does: signals that
//! are ignored or blocked, and descriptors.

use std::process::Command;

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    cli::command::{Answer, PROCLEDGER, Running, answer, clean, containments},
    support::{Place, need, pidfd, until},
};

/// What the caller of the command ignores and blocks, as arguments of env(1).
const UNUSUAL: [&str; 2] =
    ["--ignore-signal=HUP,INT,USR1,PIPE,CHLD,RTMIN+3", "--block-signal=TERM,USR2,RTMIN+4"];
const STATUS: [&str; 3] = ["grep", "-E", "^Sig(Blk|Ign):"];

/// Runs a program with these signals, below `run` if there are options for it.
fn program(place: &Place, options: Option<&[&str]>, program: &[&str]) -> Command {
    let mut command = Command::new("env");
    clean(&mut command, place);
    command.env("PROCLEDGER_DB", place.ledger()).args(UNUSUAL);
    if let Some(options) = options {
        command.args([PROCLEDGER, "run", "--task", "t"]).args(options).arg("--");
    }
    command.args(program);
    command
}

fn signals(place: &Place, options: Option<&[&str]>) -> Answer {
    let status = [&STATUS[..], &["/proc/self/status"]].concat();
    answer(&mut program(place, options, &status)).expect(0)
}

#[test]
fn ignored_and_blocked_signals_are_passed_on() {
    let place = Place::new();
    let plain = signals(&place, None).out;
    assert!(!plain.contains("Blk:\t0000000000000000"), "{plain}");
    let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    for containment in containments() {
        let options = ["--containment", containment];
        assert_eq!(signals(&place, Some(&options)).out, plain, "{containment}");
        let options = ["--containment", containment, "--clean"];
        assert_eq!(signals(&place, Some(&options)).out, none, "{containment}");
    }
}

/// A caller that ignores SIGCHLD has its children reaped by the kernel, and `run` inherits that.
#[test]
fn the_exit_code_is_known_although_sigchld_is_ignored() {
    let place = Place::new();
    for containment in containments() {
        let options = ["--containment", containment];
        answer(&mut program(&place, Some(&options), &["sh", "-c", "exit 7"])).expect(7);
    }
}

#[test]
fn nohup_protects_the_program_from_sighup() {
    need!("nohup");
    let place = Place::new();
    let script = "echo up; while [ ! -e go ]; do sleep 0.05; done; exit 5";
    let mut command = Command::new("nohup");
    clean(&mut command, &place);
    command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    command.args([PROCLEDGER, "run", "--task", "t", "--", "sh", "-c"]);
    command.args(["echo $$ > pid; eval \"$0\"", script]);
    let running = Running::spawn(&mut command);
    let program = place.watch("pid");
    for pid in [running.child.id(), program.pid()] {
        pidfd_send_signal(pidfd(pid).expect("alive"), Signal::HUP).expect("sent");
    }
    std::fs::write(place.path().join("go"), "").expect("written");
    running.finish().expect(5);
}

/// Runs a script of bash, in which `"${run[@]}"` stands for the prefix: nothing, or `run` with
/// these options.
fn script(place: &Place, options: Option<&[&str]>, script: &str) -> Command {
    let mut command = Command::new("bash");
    clean(&mut command, place);
    command.env("PROCLEDGER_DB", place.ledger()).current_dir(place.path());
    command.args(["-c", &format!("run=(\"$@\"); {script}"), "bash"]);
    match options {
        Some(options) => command.args([PROCLEDGER, "run", "--task", "t"]).args(options).arg("--"),
        None => &mut command,
    };
    command
}

/// The script does the same with the plain program and in each containment.
fn agrees(text: &str) -> String {
    let plain = answer(&mut script(&Place::new(), None, text)).expect(0);
    for containment in containments() {
        let place = Place::new();
        let options = ["--containment", containment];
        let ours = answer(&mut script(&place, Some(&options), text)).expect(0);
        assert_eq!((&ours.out, &ours.err), (&plain.out, &plain.err), "{containment}: {text}");
    }
    plain.out
}

/// Runs ls(1) after these redirections of bash, and returns each of its descriptors with what it is
/// open on. The list itself is the last one that was opened.
fn descriptors(options: Option<&[&str]>, redirections: &str) -> Vec<String> {
    let text = format!("{redirections}; exec \"${{run[@]}}\" ls -l /proc/self/fd");
    let shown = answer(&mut script(&Place::new(), options, &text)).expect(0).out;
    let entry = |line: &str| {
        let (about, target) = line.split_once(" -> ")?;
        let number = about.rsplit(' ').next()?;
        let kind = target.split([':', '[']).next()?;
        let target =
            if target.starts_with("/proc/") && target.ends_with("/fd") { "-" } else { kind };
        Some(format!("{number} {target}"))
    };
    shown.lines().filter_map(entry).collect()
}

#[test]
fn exactly_the_inherited_descriptors_are_passed_on() {
    need!("bash");
    // The second has more than one message to a keeper can carry, and the highest number of all.
    let many = "ulimit -n 1024; for ((i = 0; i < 300; i++)); do exec {fd}</dev/zero; done; exec 1023</dev/full";
    let few = "exec 3</dev/null 9>/dev/zero 63<>/dev/full 200</proc/version";
    for (redirections, expected) in [(few, "200 /proc/version"), (many, "1023 /dev/full")] {
        let plain = descriptors(None, redirections);
        assert!(plain.iter().any(|it| it == expected), "{plain:?}");
        for containment in containments() {
            let ours = descriptors(Some(&["--containment", containment]), redirections);
            assert_eq!(ours, plain, "{containment}");
        }
    }
}

#[test]
fn with_clean_no_descriptor_is_passed_on() {
    need!("bash");
    for containment in containments() {
        let options = ["--clean", "--containment", containment];
        let shown = descriptors(Some(&options), "exec 3</dev/null 63<>/dev/full");
        let numbers: Vec<&str> = shown.iter().filter_map(|it| it.split(' ').next()).collect();
        assert_eq!(numbers, ["0", "1", "2", "3"], "{containment}: {shown:?}");
    }
}

#[test]
fn process_substitution_works() {
    need!("bash");
    assert_eq!(agrees("\"${run[@]}\" cat <(echo one) <(echo two)"), "one\ntwo\n");
    assert_eq!(agrees("\"${run[@]}\" tee >(cat >&2) <<< three"), "three\n");
}

/// Once the program has closed a descriptor, nothing holds it any more, as without `run`.
#[test]
fn nothing_but_the_program_holds_a_descriptor() {
    need!("bash");
    let waits = "sh -c 'exec 3>&-; while [ ! -e eof ]; do sleep 0.05; done; rm eof'";
    agrees(&format!("exec 3> >(cat > /dev/null; : > eof); exec \"${{run[@]}}\" {waits}"));
}

#[test]
fn a_lock_is_held_until_the_program_ends() {
    need!("bash", "flock");
    let held = |place: &Place| {
        let lock = place.path().join("lock");
        let status = Command::new("flock").arg("-n").arg(lock).arg("true").status();
        !status.expect("flock").success()
    };
    let modes = containments().into_iter().map(|mode| Some(["--containment", mode]));
    for options in [None].into_iter().chain(modes) {
        let place = Place::new();
        let program = "sh -c 'echo up; while [ ! -e go ]; do sleep 0.05; done'";
        let text = format!("exec 9>lock; flock 9; \"${{run[@]}}\" {program} & exec 9>&-; wait $!");
        let options = options.as_ref().map(|options| &options[..]);
        let running = Running::spawn(&mut script(&place, options, &text));
        assert!(held(&place), "{options:?}");
        std::fs::write(place.path().join("go"), "").expect("written");
        running.finish().expect(0);
        until("it is released", || !held(&place));
    }
}

#[test]
fn make_shares_its_job_slots_with_the_program() {
    need!("bash", "make");
    let inner = "all: a b\na b: ; @echo $@\n";
    let outer = "all: ; +@$(RUN) $(MAKE) --no-print-directory -f inner\n";
    let text = format!(
        "printf '%s' '{inner}' > inner; printf '%s' '{outer}' > outer; \
         make --no-print-directory -j2 -f outer RUN=\"${{run[*]}}\" | sort"
    );
    // Without the descriptors of the job server it warns.
    assert_eq!(agrees(&text), "a\nb\n");
}

#[test]
fn sockets_of_systemd_are_passed_with_the_pid_of_the_program() {
    need!("bash");
    let shows = "sh -c 'test $LISTEN_PID = $$ && echo mine; cat <&3'";
    let listens = "exec 3<<< socket; export LISTEN_FDS=1";
    let mine = format!("{listens}; export LISTEN_PID=$$; exec \"${{run[@]}}\" {shows}");
    assert_eq!(agrees(&mine), "mine\nsocket\n");
    // They are for another process.
    let others = format!("{listens}; export LISTEN_PID=$PPID; exec \"${{run[@]}}\" {shows}");
    assert_eq!(agrees(&others), "socket\n");
}
