use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use proptest::prelude::*;

use super::{entry, make_fifo, my_uid, names_in};
use crate::{
    export::{Legacy, LegacyEntry, read_legacy, to_json},
    model::{ExportEntry, Millis},
};

struct Scene {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Scene {
    fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        Self { folder, path }
    }

    fn with(text: impl AsRef<[u8]>) -> Self {
        let scene = Self::empty();
        fs::write(&scene.path, text).unwrap();
        fs::set_permissions(&scene.path, PermissionsExt::from_mode(0o644)).unwrap();
        scene
    }

    fn read(&self) -> Legacy {
        read_legacy(&self.path, my_uid()).unwrap()
    }
}

fn entries(text: impl AsRef<[u8]>) -> (Vec<LegacyEntry>, Vec<String>) {
    match Scene::with(text).read() {
        Legacy::Entries { entries, rejected } => (entries, rejected),
        other => panic!("{other:?}"),
    }
}

fn one(task: &str, pid: &str, start: &str) -> String {
    format!(r#"{{"task_id":{task},"process_id":{pid},"start_time":{start}}}"#)
}

const START: &str = "\"2025-01-10T12:34:56Z\"";

#[test]
fn a_written_list_is_read_back() {
    let (entries, rejected) = entries(to_json(&[entry("a", 1), entry("b", 2)]));
    assert!(rejected.is_empty());
    let read: Vec<_> = entries.iter().map(|found| (found.task.as_str(), found.pid.get())).collect();
    assert_eq!(read, [("a", 1), ("b", 2)]);
    assert_eq!(entries[0].start_time.0, 1_736_512_496_000);
}

#[test]
fn gos_dates_with_offsets_and_nanoseconds_are_understood() {
    for (start, millis) in [
        (START, 1_736_512_496_000),
        ("\"2025-01-10T12:34:56.123456789+01:00\"", 1_736_508_896_123),
        ("\"2025-01-10T12:34:56.5-08:00\"", 1_736_541_296_500),
    ] {
        let (entries, rejected) = entries(format!("[{}]", one("\"t\"", "7", start)));
        assert_eq!(rejected, [""; 0]);
        assert_eq!(entries[0].start_time.0, millis);
    }
}

#[test]
fn no_file_no_entries_and_gos_null_are_no_entries() {
    assert!(matches!(Scene::empty().read(), Legacy::Absent));
    for text in ["[]", "null", " [ ]\n", "null\n"] {
        assert_eq!(entries(text), (vec![], vec![]));
    }
}

#[test]
fn unknown_fields_are_ignored() {
    let text = r#"[{"x":[{"y":1}],"task_id":"t","process_id":7,"start_time":"2025-01-10T12:34:56Z","z":null}]"#;
    assert_eq!(entries(text).0.len(), 1);
}

#[test]
fn bad_entries_are_rejected_one_by_one_and_the_rest_goes_on() {
    let good = one("\"good\"", "77", START);
    let bad_pids = [
        "0",
        "-1",
        "-0",
        "7.0",
        "1e3",
        "2147483648",
        "4294967297",
        "18446744073709551617",
        "null",
        "\"7\"",
        "true",
        "[7]",
        "{\"$serde_json::private::Number\":\"7\"}",
    ];
    let bad_tasks = ["\"\"", "\"a\\u0000b\"", "7", "null", "[\"t\"]"];
    let bad_dates =
        ["\"\"", "\"yesterday\"", "\"2025-02-30T00:00:00Z\"", "\"2025-01-10\"", "1736512496"];
    let mut bad: Vec<String> = bad_pids.iter().map(|pid| one("\"t\"", pid, START)).collect();
    bad.extend(bad_tasks.iter().map(|task| one(task, "7", START)));
    bad.extend(bad_dates.iter().map(|start| one("\"t\"", "7", start)));
    bad.push(one(&format!("\"{}\"", "x".repeat(2_000)), "7", START));
    bad.extend(["{}", "7", "null", "\"t\"", "[[]]", "[7,\"t\"]"].map(str::to_owned));
    bad.extend(
        ["task_id", "process_id", "start_time"]
            .map(|gone| one("\"t\"", "7", START).replace(gone, "other")),
    );
    for bad in bad {
        let (entries, rejected) = entries(format!("[{bad},{good}]"));
        assert_eq!(entries.len(), 1, "{bad}");
        assert_eq!(entries[0].task.as_str(), "good");
        assert_eq!(rejected.len(), 1, "{bad}");
        assert!(rejected[0].starts_with("entry 1: "), "{rejected:?}");
    }
}

#[test]
fn a_pid_that_is_listed_twice_counts_once() {
    let (a, b) = (one("\"a\"", "7", START), one("\"b\"", "7", START));
    let (entries, rejected) = entries(format!("[{a},{a},{b}]"));
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].task.as_str(), "a");
    assert_eq!(rejected.len(), 2);
    assert!(rejected[1].contains("pid 7"), "{rejected:?}");
}

