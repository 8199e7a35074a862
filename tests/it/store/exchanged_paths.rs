//! A user exchanges the ledger's folder for a symlink into root's, or for a folder of root's, while
//! root works on the ledger. Root was made to create `x.db-setup.lock`, given to the user, in its
//! own folder, and the library `x.db-wal` and `x.db-shm`.
//!
//! Each test is a bounded loop: the exchange goes on all the time, root works, and root's folder
//! must stay as it was.

use std::{
    fs::{self, Permissions},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use procledger::{Ledger, Tracker};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, inotify, renameat_with};

use crate::{
    cli::command::{PROCLEDGER, answer, bytes_of, clean, on_ledger},
    support::{Place, copy_program, root, tool},
};

/// A uid without an account.
const USER: u32 = 61_236;
/// Before the fix a loop of one second found each of these.
const LOOP: Duration = Duration::from_secs(4);

/// What replaces the user's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bait {
    /// A symlink of the user's to a folder of root's.
    Symlink,
    /// A folder of root's that stands in the user's: its owner may rename it.
    RootsFolder,
}

/// `home` of the user with `data` in it, and what is exchanged with that.
struct Scene {
    place: Place,
    home: PathBuf,
    /// Root's folder, which must not change.
    victim: PathBuf,
    bait: PathBuf,
    /// The user's `data`, under its current name.
    data: OwnedFd,
    /// inotify on root's folder.
    events: OwnedFd,
}

impl Scene {
    fn new(bait: Bait) -> Option<Self> {
        if !root() {
            return None;
        }
        tool("setpriv")?;
        let place = Place::new();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
        let home = place.path().join("home");
        for folder in [&home, &home.join("data")] {
            fs::create_dir(folder).expect("a folder");
            chown(folder, Some(USER), Some(USER)).expect("a gift");
        }
        let other = home.join("other");
        let victim = match bait {
            Bait::Symlink => {
                let victim = place.path().join("roots");
                symlink(&victim, &other).expect("a link");
                rustix::fs::chownat(CWD, &other, Some(uid()), None, AtFlags::SYMLINK_NOFOLLOW)
                    .expect("a gift");
                victim
            }
            Bait::RootsFolder => other.clone(),
        };
        fs::create_dir(&victim).expect("a folder");
        fs::write(victim.join("precious"), "root's").expect("a file");
        let data =
            rustix::fs::open(home.join("data"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .expect("a folder");
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .expect("inotify");
        let any = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::ATTRIB;
        inotify::add_watch(&events, &victim, any).expect("a watch");
        Some(Self { place, home, victim, bait: other, data, events })
    }

    /// Creates a file in the user's folder again.
    fn renew(&self, name: &str, text: &str, owner: u32) {
        let _ = rustix::fs::unlinkat(&self.data, name, AtFlags::empty());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.data, name, flags, Mode::from_raw_mode(0o600))
            .expect("a file");
        rustix::io::write(&file, text.as_bytes()).expect("written");
        let owner = rustix::fs::Uid::from_raw(owner);
        rustix::fs::fchown(&file, Some(owner), None).expect("a gift");
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn ledger(&self) -> PathBuf {
        self.data().join("x.db")
    }

    fn as_the_user(&self, args: &[&str]) {
        answer(self.user_command().args(args)).expect(0);
    }

    fn user_command(&self) -> Command {
        let copy = self.place.path().join("procledger");
        if !copy.exists() {
            copy_program(PROCLEDGER, &copy);
        }
        let mut command = Command::new("setpriv");
        clean(&mut command, &self.place);
        let ids = [format!("--reuid={USER}"), format!("--regid={USER}")];
        command
            .args(ids)
            .args(["--clear-groups", "--"])
            .arg(copy)
            .env("PROCLEDGER_DB", self.ledger());
        command
    }

    /// Runs `work` repeatedly while the exchange goes on; returns how often it reported success.
    fn race(&self, mut work: impl FnMut() -> bool) -> usize {
        let exchange = Exchange::of(&self.home.join("data"), &self.bait);
        let (began, mut done) = (Instant::now(), 0);
        while began.elapsed() < LOOP {
            done += usize::from(work());
        }
        drop(exchange);
        self.check();
        done
    }

    /// Nothing was created, changed or removed in root's folder, not even for a moment.
    fn check(&self) {
        let mut room = [std::mem::MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.events, &mut room);
        let mut seen = std::collections::BTreeSet::new();
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            // An event without a name is about the folder itself, whose ctime each exchange
            // changes.
            seen.extend(name);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [""; 0], "touched in root's folder");
    }
}

fn uid() -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(USER)
}

