//! A program starts clean, whatever the state of its host: default dispositions, nothing blocked,
//! descriptors 0 to 2 and no others, a session of its own, one token.

#![expect(unsafe_code, reason = "a host that is made unclean on purpose")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
    time::Duration,
};

use procledger::{Job, Stdio, Tracker};

use crate::{
    spawn::gate_host::{Given, in_another_process},
    support::{Place, state, until},
};

#[test]
fn standard_descriptors_may_be_given_in_any_order() {
    let place = Place::new();
    in_another_process(&place, "crosswise", Duration::from_mins(1));
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn programs_of_a_host_with_closed_standard_descriptors_inherit_nothing_of_the_tracker() {
    let place = Place::new();
    in_another_process(&place, "closed", Duration::from_mins(1));
    assert_eq!(place.alive(), [0_u32; 0]);
}

#[test]
fn a_program_starts_clean_in_an_unclean_host() {
    let place = Place::new();
    in_another_process(&place, "clean-program", Duration::from_mins(1));
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn body(given: &Given) {
    soil();
    // SAFETY: this process never reads its environment from another thread meanwhile.
    unsafe { std::env::set_var("PROCLEDGER_TOKEN", "7d444840-9dc0-11d1-b245-5ffdce74fad2") };
    let tracker = given.builder().open().expect("a ledger");
    check(given, &tracker);
    check_inherited(&tracker);
    tracker.shutdown().expect("an orderly end");
}

/// Ignored and blocked signals, leaked descriptors low and high.
pub(crate) fn soil() {
    for signal in [libc::SIGPIPE, libc::SIGCHLD, libc::SIGHUP, libc::SIGUSR1, 40] {
        // SAFETY: a disposition without a handler.
        assert_ne!(unsafe { libc::signal(signal, libc::SIG_IGN) }, libc::SIG_ERR);
    }
    // SAFETY: fills and installs a local signal set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGUSR2);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()), 0);
    }
    for number in [9, 17, 200, 1000] {
        // SAFETY: duplicates a descriptor to a number that is free, or that this process may lose.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0 {
                assert_eq!(libc::dup2(2, number), number);
            }
        }
    }
}

/// A single script prints everything: `cat` shows the state that it was started with, the shell its
/// descriptors.
const REPORT: &str = "cat /proc/self/status; echo; echo stat $(cat /proc/$$/stat); echo pid $$; \
    echo fds; ls -1 /proc/$$/fd; echo; pwd -P | sed 's/^/cwd /'; \
    tr '\\0' '\\n' </proc/$$/environ | sed 's/^/env /'; cat >&2";

pub(crate) fn check(given: &Given, tracker: &Tracker) {
    let folder = fs::canonicalize(&given.folder).expect("a folder");
    let job = Job::new("report", "/bin/sh")
        .args(["-c", REPORT, &given.marker])
        .current_dir(&folder)
        .env("OURS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let process = tracker.spawn(job).expect("spawned");
    let pid = process.pid();
    let row = tracker.ledger().roots().expect("rows").into_iter().find(|row| row.pid() == pid);
    let text = read_all(process);
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    };
    for name in ["SigIgn:", "SigBlk:", "SigCgt:", "SigPnd:", "ShdPnd:"] {
        assert_eq!(field(name), "0000000000000000", "{name} {text}");
    }
    assert_eq!(field("pid "), pid.to_string());
    let stat = field("stat ");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let mut parent = std::process::id().to_string();
    if crate::spawn::gate_host::is_kept() {
        // It has gone by now.
        assert_ne!(fields[1], parent, "its keeper is its parent");
        fields[1].clone_into(&mut parent);
    }
    let expected = [parent, pid.to_string(), pid.to_string()];
    assert_eq!(fields[1..4], expected.each_ref().map(String::as_str), "ppid, pgid, sid: {stat}");
    assert!(text.contains("\nfds\n0\n1\n2\n\n"), "{text}");
    assert_eq!(field("cwd "), folder.to_str().expect("text"));
    let tokens: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("env PROCLEDGER_TOKEN=")).collect();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    let last = tokens[0].rsplit(':').next().expect("a token");
    let row = row.expect("its row was there while it ran");
    assert_eq!(row.spec.token.expect("a token").simple().to_string(), last);
    assert_eq!(field("env OURS="), "1");
}

/// A program that inherits descriptors gets all that were left open for it, and none of the
/// tracker's.
fn check_inherited(tracker: &Tracker) {
    let _other = tracker.spawn(Job::new("other", "cat").stdin(Stdio::piped())).expect("spawned");
    let listing = "ls -1 /proc/$$/fd; cat >&2";
    let job = Job::new("inherits", "/bin/sh").args(["-c", listing]).inherit_fds(true);
    let given = File::open("/dev/null").expect("a file");
    let job = job.fd(17, given).stdin(Stdio::null()).stdout(Stdio::piped());
    let text = read_all(tracker.spawn(job).expect("spawned"));
    let has = |number: &i32| {
        // SAFETY: reads a flag of a descriptor, if there is one.
        unsafe { libc::fcntl(*number, libc::F_GETFD) == 0 }
    };
    let mut expected: Vec<i32> = (0..=1000).filter(has).collect();
    assert!([0, 1, 2, 9, 17, 200, 1000].iter().all(|number| expected.contains(number)));
    let mut numbers: Vec<i32> = text.lines().map(|line| line.parse().expect("a number")).collect();
    numbers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
}

