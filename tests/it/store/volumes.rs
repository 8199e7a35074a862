//! Volumes as Kubernetes and `OpenShift` mount them, and the folders of user-private groups: a
//! ledger was refused in all of them. Tests which of them can contain one, what a private folder
//! below changes, what `--trust-folder` does, and what it does not.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cli::command::{Answer, PROCLEDGER, answer, clean, on_ledger},
    support::{Place, copy_program, in_namespace, need, root, tool},
};

/// Uids without accounts.
const USER: u32 = 61_237;
const OTHER: u32 = 61_238;
/// An `fsGroup`.
const GROUP: u32 = 62_000;

/// A volume, and a user that runs the command there.
struct Volume {
    place: Place,
    folder: PathBuf,
    /// Options of setpriv(1).
    ids: Vec<String>,
}

impl Volume {
    /// Groups `of_user`: the first is the primary one, the others supplementary.
    fn new(owner: u32, group: u32, mode: u32, user: u32, of_user: &[u32]) -> Option<Self> {
        if !root() {
            return None;
        }
        tool("setpriv")?;
        let place = Place::new();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("a mode");
        copy_program(PROCLEDGER, place.path().join("procledger"));
        let folder = place.path().join("volume");
        fs::create_dir(&folder).expect("a folder");
        chown(&folder, Some(owner), Some(group)).expect("an owner");
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("a mode");
        let mut ids = vec![format!("--reuid={user}"), format!("--regid={}", of_user[0])];
        match &of_user[1..] {
            [] => ids.push("--clear-groups".to_owned()),
            others => ids.push(format!(
                "--groups={}",
                others.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            )),
        }
        Some(Self { place, folder, ids })
    }

    /// A folder of the user's below.
    fn below(&self, mode: u32, user: u32) -> PathBuf {
        let folder = self.folder.join(format!("below-{mode:o}"));
        fs::create_dir(&folder).expect("a folder");
        chown(&folder, Some(user), None).expect("a gift");
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("a mode");
        folder
    }

    fn command(&self, ledger: &Path) -> Command {
        let mut command = Command::new("setpriv");
        clean(&mut command, &self.place);
        command.args(&self.ids).arg("--").arg(self.place.path().join("procledger"));
        command.env("PROCLEDGER_DB", ledger).env_remove("PROCLEDGER_TRUST_FOLDER");
        command.current_dir("/");
        command
    }

    fn run(&self, folder: &Path, options: &[&str]) -> Answer {
        let mut command = self.command(&folder.join("ledger.db"));
        answer(command.args(options).args(["run", "--task", "t", "--", "true"]))
    }

    #[track_caller]
    fn works(&self, folder: &Path, options: &[&str]) {
        let ran = self.run(folder, options).expect(0);
        assert_eq!(ran.err, "", "{}", folder.display());
        let doctor = answer(self.command(&folder.join("ledger.db")).args(options).arg("doctor"));
        assert!(doctor.out.contains("ok       folders:"), "{doctor:?}");
    }

    /// Refused in one line, which names the folder that is the obstacle; and `doctor` reports the
    /// same.
    #[track_caller]
    fn is_refused(&self, folder: &Path, obstacle: &Path, options: &[&str]) -> String {
        let refused = self.run(folder, options).expect(125);
        let said = refused.complaint().to_owned();
        let named = format!("the folder `{}` ", obstacle.display());
        assert!(said.contains(&named) && said.contains("--trust-folder"), "{said}");
        assert!(!folder.join("ledger.db").exists(), "{said}");
        let doctor = answer(self.command(&folder.join("ledger.db")).args(options).arg("doctor"));
        assert!(doctor.out.contains("problem  folders:"), "{doctor:?}");
        assert!(doctor.out.contains(&named), "{doctor:?}");
        doctor.expect(1);
        said
    }

    fn option(&self) -> [String; 2] {
        ["--trust-folder".to_owned(), self.folder.display().to_string()]
    }
}

#[test]
fn an_empty_dir_that_all_users_can_write_needs_trust_folder() {
    // A container's user may be root as well.
    for user in [USER, 0] {
        let Some(volume) = Volume::new(0, 0, 0o777, user, &[user]) else { return };
        let said = volume.is_refused(&volume.folder, &volume.folder, &[]);
        assert!(said.contains("can be written by all users (mode 777)"), "{said}");
        // A private folder below could be exchanged by any user.
        let below = volume.below(0o700, user);
        volume.is_refused(&below, &volume.folder, &[]);
        let option = volume.option();
        let option = [option[0].as_str(), option[1].as_str()];
        volume.works(&volume.folder, &option);
        volume.works(&below, &option);
        // The same by the environment, and a name with a slash at its end.
        let slash = format!("{}/", volume.folder.display());
        let mut command = volume.command(&below.join("other.db"));
        command.env("PROCLEDGER_TRUST_FOLDER", slash).args(["run", "--task", "t", "--", "true"]);
        answer(&mut command).expect(0);
    }
}

