//! What a task can do to its own cgroup: cgroups nested deeper than any path, closed ones that
//! cannot be listed, threaded and frozen ones, and a process that moves between them while it is
//! ended. None of it outlives the task, and anything that does is reported by the command.
//!
//! In each case the hidden process is known by its cgroup alone: it has forked twice, has a session
//! of its own and no environment, and ignores SIGTERM.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::{
    containment::task_cgroups::can_use_cgroups,
    support::{Host, PidfdWatch, Place, canary, eventually, namespaces, need, root, until},
};

/// An ordinary user that owns only the subtree that is delegated to it.
const USER: u32 = 61234;

/// The root of the task: starts the hidden process, waits until that is in place, and then sleeps
/// or ends.
const ROOT: &str = r"
use POSIX ();
my ($hides, $ready, $how, $then, $marker) = @ARGV;
if (fork() == 0) {
    POSIX::setsid();
    fork() and POSIX::_exit(0);
    %ENV = (PATH => $ENV{PATH});
    exec 'perl', $hides, $ready, $how, $marker;
}
select(undef, undef, undef, 0.01) until -s $ready;
exec 'sleep', '3600' if $then eq 'sleep';
";

/// How the process hides.
const HIDES: &str = r#"
use POSIX ();
my ($ready, $how, $marker) = @ARGV;
my ($way, $depth) = split /:/, $how;
$SIG{TERM} = 'IGNORE';
sub slurp { open my $file, '<', $_[0] or die "$_[0]: $!"; <$file> }
sub put { open my $file, '>', $_[0] or die "$_[0]: $!"; print $file $_[1]; close $file or die "$_[0]: $!" }
sub down { mkdir $_[0] or die "mkdir: $!"; chdir $_[0] or die "chdir: $!" }
my ($own) = map { /^0::(.*)/ ? $1 : () } slurp('/proc/self/cgroup');
my ($mount) = map { (split)[2] eq 'cgroup2' ? (split)[1] : () } slurp('/proc/self/mounts');
my $leaf = "$mount$own";
chdir $leaf or die "$leaf: $!";
sub ready { chdir '/'; put("$ready.new", $$); rename "$ready.new", $ready }
if ($way eq 'deep') {
    down('nested-in-it') for 1 .. $depth;
    put('cgroup.procs', $$);
} elsif ($way eq 'closed') {
    down('nested-in-it') for 1 .. $depth;
    put('cgroup.procs', $$);
    chmod 0, "$leaf/nested-in-it/nested-in-it" or die "chmod: $!";
} elsif ($way eq 'closed-leaf') {
    down('nested'); put('cgroup.procs', $$);
    chmod 0, 'cgroup.procs', $leaf;
} elsif ($way eq 'closed-files') {
    chmod 0, map { "cgroup.$_" } qw(procs threads events kill freeze);
} elsif ($way eq 'closed-branch') {
    chmod 0, $leaf =~ s|/[^/]*$||r or die "chmod: $!";
} elsif ($way eq 'threaded') {
    down('nested'); put('cgroup.type', 'threaded'); put('cgroup.threads', $$);
} elsif ($way eq 'threaded-leaf') {
    # Refused while a process is in it.
    chomp(my @all = slurp('cgroup.procs'));
    put('../cgroup.procs', $_) for @all;
    put('cgroup.type', 'threaded');
    put('cgroup.threads', $_) for @all;
} elsif ($way eq 'frozen') {
    down('nested');
    if (my $frozen = fork()) {
        put('cgroup.procs', $frozen); put('cgroup.freeze', 1);
        chdir '/'; put("$ready.new", $frozen); rename "$ready.new", $ready; exit;
    }
    sleep 3600 while 1;
} elsif ($way eq 'namespace') {
    down('nested'); put('cgroup.procs', $$);
    my $sleep = q{$SIG{TERM} = 'IGNORE'; open $f, '>', "$ARGV[0].new"; print $f $$; close $f; rename "$ARGV[0].new", $ARGV[0]; sleep 3600 while 1};
    exec 'unshare', '-C', 'perl', '-e', $sleep, $ready, $marker;
} elsif ($way eq 'moves') {
    my ($n, @made) = (0);
    while (1) {
        my $folder = "$leaf/" . ($n % 2 ? 'a/' : '') . 'b' . $n++;
        mkdir "$leaf/a"; mkdir $folder;
        put("$folder/cgroup.procs", $$);
        push @made, $folder; rmdir shift @made if @made > 5;
        ready() if $n == 20;
    }
} elsif ($way eq 'many') {
    down('nested'); put('cgroup.procs', $$);
    for (2 .. $depth) { last if fork() == 0 or $_ == $depth && ready() }
    sleep 3600 while 1;
}
ready();
sleep 3600 while 1;
"#;

/// The user that runs host and command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RunAs {
    Root,
    User,
}

/// How the task is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Kill,
    Reap,
    ByItself,
}

const ENDS: [End; 3] = [End::Kill, End::Reap, End::ByItself];

