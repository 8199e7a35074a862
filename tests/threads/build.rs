//! Finds the few functions of the standard library that `src/edges.rs` wraps, by the ends of their
//! names: the rest of a mangled name differs between compilers.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The names as `src/edges.rs` calls them, and the ends of the mangled names.
const FUNCTIONS: [(&str, &str); 6] = [
    ("MUTEX_LOCK", "5mutex5futexNtB2_5Mutex14lock_contended"),
    ("RWLOCK_READ", "6rwlock5futexNtB2_6RwLock14read_contended"),
    ("RWLOCK_WRITE", "6rwlock5futexNtB2_6RwLock15write_contended"),
    ("CONDVAR_WAIT", "7condvar5futexNtB2_7Condvar4wait"),
    ("CONDVAR_WAIT_TIMEOUT", "7condvar5futexNtB2_7Condvar12wait_timeout"),
    ("ONCE_CALL", "4once5futexNtB5_4Once4call"),
];

fn main() {
    println!("cargo::rerun-if-changed=src/edges.rs");
    let names = run(Command::new("readelf").args(["--symbols", "--wide"]).arg(library()));
    let mut code = fs::read_to_string("src/edges.rs").expect("src/edges.rs");
    for (word, end) in FUNCTIONS {
        let lines = names
            .lines()
            .filter(|line| line.contains(" FUNC "))
            .filter_map(|line| line.split(' ').next_back());
        let found: Vec<&str> = lines.filter(|name| name.ends_with(end)).collect();
        let [name] = found[..] else {
            panic!(
                "{} functions of the standard library end in {end}: this compiler is not known here",
                found.len()
            )
        };
        wrap(name);
        code = code.replace(&format!("\"__wrap_{word}\""), &format!("\"__wrap_{name}\""));
        code = code.replace(&format!("\"__real_{word}\""), &format!("\"__real_{name}\""));
    }
    wrap("__tsan_atomic64_fetch_sub");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo"));
    fs::write(folder.join("edges.rs"), code).expect("a folder to write to");
}

fn wrap(name: &str) {
    println!("cargo::rustc-link-arg=-Wl,--wrap={name}");
}

/// The standard library as it comes with the compiler.
fn library() -> PathBuf {
    let rustc = env::var_os("RUSTC").expect("cargo");
    let sysroot = run(Command::new(rustc).args(["--print", "sysroot"]));
    let target = env::var("TARGET").expect("cargo");
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib");
    let mut files =
        fs::read_dir(folder).expect("the sysroot").map(|file| file.expect("a file").path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    };
    files.find(is_it).expect("libstd in the sysroot")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