#[test]
fn a_rejected_line_is_one_short_line_without_control_characters() {
    let evil = format!("\"\\u001b[2J\\n\\u202e{}\"", "x".repeat(10_000));
    let text = [one("\"t\"", &evil, START), one("\"t\"", "7", &evil), evil.clone()].join(",");
    for line in entries(format!("[{text}]")).1 {
        assert!(line.len() < 400 && !line.contains(|c: char| c.is_control() || c == '\u{202e}'));
    }
}

#[test]
fn lines_about_rejected_entries_are_bounded() {
    let (entries, rejected) = entries(format!("[{}0]", "0,".repeat(100_000)));
    assert!(entries.is_empty());
    assert_eq!(rejected.len(), 1_001);
    assert_eq!(rejected[1_000], "99001 more entries were skipped");
}

#[test]
fn a_file_that_is_not_a_list_is_kept_aside() {
    let whole = to_json(&[entry("task", 1), entry("task", 2)]);
    let mut texts: Vec<Vec<u8>> = [
        "",
        " ",
        "{}",
        "7",
        "\"[]\"",
        "true",
        "[",
        "[,]",
        "[] []",
        "[]x",
        "\u{feff}[]",
        "\0",
        "[1e999]",
        "[{\"task_id\":\"\\ud800\"}]",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    texts.push(b"[{\"task_id\":\"\xff\"}]".to_vec());
    texts.push("[".repeat(100_000).into_bytes());
    texts.push(["[".repeat(100_000), "]".repeat(100_000)].concat().into_bytes());
    texts.push(
        ["[{\"x\":".to_owned(), "[".repeat(1_000), "]".repeat(1_000), "}]".to_owned()]
            .concat()
            .into_bytes(),
    );
    texts.extend((1..whole.len() - 2).map(|length| whole[..length].to_vec()));
    for text in texts {
        let scene = Scene::with(&text);
        let Legacy::Corrupt { kept_as, reason } = scene.read() else {
            panic!("{:?}", String::from_utf8_lossy(&text))
        };
        assert!(!reason.is_empty() && !reason.contains('\n'));
        assert_eq!(kept_as, scene.folder.path().join("x.json.corrupt"));
        assert_eq!(fs::read(kept_as).unwrap(), text);
        assert_eq!(names_in(scene.folder.path()), ["x.json.corrupt"]);
    }
}

#[test]
fn a_hundred_megabytes_are_not_read() {
    let scene = Scene::with("[");
    fs::File::options().write(true).open(&scene.path).unwrap().set_len(100 << 20).unwrap();
    let Legacy::Corrupt { reason, .. } = scene.read() else { panic!() };
    assert!(reason.contains("16777216"), "{reason}");
}

#[test]
fn an_older_corrupt_file_is_replaced_and_a_symlink_there_not_followed() {
    let scene = Scene::with("{");
    let victim = scene.folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let aside = scene.folder.path().join("x.json.corrupt");
    symlink(&victim, &aside).unwrap();
    assert!(matches!(scene.read(), Legacy::Corrupt { .. }));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(aside.symlink_metadata().unwrap().is_file());
    fs::write(&scene.path, "}").unwrap();
    assert!(matches!(scene.read(), Legacy::Corrupt { .. }));
    assert_eq!(fs::read_to_string(&aside).unwrap(), "}");
}

#[test]
fn a_corrupt_file_that_cannot_be_kept_aside_is_an_error_and_stays() {
    let scene = Scene::with("{");
    fs::create_dir(scene.folder.path().join("x.json.corrupt")).unwrap();
    let error = read_legacy(&scene.path, my_uid()).unwrap_err();
    assert!(error.to_string().contains("could not be kept"), "{error}");
    assert_eq!(fs::read_to_string(&scene.path).unwrap(), "{");
}

#[test]
fn a_file_that_another_user_may_have_put_there_is_not_read_and_left_alone() {
    let scene = Scene::with("{");
    let untrusted = |uid: u32, expected: &str| match read_legacy(&scene.path, uid).unwrap() {
        Legacy::Untrusted(why) => assert!(why.contains(expected), "{why}"),
        other => panic!("{expected}: {other:?}"),
    };
    untrusted(my_uid() + 1, "belongs to uid");
    for mode in [0o666, 0o664, 0o646, 0o622] {
        fs::set_permissions(&scene.path, PermissionsExt::from_mode(mode)).unwrap();
        untrusted(my_uid(), "can be written by others");
    }
    let real = scene.folder.path().join("real");
    fs::rename(&scene.path, &real).unwrap();
    symlink(&real, &scene.path).unwrap();
    untrusted(my_uid(), "symlink");
    fs::remove_file(&scene.path).unwrap();
    make_fifo(&scene.path);
    untrusted(my_uid(), "not a regular file");
    fs::remove_file(&scene.path).unwrap();
    fs::create_dir(&scene.path).unwrap();
    untrusted(my_uid(), "not a regular file");
    fs::remove_dir(&scene.path).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&scene.path).unwrap();
    untrusted(my_uid(), "not a regular file");
    assert_eq!(names_in(scene.folder.path()), ["real", "x.json"]);
}