/// Two names that are exchanged all the time (`RENAME_EXCHANGE` of rename(2)); at rest each has its
/// original content.
struct Exchange {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exchange {
    fn of(one: &Path, other: &Path) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (one, other) = (one.to_owned(), other.to_owned());
        let thread = {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                let exchange = || {
                    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)
                        .expect("exchanged");
                };
                // Shorter and longer than a check, so that the checked file differs from the one
                // that is used.
                let rests = [0, 50, 300, 1_000, 5_000, 15_000].map(Duration::from_micros);
                let mut rest = rests.iter().cycle();
                let mut away = rests[..4].iter().cycle();
                while !done.load(Ordering::Relaxed) {
                    exchange();
                    thread::sleep(*away.next().expect("endless"));
                    exchange();
                    thread::sleep(*rest.next().expect("endless"));
                }
            })
        };
        Self { done, thread: Some(thread) }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The command, with verbs that create, write and read.
fn the_command(bait: Bait) {
    let Some(scene) = Scene::new(bait) else { return };
    scene.as_the_user(&["run", "--task", "first", "--", "true"]);
    let verbs: [&[&str]; 5] = [
        &["run", "--task", "t", "--", "true"],
        &["ps"],
        &["reap"],
        &["prune", "--older-than", "1day"],
        &["doctor"],
    ];
    let mut next = verbs.iter().cycle();
    let done = scene.race(|| {
        let args = *next.next().expect("endless");
        if args[0] == "reap" {
            // As after a crash of its setup, and with the setup's lock.
            scene.renew("x.db", "", USER);
            for suffix in ["-wal", "-shm", "-setup.lock"] {
                let name = format!("x.db{suffix}");
                let _ = rustix::fs::unlinkat(&scene.data, &name, AtFlags::empty());
            }
        }
        let answer = answer(on_ledger(&scene.place, &scene.ledger()).args(args));
        assert!(!answer.err.contains("panicked"), "{answer:?}");
        answer.code() == 0
    });
    println!("{done} runs of the command got through");
    assert!(done > 0, "nothing was tried");
}

#[test]
fn a_symlink_in_place_of_a_users_folder_made_the_command_write_as_root() {
    the_command(Bait::Symlink);
}

#[test]
fn a_folder_of_root_in_place_of_a_users_folder_made_the_command_write_as_root() {
    the_command(Bait::RootsFolder);
}

/// A host of root that embeds the library: SQLite opens its files by path at any time.
fn the_library(bait: Bait) {
    let Some(scene) = Scene::new(bait) else { return };
    scene.as_the_user(&["run", "--task", "first", "--", "true"]);
    let done = scene.race(|| {
        let Ok(tracker) = Tracker::builder(scene.ledger()).open() else { return false };
        let _ = tracker.health_pass();
        let _ = Ledger::open(scene.ledger()).and_then(|ledger| ledger.processes());
        tracker.shutdown().is_ok()
    });
    println!("{done} hosts got through");
    // At rest it is an ordinary ledger: nothing of it is root's.
    let tracker = Tracker::builder(scene.ledger()).open().expect("opens");
    tracker.health_pass().expect("a pass");
    tracker.shutdown().expect("stopped");
    for (path, _, owner, _) in bytes_of(&scene.data()) {
        assert_eq!(owner, USER, "{} is not the user's any more", path.display());
    }
    scene.as_the_user(&["run", "--task", "again", "--", "true"]);
}

#[test]
fn a_symlink_in_place_of_a_users_folder_made_the_library_write_as_root() {
    the_library(Bait::Symlink);
}

#[test]
fn a_folder_of_root_in_place_of_a_users_folder_made_the_library_write_as_root() {
    the_library(Bait::RootsFolder);
}

/// Files that root itself names in a user's folder: an export, a report, a log, the list of a
/// former processor.
#[test]
fn a_symlink_in_place_of_a_users_folder_made_root_write_its_own_files_there() {
    let Some(scene) = Scene::new(Bait::Symlink) else { return };
    let in_data = |name: &str| scene.data().join(name).display().to_string();
    let (json, html, log, list) =
        (in_data("list.json"), in_data("leaks.html"), in_data("log"), in_data("former.json"));
    let uses: [&[&str]; 5] = [
        &["--export", &json, "run", "--task", "t", "--", "true"],
        &["export", &json],
        &["report", "--format", "html", "-o", &html],
        &["--log-file", &log, "run", "--task", "t", "--", "true"],
        &["import", &list],
    ];
    let mut next = uses.iter().cycle();
    let done = scene.race(|| {
        // Root's own and not a list: it would be renamed.
        scene.renew("former.json", "{", 0);
        let args = next.next().expect("endless");
        let answer = answer(on_ledger(&scene.place, &scene.place.ledger()).args(*args));
        assert!(!answer.err.contains("panicked"), "{answer:?}");
        answer.code() == 0
    });
    println!("{done} files got through");
    assert!(done > 0, "nothing was tried");
}