fn read_all(mut process: procledger::Process) -> String {
    let mut text = String::new();
    let mut stdout = process.stdout.take().expect("piped");
    stdout.read_to_string(&mut text).expect("text");
    process.wait().expect("waited");
    text
}

/// The host's own 0, 1 and 2, given to the program in another order.
pub(crate) fn crosswise(given: &Given) {
    let tracker = given.builder().open().expect("a ledger");
    let saved = save();
    for (number, text) in ["zero", "one", "two"].iter().enumerate() {
        let path = given.folder.join(text);
        fs::write(&path, format!("{text} ")).expect("a file");
        let options = File::options().read(true).append(true).open(&path).expect("a file");
        let number = i32::try_from(number).expect("small");
        // SAFETY: replaces a standard stream of this process, which is restored below.
        assert_eq!(unsafe { libc::dup2(options.as_raw_fd(), number) }, number);
    }
    // SAFETY: each number is open and taken over by exactly one owner.
    let [zero, one, two] = [0, 1, 2].map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    let job = Job::new("crosswise", "/bin/sh")
        .args(["-c", "ls -1 /proc/$$/fd; for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done; cat; echo err >&2", &given.marker])
        .stdin(Stdio::fd(two))
        .stdout(Stdio::fd(zero))
        .stderr(Stdio::fd(one));
    let result = tracker.spawn(job).and_then(|mut process| process.wait());
    // Numbers that were free may be the tracker's by now.
    tracker.shutdown().expect("an orderly end");
    drop(tracker);
    restore(saved);
    result.expect("it ran");
    let read = |name: &str| fs::read_to_string(given.folder.join(name)).expect("text");
    let path = |name: &str| fs::canonicalize(given.folder.join(name)).expect("a file");
    assert_eq!(
        read("zero"),
        format!(
            "zero 0\n1\n2\n{}\n{}\n{}\ntwo ",
            path("two").display(),
            path("zero").display(),
            path("one").display()
        )
    );
    assert_eq!(read("one"), "one err\n");
    assert_eq!(read("two"), "two ");
}

/// The host has closed its standard descriptors: the tracker's own descriptors get their numbers,
/// and must not reach a program that inherits "the host's".
pub(crate) fn closed(given: &Given) {
    let saved = save();
    for number in 0..3 {
        // SAFETY: the standard streams of this process, restored below.
        unsafe { libc::close(number) };
    }
    // A panic's message would be lost.
    let panicked = given.folder.join("panic");
    let path = panicked.clone();
    std::panic::set_hook(Box::new(move |panic| drop(fs::write(&path, panic.to_string()))));
    let seen = std::panic::catch_unwind(|| {
        let tracker = given.builder().open().expect("a ledger");
        let seen =
            ["inherited", "piped", "null"].map(|which| descriptors_of(given, &tracker, which));
        tracker.shutdown().expect("an orderly end");
        seen
    });
    restore(saved);
    drop(std::panic::take_hook());
    if let Ok(text) = fs::read_to_string(&panicked) {
        panic!("with closed descriptors: {text}");
    }
    let [inherited, piped, null] = seen.expect("no panic");
    let text = format!("inherited {inherited:?}, piped {piped:?}, null {null:?}");
    for seen in [&piped, &null] {
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{text}");
    }
    // SQLite keeps low numbers occupied with this file.
    let harmless = |target: &String| target == "/dev/null";
    assert!(
        inherited.values().all(harmless),
        "descriptors of the tracker reached a program: {text}"
    );
    assert!(piped.values().all(|target| target.starts_with("pipe:")), "{text}");
    assert!(null.values().all(|target| target == "/dev/null"), "{text}");
}

/// The descriptors that a program has open after its start-up.
fn descriptors_of(given: &Given, tracker: &Tracker, which: &str) -> BTreeMap<u32, String> {
    let mut job = Job::new(which, "/bin/sleep").arg("600").env("MARKER", &given.marker);
    if which != "inherited" {
        let stdio = || if which == "piped" { Stdio::piped() } else { Stdio::null() };
        job = job.stdin(stdio()).stdout(stdio()).stderr(stdio());
    }
    let mut process = tracker.spawn(job).expect("spawned");
    // Before that, its loader opens libraries.
    until("it sleeps", || state(process.pid().get()) == Some('S'));
    let listed = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("a listing");
    let seen = listed
        .map(|entry| {
            let entry = entry.expect("an entry");
            let target = fs::read_link(entry.path()).expect("a link").display().to_string();
            (entry.file_name().to_str().expect("text").parse().expect("a number"), target)
        })
        .collect();
    process.terminate().expect("ended");
    seen
}

fn save() -> [OwnedFd; 3] {
    // SAFETY: duplicates open descriptors to new numbers, each with one owner.
    [0, 1, 2].map(|number| unsafe {
        OwnedFd::from_raw_fd(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100))
    })
}

fn restore(saved: [OwnedFd; 3]) {
    for (number, fd) in saved.into_iter().enumerate() {
        let number = i32::try_from(number).expect("small");
        let raw = fd.into_raw_fd();
        // SAFETY: gives a standard stream back and closes the copy.
        unsafe {
            assert_eq!(libc::dup2(raw, number), number);
            libc::close(raw);
        }
    }
}
