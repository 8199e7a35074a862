//! `run`: why a program could not be executed, where the errno of execve(2) does not show it.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// Bytes of a script in which the kernel looks for its interpreter (`BINPRM_BUF_SIZE` in
/// `linux/binfmts.h`).
const FIRST_LINE: u64 = 256;

/// Returns what to do about a program that was not found.
pub(super) fn not_found(program: &OsStr, cwd: Option<&Path>) -> Option<String> {
    let (file, name) = (in_folder(program, cwd), program.to_string_lossy());
    let is_variable = |(variable, _): (&str, &str)| {
        !variable.is_empty() && variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if is_path(program) && file.is_file() {
        return without_interpreter(&file);
    }
    Some(if name.split_once('=').is_some_and(is_variable) {
        "`--env NAME=VALUE`, before the `--`, sets a variable".to_owned()
    } else if name.contains(char::is_whitespace) {
        "write each argument as a word of its own, or `sh -c` before a command line".to_owned()
    } else if is_path(program) {
        return None;
    } else if file.is_file() {
        format!("it is in no folder of $PATH: write `./{name}`")
    } else {
        "it is in no folder of $PATH".to_owned()
    })
}

/// Returns what to do about a program that is not executable.
pub(super) fn not_executable(program: &OsStr, cwd: Option<&Path>) -> Option<String> {
    let found = fs::metadata(in_folder(program, cwd)).ok().filter(|_| is_path(program))?;
    if found.is_dir() {
        return Some("it is a folder".to_owned());
    }
    let is_executable = found.permissions().mode() & 0o111 != 0;
    let shown = program.display();
    (!is_executable).then(|| format!("run `chmod +x {shown}`, or name its interpreter before it"))
}

fn is_path(program: &OsStr) -> bool {
    program.as_bytes().contains(&b'/')
}

fn in_folder(program: &OsStr, cwd: Option<&Path>) -> PathBuf {
    cwd.unwrap_or(Path::new("")).join(program)
}

/// Returns the advice for a file that exists, but whose loader or interpreter does not.
fn without_interpreter(file: &Path) -> Option<String> {
    let Some(named) = interpreter(file) else {
        return Some("the file is there, but its dynamic loader is not".to_owned());
    };
    let name = named.trim_end();
    if named.ends_with('\r') {
        return Some(format!(
            "its lines end with CR LF, so that `{name}` is not found: convert them, as by dos2unix(1)"
        ));
    }
    let is_missing = !Path::new(name).exists();
    is_missing
        .then(|| format!("the file is there, but `{name}`, which its `#!` line names, is not"))
}

/// Returns the interpreter that the first line of a script names, `None` if it is no script.
fn interpreter(file: &Path) -> Option<String> {
    let mut line = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file).ok()?;
    BufReader::new(file.take(FIRST_LINE)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    let line = line.trim_start().trim_end_matches('\n');
    line.split([' ', '\t']).next().map(str::to_owned)
}
