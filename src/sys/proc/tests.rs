use proptest::prelude::*;
use uuid::Uuid;

use crate::{
    identity::Pid,
    sys::proc::{
        TOKEN_VARIABLE, arguments,
        environ::tokens,
        stat::{Stat, parse_stat},
    },
};

/// A name: up to 15 bytes except NUL (prctl(2), `PR_SET_NAME`), including bytes that could confuse
/// a parser.
fn comm() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(1..=u8::MAX, 0..=15),
        "[() \n0-9RSZ]{0,15}".prop_map(String::into_bytes),
        "(\\) [RSZ] 1 1 1 1|a\\) S 1 \\(b|\\)\n1 \\()".prop_map(String::into_bytes),
    ]
}

prop_compose! {
    fn stat()(
        pid in 1..=i64::from(i32::MAX),
        comm in comm(),
        state in prop::sample::select(b"RSDZTtXxKWPI".to_vec()),
        (parent, group, session) in any::<(u32, u32, u32)>(),
        (terminal, flags) in any::<(i32, u64)>(),
        (cpu_ticks, start_tick, threads) in any::<(u64, u64, u32)>(),
        reaped_cpu_ticks in 0..i64::MAX.cast_unsigned(),
        pages in 0..1_u64 << 40,
    ) -> Stat {
        let rss_bytes = pages * rustix::param::page_size() as u64;
        Stat {
            pid: Pid::new(pid).expect("a pid"),
            comm, state, parent, group, session, terminal, flags,
            cpu_ticks, reaped_cpu_ticks, threads, start_tick, rss_bytes,
        }
    }
}

/// Formats a stat like the kernel (`fs/proc/array.c`, `do_task_stat`), with `others` in the fields
/// that are not read.
fn written(stat: &Stat, others: &[i64; 3]) -> Vec<u8> {
    let [first, second, third] = others;
    let mut line = format!("{} (", stat.pid).into_bytes();
    line.extend_from_slice(&stat.comm);
    let pages = stat.rss_bytes / rustix::param::page_size() as u64;
    let rest = format!(
        ") {} {} {} {} {} {first} {} 1 2 3 4 {} 0 {} 0 20 {second} {} 0 {} {third} {pages} 18446744073709551615 1 1\n",
        char::from(stat.state),
        stat.parent,
        stat.group,
        stat.session,
        stat.terminal,
        stat.flags,
        stat.cpu_ticks,
        stat.reaped_cpu_ticks,
        stat.threads,
        stat.start_tick,
    );
    line.extend_from_slice(rest.as_bytes());
    line
}

proptest! {
    #[test]
    fn a_process_is_read_as_it_is_whatever_its_name(stat in stat(), others in any::<[i64; 3]>()) {
        prop_assert_eq!(parse_stat(&written(&stat, &others)), Some(stat));
    }

    #[test]
    fn a_line_that_is_cut_off_is_refused_or_names_the_same_process(
        stat in stat(), others in any::<[i64; 3]>(), cut in any::<prop::sample::Index>(),
    ) {
        let line = written(&stat, &others);
        if let Some(read) = parse_stat(&line[..cut.index(line.len())]) {
            // Only the memory may be truncated, not the data that identifies a process.
            prop_assert_eq!(Stat { rss_bytes: stat.rss_bytes, ..read }, stat);
        }
    }

    #[test]
    fn any_bytes_are_accepted_as_a_stat(bytes: Vec<u8>, line in "[0-9() RSZ\n-]{0,80}") {
        let _ = parse_stat(&bytes);
        let _ = parse_stat(line.as_bytes());
    }

    #[test]
    fn arguments_are_read_as_they_were_given(
        argv in prop::collection::vec(prop::collection::vec(1..=u8::MAX, 0..5), 1..6),
    ) {
        // Two empty arguments at the end cannot be distinguished from a title that a server wrote
        // over its arguments.
        let ends_in_nothing = argv.iter().rev().take_while(|arg| arg.is_empty()).count() >= 2;
        let cmdline: Vec<u8> = argv.iter().flat_map(|arg| [arg, &b"\0"[..]].concat()).collect();
        let read = arguments(&cmdline);
        prop_assert!(read == argv || ends_in_nothing, "{:?}", read);
        prop_assert!(argv.starts_with(&read) || read == [b""]);
    }

    #[test]
    fn a_token_counts_only_as_a_whole_element_of_the_list(
        lists in prop::collection::vec(prop::collection::vec(any::<u128>(), 0..4), 0..3),
        others in prop::collection::vec("[A-Z_]{1,4}=[^\0]{0,12}", 0..3),
    ) {
        let text = |list: &Vec<u128>| {
            let elements: Vec<_> = list.iter().map(|&token| Uuid::from_u128(token).simple().to_string()).collect();
            format!("{TOKEN_VARIABLE}={}", elements.join(":"))
        };
        let entries: Vec<String> = others.iter().cloned().chain(lists.iter().map(text)).collect();
        let carried: Vec<u128> = tokens(entries.join("\0").as_bytes()).iter().map(Uuid::as_u128).collect();
        prop_assert_eq!(carried, lists.concat());
        // With another name, or with an extra letter, it is not a token.
        let spoilt = entries.join("\0").replace(TOKEN_VARIABLE, "XPROCLEDGER_TOKEN");
        prop_assert!(tokens(spoilt.as_bytes()).is_empty());
    }
}

#[test]
fn a_title_that_was_written_over_the_arguments_is_one_argument() {
    assert_eq!(arguments(b"nginx: worker process\0\0\0\0"), [b"nginx: worker process"]);
    assert_eq!(arguments(b"tool\0\0"), [&b"tool"[..], b""]);
}
