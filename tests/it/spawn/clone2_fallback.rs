//! Where clone3 is refused, as by seccomp profiles older than it, clone(2) is used with the same
//! result.

#![expect(unsafe_code, reason = "a hand-written seccomp filter")]

use std::{
    sync::{PoisonError, mpsc::channel},
    thread,
    time::Duration,
};

use crate::{
    spawn::clean_program,
    spawn::gate_host::{Given, in_another_process, note},
    spawn::not_started,
    spawn::storm,
    support::{Place, sampled, sqlite3},
};

fn spawns() -> u32 {
    sampled(200, 1_000)
}

#[test]
fn spawning_works_where_clone3_is_unknown() {
    let _one = storm::ONE_STORM.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    in_another_process(&place, "clone2-enosys", Duration::from_mins(2));
    check(&place);
}

#[test]
fn spawning_works_where_clone3_is_forbidden() {
    let _one = storm::ONE_STORM.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    in_another_process(&place, "clone2-eperm", Duration::from_mins(2));
    check(&place);
}

fn check(place: &Place) {
    let storm = "SELECT exit_code, count(*) FROM process
        WHERE task_id LIKE '%-%' AND (task_id GLOB '[0-9]*' OR task_id = 'warm-up-0') GROUP BY 1";
    assert_eq!(place.sqlite3(storm), format!("0|{}\n1|{}", spawns() / 2, spawns() / 2));
    assert_eq!(place.sqlite3("SELECT count(*) FROM process WHERE state <> 'ended'"), "0");
    // clone(2) cannot place a process into a cgroup, and no row claims that it did.
    let contained = "SELECT count(*) FROM process WHERE task_id = 'again' AND cgroup IS NOT NULL";
    assert_eq!(place.sqlite3(contained), "0");
    assert_eq!(place.alive(), [0_u32; 0]);
}

pub(crate) fn body(given: &Given, errno: i32) {
    // The tracker's and the other test threads come first: libc creates threads by clone3 too, and
    // cannot handle EPERM. The filter applies to the thread that installs it, and its children.
    let tracker = given.builder().open().expect("a ledger");
    storm::rage(&tracker, 4, spawns(), || refuse_clone3(errno));
    thread::scope(|scope| {
        let (ask, queries) = channel::<String>();
        let (sender, answers) = channel();
        let run = {
            let tracker = &tracker;
            move || {
                refuse_clone3(errno);
                not_started::check(given, tracker, &|query| {
                    ask.send(query.to_owned()).expect("it listens");
                    answers.recv().expect("it answers")
                });
                clean_program::check(given, tracker);
            }
        };
        let filtered = scope.spawn(run);
        for query in queries {
            sender.send(sqlite3(&given.ledger(), &query)).expect("a receiver");
        }
        filtered.join().expect("all is the same");
    });
    // Changes of the whole process come last.
    clean_program::soil();
    thread::scope(|scope| {
        let run = || {
            refuse_clone3(errno);
            let job = procledger::Job::new("again", "true");
            tracker.spawn(job).and_then(|mut process| process.wait()).expect("it ran");
        };
        scope.spawn(run).join().expect("it ran");
    });
    note(&format!("clone3 was refused with errno {errno}"));
    tracker.shutdown().expect("an orderly end");
}

/// Makes clone3 fail in this thread, and verifies it.
fn refuse_clone3(errno: i32) {
    refuse(libc::SYS_clone3, errno);
    // SAFETY: without arguments the call does nothing but fail, with EINVAL where it is allowed.
    let result = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
    let error = std::io::Error::last_os_error();
    assert_eq!((result, error.raw_os_error()), (-1, Some(errno)), "the filter does not hold");
}

/// Makes a system call fail in this thread, and in those that it starts.
pub(crate) fn refuse(call: libc::c_long, errno: i32) {
    /// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` of `linux/audit.h`.
    const ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
    // Offsets in `struct seccomp_data`: the number at 0, the architecture at 4.
    let statement = |code: u32, k: u32| filter(code, 0, 0, k);
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let call = u32::try_from(call).expect("small");
    let mut program = [
        statement(load, 4),
        filter(equal, 0, 3, ARCH),
        statement(load, 0),
        filter(equal, 0, 1, call),
        statement(answer, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        statement(answer, libc::SECCOMP_RET_ALLOW),
    ];
    let length = u16::try_from(program.len()).expect("short");
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: prctl(2) reads the program, which lives on this frame.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

fn filter(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("a code"), jt, jf, k }
}
