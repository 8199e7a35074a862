use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{PATIENCE, all, entry, make_fifo, my_uid, names_in};
use crate::{
    export::{Exporter, json_file::Target, to_json, write_once},
    sys::plain_file::try_flock,
};

#[test]
fn the_text_is_that_of_the_former_implementation() {
    assert_eq!(to_json(&[]), b"[]\n");
    let text = String::from_utf8(to_json(&[entry("resource-generator-example", 12345)])).unwrap();
    assert_eq!(
        text,
        "[\n  {\n    \"task_id\": \"resource-generator-example\",\n    \"process_id\": 12345,\n    \
         \"start_time\": \"2025-01-10T12:34:56.000Z\"\n  }\n]\n"
    );
}

#[test]
fn a_task_id_is_data() {
    let text = to_json(&[entry("a\"b\n\u{1b}[31m", 1)]);
    assert!(!text.contains(&0x1b));
    let back: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(back[0]["task_id"], "a\"b\n\u{1b}[31m");
}

fn written_over(path: &Path) {
    write_once(path, &[entry("t", 7)]).unwrap();
    let found = path.symlink_metadata().unwrap();
    assert!(found.is_file());
    assert_eq!(found.permissions().mode() & 0o7777, 0o644);
    assert_eq!(fs::read(path).unwrap(), to_json(&[entry("t", 7)]));
}

#[test]
fn a_symlink_is_replaced_and_never_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, victim) = (folder.path().join("x.json"), folder.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, &path).unwrap();
    written_over(&path);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_fifo_is_replaced_without_being_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    make_fifo(&path);
    written_over(&path);
    assert_eq!(names_in(folder.path()), ["x.json"]);
}

#[test]
fn a_path_that_cannot_be_a_file_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let error = write_once(&folder.path().join("sub"), &[]).unwrap_err();
    assert!(error.to_string().contains("is a folder: choose"), "{error}");
    let error = write_once(&folder.path().join("missing/x.json"), &[]).unwrap_err();
    assert!(error.to_string().contains("missing") && error.to_string().contains("create it"));
    assert!(write_once(Path::new("/"), &[]).unwrap_err().is_invalid_input());
    assert!(write_once(Path::new(""), &[]).unwrap_err().is_invalid_input());
    assert_eq!(names_in(folder.path()), ["sub"]);
}

#[test]
fn equal_failures_have_equal_messages() {
    let folder = tempfile::tempdir().unwrap();
    let target = Target::new(&folder.path().join("x.json"), my_uid()).unwrap();
    fs::remove_dir(folder.path()).unwrap();
    let message = || format!("{:?}", target.replace(b"[]".to_vec(), None).unwrap_err());
    assert_eq!(message(), message());
    assert!(message().contains("os error 2"), "{}", message());
    fs::create_dir(folder.path()).unwrap();
}

#[test]
fn leftovers_of_a_crashed_writer_are_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let kept = [
        ".x.json.tmp-short",
        ".x.json.tmp-elevenchars.",
        ".x.json.tmp-a.tmp-abcdefABCDEF",
        ".y.json.tmp-abcdefABC123",
        "x.json.tmp-abcdefABC123",
        ".x.json.tmp-isfifoABC123",
        ".x.json.tmp-islinkABC123",
        ".x.json.tmp-locked000000",
    ];
    for name in &kept[..5] {
        fs::write(at(name), "").unwrap();
    }
    make_fifo(&at(kept[5]));
    symlink(at(kept[4]), at(kept[6])).unwrap();
    let busy = fs::File::create(at(kept[7])).unwrap();
    assert_eq!(try_flock(&busy), Ok(true));
    fs::write(at(".x.json.tmp-abcdefABC123"), "[").unwrap();

    Target::new(&at("x.json"), my_uid() + 1).unwrap().remove_leftovers();
    assert_eq!(names_in(folder.path()).len(), kept.len() + 1, "another user's files stay");
    Target::new(&at("x.json"), my_uid()).unwrap().remove_leftovers();
    let mut expected = kept.to_vec();
    expected.sort_unstable();
    assert_eq!(names_in(folder.path()), expected);
}

#[test]
fn a_temporary_file_in_use_is_not_taken_for_a_leftover() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let target = Target::new(&path, my_uid()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                target.remove_leftovers();
            }
        });
        let written = (0..1_000).try_for_each(|pid| write_once(&path, &[entry("t", pid)]));
        over.store(true, Ordering::SeqCst);
        written.unwrap();
    });
    assert_eq!(names_in(folder.path()), ["x.json"]);
}

/// A umask belongs to the whole process, so this test runs itself again in a new process.
#[test]
fn the_mode_is_0644_whatever_the_umask() {
    const VARIABLE: &str = "PROCLEDGER_TEST_UMASK_FILE";
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = Path::new(&path);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
        let exporter =
            Exporter::start(path.to_owned(), my_uid(), std::sync::Arc::default(), || {
                Ok(all(vec![]))
            })
            .unwrap();
        exporter.flush(PATIENCE).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    #[expect(clippy::disallowed_methods, reason = "a test starts itself; there is no ledger here")]
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "export::tests::json_file::the_mode_is_0644_whatever_the_umask";
    let output = again.args(["--exact", name]).env(VARIABLE, &path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(&folder.path().join("x.json.lock")), 0o600);
}