/// With `HOME` of the user, as some `sudo` keep it.
#[test]
fn the_default_folder_is_not_created_by_root_in_a_users_home() {
    let Some(scene) = Scene::new(Bait::Symlink) else { return };
    for args in [&["run", "--task", "t", "--", "true"][..], &["reap"], &["ps"]] {
        let mut command = crate::cli::command::bare(&scene.place);
        let answer = answer(command.env("HOME", scene.data()).args(args));
        assert_ne!(answer.code(), 0, "{answer:?}");
        assert_eq!(fs::read_dir(scene.data()).expect("a folder").count(), 0, "{args:?}");
    }
}

#[test]
fn root_does_not_follow_a_symlink_of_another_user_in_a_sticky_folder() {
    let Some(scene) = Scene::new(Bait::Symlink) else { return };
    let sticky = scene.place.path().join("sticky");
    fs::create_dir(&sticky).expect("a folder");
    fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).expect("a mode");
    for (name, target) in [("file", scene.victim.join("new")), ("folder", scene.victim.clone())] {
        symlink(target, sticky.join(name)).expect("a link");
        rustix::fs::chownat(CWD, sticky.join(name), Some(uid()), None, AtFlags::SYMLINK_NOFOLLOW)
            .expect("a gift");
    }
    let own = scene.place.ledger();
    answer(on_ledger(&scene.place, &own).args(["run", "--task", "t", "--", "true"])).expect(0);
    let at = |name: &str| sticky.join(name).display().to_string();
    let (file, below) = (at("file"), at("folder/new"));
    for (ledger, args) in [
        (&own, &["report", "--format", "html", "-o", &file][..]),
        (&own, &["report", "--format", "html", "-o", &below]),
        (&own, &["--log-file", &file, "ps"]),
        (&own, &["--log-file", &below, "ps"]),
        (&own, &["export", &below]),
        (&sticky.join("file"), &["run", "--task", "t", "--", "true"]),
        (&sticky.join("folder/x.db"), &["run", "--task", "t", "--", "true"]),
        (&sticky.join("folder/x.db"), &["reap"]),
    ] {
        let answer = answer(on_ledger(&scene.place, ledger).args(args));
        if ledger != &own {
            assert_ne!(answer.code(), 0, "{args:?}: {answer:?}");
            assert_eq!(answer.err.lines().count(), 1, "{args:?}: {answer:?}");
        }
        scene.check();
    }
}

/// The same for an ordinary user, whose ledger another user would redirect.
#[test]
fn a_symlink_of_another_user_is_not_followed_to_a_ledger() {
    let Some(scene) = Scene::new(Bait::Symlink) else { return };
    scene.as_the_user(&["run", "--task", "t", "--", "true"]);
    let sticky = scene.place.path().join("sticky");
    fs::create_dir(&sticky).expect("a folder");
    fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).expect("a mode");
    let other = Some(rustix::fs::Uid::from_raw(USER + 1));
    for (name, target) in [("file.db", scene.ledger()), ("folder", scene.data())] {
        symlink(target, sticky.join(name)).expect("a link");
        rustix::fs::chownat(CWD, sticky.join(name), other, None, AtFlags::SYMLINK_NOFOLLOW)
            .expect("a gift");
    }
    for path in ["file.db", "folder/x.db"] {
        let mut command = scene.user_command();
        command.env("PROCLEDGER_DB", sticky.join(path)).args(["run", "--task", "t", "--", "true"]);
        let refused = answer(&mut command).expect(125);
        assert!(refused.complaint().contains("is a symlink of uid 61237"), "{refused:?}");
    }
}

/// Links made by root and by the user itself are followed as before.
#[test]
fn symlinks_of_root_and_of_the_user_itself_are_followed() {
    let Some(scene) = Scene::new(Bait::Symlink) else { return };
    let by_root = scene.place.path().join("by-root");
    symlink(scene.place.path(), &by_root).expect("a link");
    let ledger = by_root.join("own.db");
    answer(on_ledger(&scene.place, &ledger).args(["run", "--task", "t", "--", "true"])).expect(0);
    assert!(scene.place.path().join("own.db").exists());
    let by_user = scene.home.join("by-user");
    symlink(scene.data(), &by_user).expect("a link");
    rustix::fs::chownat(CWD, &by_user, Some(uid()), None, AtFlags::SYMLINK_NOFOLLOW)
        .expect("a gift");
    scene.as_the_user(&[
        "--db",
        &by_user.join("x.db").display().to_string(),
        "run",
        "--task",
        "t",
        "--",
        "true",
    ]);
    for args in [&["ps"][..], &["run", "--task", "r", "--", "id", "-u"]] {
        answer(on_ledger(&scene.place, &by_user.join("x.db")).args(args)).expect(0);
    }
    for (path, _, owner, _) in bytes_of(&scene.data()) {
        assert_eq!(owner, USER, "{}", path.display());
    }
}