#[test]
fn a_sticky_empty_dir_needs_no_trust_folder() {
    let Some(volume) = Volume::new(0, 0, 0o1777, USER, &[USER]) else { return };
    volume.works(&volume.folder, &[]);
    volume.works(&volume.below(0o700, USER), &[]);
}

#[test]
fn an_fs_group_volume_can_contain_a_ledger_in_a_private_folder() {
    for owner in [0, USER] {
        let Some(volume) = Volume::new(owner, GROUP, 0o2775, USER, &[USER, GROUP]) else { return };
        let said = volume.is_refused(&volume.folder, &volume.folder, &[]);
        assert!(said.contains("written by group 62000") && said.contains("mkdir -m 700"), "{said}");
        volume.works(&volume.below(0o700, USER), &[]);
        // Not private: the group may enter, and read what runs.
        volume.is_refused(&volume.below(0o2750, USER), &volume.folder, &[]);
        let option = volume.option();
        volume.works(&volume.folder, &[option[0].as_str(), option[1].as_str()]);
    }
}

/// If the user is not in the group that can write to the volume, a private folder below is not
/// enough.
#[test]
fn a_volume_of_another_group_cannot_contain_a_ledger() {
    let Some(volume) = Volume::new(0, GROUP, 0o2775, USER, &[USER]) else { return };
    volume.is_refused(&volume.below(0o700, USER), &volume.folder, &[]);
}

/// `OpenShift` gives a container a random uid without an account, and root's group.
#[test]
fn an_openshift_volume_can_contain_a_ledger_in_a_private_folder() {
    const RANDOM: u32 = 1_000_660_000;
    for mode in [0o775, 0o2775] {
        let Some(volume) = Volume::new(0, 0, mode, RANDOM, &[0, 1_000_660_000]) else { return };
        volume.is_refused(&volume.folder, &volume.folder, &[]);
        volume.works(&volume.below(0o700, RANDOM), &[]);
    }
}

/// With `--trust-folder` for one folder, the others and the file itself are checked as before.
#[test]
fn trust_folder_loosens_no_other_check() {
    let Some(volume) = Volume::new(0, 0, 0o777, USER, &[USER]) else { return };
    let option = volume.option();
    let option = [option[0].as_str(), option[1].as_str()];
    // A loose folder below, and a loose one above.
    volume.is_refused(&volume.below(0o777, USER), &volume.folder.join("below-777"), &option);
    let private = volume.below(0o700, USER);
    let below_only = ["--trust-folder", private.to_str().expect("UTF-8")];
    volume.is_refused(&private, &volume.folder, &below_only);
    // A path that is not a folder is never trusted: here by the command, and by the library.
    let missing = volume.folder.join("missing");
    let named = missing.to_str().expect("UTF-8");
    let said = volume.run(&private, &["--trust-folder", named]).expect(2);
    assert!(said.complaint().contains(&format!("`{named}`")), "{said:?}");
    let ledger = private.join("ledger.db");
    let opened = procledger::Tracker::builder(&ledger).trust_folder(&missing).open();
    assert!(opened.expect_err("refused").is_denied());
    // Files of others, and files that others can write.
    volume.works(&volume.folder, &option);
    let ledger = volume.folder.join("ledger.db");
    fs::set_permissions(&ledger, Permissions::from_mode(0o666)).expect("a mode");
    let said = volume.run(&volume.folder, &option).expect(125);
    assert!(said.complaint().contains("can be written by others"), "{said:?}");
    fs::set_permissions(&ledger, Permissions::from_mode(0o600)).expect("a mode");
    chown(&ledger, Some(OTHER), None).expect("a gift");
    let said = volume.run(&volume.folder, &option).expect(125);
    assert!(said.complaint().contains("belongs to uid 61238"), "{said:?}");
    chown(&ledger, Some(USER), None).expect("a gift");
    let wal = volume.folder.join("ledger.db-wal");
    fs::write(&wal, "forged").expect("a file");
    chown(&wal, Some(OTHER), None).expect("a gift");
    fs::set_permissions(&wal, Permissions::from_mode(0o600)).expect("a mode");
    let said = volume.run(&volume.folder, &option).expect(125);
    assert!(said.complaint().contains("ledger.db-wal"), "{said:?}");
}