fn holds_for(text: &[u8]) {
    if let Legacy::Entries { entries, .. } = Scene::with(text).read() {
        for found in entries {
            assert!((1..=0x7fff_ffff).contains(&found.pid.get()));
            assert!(!found.task.as_str().is_empty());
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        holds_for(&text);
    }

    #[test]
    fn arbitrary_json_like_text_never_panics(text in "[\\[\\]{}\":,0-9eE.+\\-\\\\untrlse ]{0,120}") {
        holds_for(text.as_bytes());
    }

    #[test]
    fn any_exported_list_is_read_back_unchanged(
        tasks in prop::collection::hash_map(1..=0x7fff_ffff_u32, "[^\0]{1,20}", 0..8),
        time in -1_i64 << 44..1 << 44,
    ) {
        let start_time = Millis(time);
        let list: Vec<ExportEntry> = tasks.iter().map(|(&process_id, task)| ExportEntry {
            task_id: task.clone(),
            process_id,
            start_time: start_time.to_rfc3339(),
        }).collect();
        let (found, rejected) = entries(to_json(&list));
        prop_assert_eq!(rejected, [""; 0]);
        let found: Vec<_> = found.into_iter().map(|one| (one.pid.get(), one.task.as_str().to_owned(), one.start_time)).collect();
        let expected: Vec<_> = list.into_iter().map(|one| (one.process_id, one.task_id, start_time)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn each_rejected_entry_is_reported_in_one_harmless_line(
        values in prop::collection::vec("(\\PC|\\p{Cc}){0,90}", 1..5),
    ) {
        let list: Vec<_> = values.iter().map(|value| {
            serde_json::json!({ "task_id": value, "process_id": value, "start_time": value })
        }).collect();
        let (found, rejected) = entries(serde_json::to_vec(&list).unwrap());
        prop_assert_eq!((found.len(), rejected.len()), (0, list.len()));
        prop_assert!(!rejected.iter().any(|line| line.chars().any(char::is_control)), "{:?}", rejected);
    }

    #[test]
    fn any_number_is_a_valid_pid_or_rejected(pids in prop::collection::vec(any::<i64>(), 0..20), float in any::<f64>()) {
        let mut list: Vec<String> = pids.iter().map(|pid| one("\"t\"", &pid.to_string(), START)).collect();
        list.push(one("\"t\"", &format!("{float:?}").replace("inf", "0").replace("NaN", "0"), START));
        let (entries, rejected) = entries(format!("[{}]", list.join(",")));
        prop_assert_eq!(entries.len() + rejected.len(), list.len());
        let valid = |pid: &i64| (1..=i64::from(i32::MAX)).contains(pid);
        prop_assert!(entries.iter().all(|found| valid(&i64::from(found.pid.get()))));
    }
}