/// A cgroup of one test, with a place: everything left there is ended and removed when it is
/// dropped.
struct Subtree {
    folder: PathBuf,
    place: Place,
    run_as: RunAs,
}

impl Subtree {
    fn new(run_as: RunAs) -> Self {
        let place = Place::new();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = fields.rev().find(|fields| fields[2] == "cgroup2").expect("a mount")[1];
        let folder = Path::new(mount).join(place.marker());
        fs::create_dir(&folder).expect("a cgroup");
        if run_as == RunAs::User {
            for file in [".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
                chown(folder.join(file), Some(USER), Some(USER)).expect("delegated");
            }
            chown(place.path(), Some(USER), Some(USER)).expect("given");
        }
        Self { folder, place, run_as }
    }

    /// A command in the subtree, run by the user of this subtree; program and arguments follow.
    fn command(&self) -> Command {
        let mut command = Command::new("/bin/sh");
        let join = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.folder.display());
        command.args(["-c", &join, "sh"]);
        if self.run_as == RunAs::User {
            command.args(["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"]);
            command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        }
        command
    }

    fn host(&self, options: &str) -> Host {
        let mut command = self.command();
        command.arg(std::env::current_exe().expect("this binary"));
        let options = format!("containment=cgroup grace=300 {options}");
        let host = Host::launch_by(command, &self.place, &self.place.ledger(), &options);
        let first = host.answer();
        assert!(first.starts_with("open "), "the host did not open its ledger: {first}");
        host
    }

    fn procledger(&self, args: &[&str]) -> Output {
        let mut command = self.command();
        command.arg(env!("CARGO_BIN_EXE_procledger")).arg("--db").arg(self.place.ledger());
        command.args(args).stdin(Stdio::null()).output().expect("the command runs")
    }

    /// Starts the task, and returns its root and the hidden process.
    fn start(&self, host: &mut Host, how: &str, then: &str) -> (PidfdWatch, PidfdWatch) {
        for (name, script) in [("root.pl", ROOT), ("hides.pl", HIDES)] {
            fs::write(self.place.path().join(name), script).expect("a script");
        }
        let script = format!(
            "exec perl {0}/root.pl {0}/hides.pl {0}/hidden {how} {then} \"$0\"",
            self.place.path().display()
        );
        let root = host.spawn("task", &script);
        (root, self.place.watch("hidden"))
    }

    fn cgroup(&self) -> PathBuf {
        let row = "SELECT cgroup FROM process WHERE task_id = 'task' AND root IS NULL";
        PathBuf::from(self.place.sqlite3(row))
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        // By descriptors, so that no path is too long.
        for _ in 0..100 {
            let mut remove = Command::new("find");
            remove.arg(&self.folder).args(["-depth", "-type", "d", "-delete"]);
            let _ = remove.stderr(Stdio::null()).status();
            if !self.folder.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Tests one way to hide with each kind of end: nothing outlives the task, nothing else is ended,
/// and its cgroup is removed.
fn nothing_outlives(run_as: RunAs, how: &str) {
    for end in ENDS {
        let subtree = Subtree::new(run_as);
        let mut unrelated = canary();
        let mut host = subtree.host("");
        let then = if end == End::ByItself { "end" } else { "sleep" };
        let (task, hidden) = subtree.start(&mut host, how, then);
        let cgroup = subtree.cgroup();
        let output = match end {
            End::Kill => Some(subtree.procledger(&["kill", "task"])),
            End::Reap => {
                host.crash();
                Some(subtree.procledger(&["reap"]))
            }
            End::ByItself => {
                until("what it left is ended", || task.is_dead() && hidden.is_dead());
                host.stop();
                None
            }
        };
        let printed = output.as_ref().map(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            format!("{} {text} {}", output.status, String::from_utf8_lossy(&output.stderr))
        });
        assert!(task.is_dead() && hidden.is_dead(), "{run_as:?} {how} {end:?}: {printed:?}");
        assert!(
            output.is_none_or(|output| output.status.success()),
            "{run_as:?} {how} {end:?}: {printed:?}"
        );
        until(&format!("{how} {end:?}: the cgroup is removed"), || !cgroup.exists());
        until("its row is closed", || subtree.place.sqlite3("SELECT count(*) FROM running") == "0");
        assert!(unrelated.is_running());
    }
}

/// Both for root and for an ordinary user.
fn nothing_outlives_anyone(how: &str) {
    need!("perl", "find");
    if !can_use_cgroups() || !root() {
        return;
    }
    nothing_outlives(RunAs::Root, how);
    need!("setpriv");
    nothing_outlives(RunAs::User, how);
}

#[test]
fn a_process_in_the_deepest_of_65_nested_cgroups_outlived_its_task() {
    nothing_outlives_anyone("deep:65");
}

#[test]
fn a_process_in_the_deepest_of_200_nested_cgroups_outlived_its_task() {
    nothing_outlives_anyone("deep:200");
}

/// 13 bytes for each level: three times `PATH_MAX`.
#[test]
fn a_process_in_the_deepest_of_1000_nested_cgroups_outlived_its_task() {
    nothing_outlives_anyone("deep:1000");
}

#[test]
fn a_process_in_a_closed_cgroup_outlived_its_task() {
    nothing_outlives_anyone("closed:3");
}

/// Neither a list nor `/proc/PID/cgroup` shows all of the path.
#[test]
fn a_process_deep_below_a_closed_cgroup_outlived_its_task() {
    nothing_outlives_anyone("closed:700");
}

#[test]
fn a_process_outlived_a_task_that_closed_its_own_cgroup() {
    nothing_outlives_anyone("closed-leaf");
}

#[test]
fn a_process_outlived_a_task_that_closed_the_files_of_its_cgroup() {
    nothing_outlives_anyone("closed-files");
}

#[test]
fn a_process_outlived_a_task_that_closed_the_cgroup_of_its_host() {
    nothing_outlives_anyone("closed-branch");
}

#[test]
fn a_thread_in_a_threaded_cgroup_is_ended_with_its_task() {
    nothing_outlives_anyone("threaded");
}

#[test]
fn a_process_outlived_a_task_that_made_its_own_cgroup_threaded() {
    nothing_outlives_anyone("threaded-leaf");
}

#[test]
fn a_process_that_its_task_has_frozen_is_ended_with_it() {
    nothing_outlives_anyone("frozen");
}

#[test]
fn a_process_that_moves_between_nested_cgroups_is_ended() {
    nothing_outlives_anyone("moves");
}

#[test]
fn a_cgroup_namespace_hides_nothing() {
    need!("perl", "find", "unshare");
    if can_use_cgroups() && root() {
        nothing_outlives(RunAs::Root, "namespace");
    }
}

/// More members than the command may have descriptors.
#[test]
fn more_members_than_descriptors_are_ended_with_their_cgroup() {
    need!("perl", "find");
    if !can_use_cgroups() || !root() {
        return;
    }
    let subtree = Subtree::new(RunAs::Root);
    let mut host = subtree.host("");
    let (_, hidden) = subtree.start(&mut host, "many:150", "sleep");
    let cgroup = subtree.cgroup();
    host.crash();
    let output = Command::new("/bin/sh")
        .args(["-c", "ulimit -n 48; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_procledger"), "--db"])
        .arg(subtree.place.ledger())
        .arg("reap")
        .output()
        .expect("the command runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(hidden.is_dead(), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    until("the cgroup is removed", || {
        // What one command could not see completely is handled by the next.
        cgroup.exists() && subtree.procledger(&["reap"]).status.success() || !cgroup.exists()
    });
    assert!(!cgroup.exists(), "{printed}");
}