/// Root's options do not apply to a user's folders.
#[test]
fn trust_folder_of_root_does_not_apply_to_a_users_ledger() {
    let Some(volume) = Volume::new(USER, USER, 0o755, USER, &[USER]) else { return };
    volume.works(&volume.folder, &[]);
    fs::set_permissions(&volume.folder, Permissions::from_mode(0o777)).expect("a mode");
    let ledger = volume.folder.join("ledger.db");
    let option = volume.option();
    for by_environment in [false, true] {
        let mut command = on_ledger(&volume.place, &ledger);
        if by_environment {
            command.env("PROCLEDGER_TRUST_FOLDER", &volume.folder);
        } else {
            command.args(&option);
        }
        let refused = answer(command.args(["run", "--task", "t", "--", "true"])).expect(125);
        assert!(refused.complaint().contains("can be written by all users"), "{refused:?}");
    }
    // The library of a host of root, too.
    let opened = procledger::Tracker::builder(&ledger).trust_folder(&volume.folder).open();
    assert!(opened.expect_err("refused").is_denied());
}

/// `useradd` of many distributions gives each user a group of its own, and a umask of 002 makes
/// `~/.local` 0775.
#[test]
fn a_folder_of_a_user_private_group_is_accepted() {
    need!("mount", "setpriv");
    if !root() || !in_namespace("store::volumes::a_folder_of_a_user_private_group_is_accepted") {
        return;
    }
    let accounts = Place::new();
    let install = |passwd: &str, group: &str| {
        for (file, more) in [("passwd", passwd), ("group", group)] {
            let real = format!("/etc/{file}");
            let copy = accounts.path().join(file);
            if !copy.exists() {
                let all = fs::read_to_string(&real).expect("accounts");
                fs::write(accounts.path().join(format!("{file}.before")), all).expect("a copy");
                fs::write(&copy, "").expect("a copy");
                fs::set_permissions(accounts.path(), Permissions::from_mode(0o755))
                    .expect("a mode");
                fs::set_permissions(&copy, Permissions::from_mode(0o644)).expect("a mode");
                let status = Command::new("mount").arg("--bind").arg(&copy).arg(&real).status();
                assert!(status.expect("mount").success());
            }
            let before = fs::read_to_string(accounts.path().join(format!("{file}.before")));
            fs::write(&copy, before.expect("a copy") + more).expect("accounts");
        }
    };
    let user = format!("ann:x:{USER}:{USER}::/:/bin/sh\n");
    let own = format!("ann:x:{USER}:\n");
    let volume = Volume::new(USER, USER, 0o775, USER, &[USER]).expect("root");
    install(&user, &own);
    volume.works(&volume.folder, &[]);
    for (passwd, group) in [
        // Another member, another user with that primary group, another name, no group, no account.
        (user.clone(), format!("ann:x:{USER}:bob\n")),
        (format!("{user}bob:x:{OTHER}:{USER}::/:/bin/sh\n"), own.clone()),
        (user.clone(), format!("staff2:x:{USER}:\n")),
        (user.clone(), String::new()),
        (String::new(), own.clone()),
    ] {
        install(&passwd, &group);
        let refused = volume.run(&volume.folder, &[]).expect(125);
        assert!(refused.complaint().contains("written by group"), "{passwd}{group}: {refused:?}");
    }
    install(&user, &format!("ann:x:{USER}:ann\n"));
    volume.works(&volume.folder, &[]);
    // An access list gives other users what looks like the group's permission.
    if crate::support::find("setfacl").is_some() {
        let status = Command::new("setfacl")
            .args(["-m", &format!("u:{OTHER}:rwx")])
            .arg(&volume.folder)
            .status();
        if status.expect("setfacl").success() {
            volume.run(&volume.folder, &[]).expect(125);
        }
    }
}

/// The root of the container is read-only, and the volume is a mount of its own: a `tmpfs` (an
/// `emptyDir` in memory), or one folder of a volume (`subPath`).
#[test]
fn a_volume_below_a_read_only_root_can_contain_a_ledger() {
    need!("mount", "setpriv");
    if !root()
        || !in_namespace("store::volumes::a_volume_below_a_read_only_root_can_contain_a_ledger")
    {
        return;
    }
    let mount = |args: &[&str], at: &Path| {
        let status = Command::new("mount").args(args).arg(at).status().expect("mount");
        assert!(status.success(), "{args:?}");
    };
    let volume = Volume::new(0, 0, 0o755, USER, &[USER, GROUP]).expect("root");
    mount(&["-t", "tmpfs", "-o", "ro", "none"], &volume.folder);
    let refused = volume.run(&volume.folder, &[]).expect(125);
    assert!(refused.complaint().contains("cannot be written"), "{refused:?}");

    let volume = Volume::new(0, 0, 0o755, USER, &[USER, GROUP]).expect("root");
    mount(&["-t", "tmpfs", "-o", "mode=2775,gid=62000", "none"], &volume.folder);
    volume.is_refused(&volume.folder, &volume.folder, &[]);
    let private = volume.below(0o700, USER);
    volume.works(&private, &[]);
    // One folder of it, below a root that cannot be written.
    let pod = volume.place.path().join("pod");
    fs::create_dir_all(pod.join("data")).expect("a folder");
    mount(&["--bind", private.to_str().expect("UTF-8")], &pod.join("data"));
    volume.works(&pod.join("data"), &[]);
}