/// A process of another PID namespace has no pid in ours. If something in the cgroup must be left,
/// the cgroup is not killed as a whole: the survivor is reported, and the next attempt ends it.
#[test]
fn an_unlistable_member_beside_a_protected_program_is_reported_as_a_survivor() {
    need!("find", "unshare", "nsenter");
    if !can_use_cgroups() || !root() || !namespaces() {
        return;
    }
    let subtree = Subtree::new(RunAs::Root);
    let place = &subtree.place;
    let mut command = subtree.command();
    command.args(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(std::env::current_exe().expect("this binary"));
    let mut host = Host::launch_by(command, place, &place.ledger(), "containment=cgroup grace=300");
    assert!(host.answer().starts_with("open "), "the host opens its ledger");
    let task = format!(
        "cd {}; cp $(command -v sleep) keepme; ./keepme 3600 & exec sleep 3600",
        place.path().display(),
    );
    assert!(host.ask(&format!("spawn task {task}")).starts_with("pid "));
    let cgroup = subtree.cgroup();
    let members = || fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let is_keepme = |pid: &str| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"./keepme"))
    };
    let kept = eventually("it runs", || {
        let members = members();
        members.lines().find(|pid| is_keepme(pid)).map(|pid| pid.parse().expect("a pid"))
    });
    let kept = PidfdWatch::on(kept);
    let outside = canary();
    fs::write(cgroup.join("cgroup.procs"), outside.pid().to_string()).expect("moved in");
    let outside = (PidfdWatch::on(outside.pid()), outside);

    let children = format!("/proc/{0}/task/{0}/children", host.pid());
    let inside = fs::read_to_string(children).expect("children").trim().to_owned();
    let kill = |protect: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--pid", "--mount", "--target", &inside]);
        command.arg(env!("CARGO_BIN_EXE_procledger")).arg("--db").arg(place.ledger());
        let output = command.args(["kill", "task"]).args(protect).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, printed) = kill(&["--protect", "keepme"]);
    assert_eq!(code, Some(3), "{printed}");
    assert!(
        printed.contains("cannot be listed") && !kept.is_dead() && !outside.0.is_dead(),
        "{printed}"
    );
    let row = "SELECT state, last_error LIKE '%cannot be listed%' FROM process WHERE root IS NULL";
    assert_eq!(place.sqlite3(row), "survived|1");

    kept.kill();
    let (code, printed) = kill(&[]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(outside.0.is_dead(), "{printed}");
    until("the cgroup is removed", || !cgroup.exists());
}
