//! A ledger in a folder of its own, and rows to put into it.

use std::{
    borrow::BorrowMut,
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    error::Result,
    identity::{Identity, Pid, PidScope},
    model::{
        Containment, DeadInstance, End, EndReason, Evidence, ExitStatus, InstanceId, Justification,
        LeakKind, Limits, Millis, NewInstance, NewLeak, NewProcess, Origin, Outcome, PassKind,
        PassRecord, ProcessId, ProcessRecord, ProcessSpec, Row, RuleKey, Settled, State, StopHow,
        TaskId, Verdict,
    },
    store::{Insertion, Store, Unshipped, Upgrade},
};

/// Opens a ledger as the program that owns it does.
pub(super) fn open(path: &Path) -> Result<Store> {
    Store::open(path, Upgrade::Migrate)
}

pub(super) const UID: u32 = 1000;

/// An open ledger with one instance of the program "api".
pub(super) struct Fixture {
    pub(super) folder: TempDir,
    pub(super) store: Store,
    pub(super) me: InstanceId,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = open(&folder.path().join("ledger.db")).expect("opens");
        let me = store.add_instance(&instance("api", here(), 1)).expect("recorded");
        Self { folder, store, me }
    }

    pub(super) fn instance(&self, program: &str, pid: i64) -> InstanceId {
        self.store.add_instance(&instance(program, here(), pid)).expect("recorded")
    }

    pub(super) fn insert(&self, new: NewProcess) -> ProcessId {
        self.insert_all([new]).expect("committed").remove(0).row.expect("inserted")
    }

    /// Inserts a batch; the key of each is its index in it.
    pub(super) fn insert_all(
        &self,
        batch: impl IntoIterator<Item = NewProcess>,
    ) -> Result<Vec<Insertion<usize>>> {
        self.store.insert_queued(&here(), || batch.into_iter().enumerate().collect())
    }

    /// Records one result; returns whether it was recorded.
    pub(super) fn record(&self, by: InstanceId, settled: Settled) -> bool {
        self.store.record(by, None, &[settled]).expect("committed") == 1
    }

    /// Adds a row of `owner` in any state; a claim is the owner's own.
    pub(super) fn row(&self, owner: InstanceId, pid: i64, state: State) -> ProcessId {
        let id = self.insert(process(owner, &format!("task-{pid}"), pid));
        self.put(id, state, (state == State::Ending).then_some(owner));
        id
    }

    /// Forces a row into a state, bypassing all checks.
    pub(super) fn put(&self, id: ProcessId, state: State, claimed_by: Option<InstanceId>) {
        let end = (state == State::Ended).then_some("gone");
        self.sql(
            "UPDATE process SET state = ?1, claimed_by = ?2, end_reason = ?3,
               ended_at = CASE WHEN ?3 IS NULL THEN NULL ELSE 5 END WHERE id = ?4",
            (state.as_str(), claimed_by.map(|by| by.0), end, id.0),
        );
    }

    pub(super) fn sql(&self, sql: &str, params: impl rusqlite::Params) -> usize {
        self.store.write("test", |tx| tx.execute(sql, params)).expect("runs")
    }

    pub(super) fn number(&self, sql: &str) -> i64 {
        self.store.read("test", |c| c.query_one(sql, [], |row| row.get(0))).expect("runs")
    }

    /// Runs one step; returns how many rows were deleted.
    pub(super) fn prune(&self, before: i64, batch: u32) -> u64 {
        let mut connection = self.store.maintenance_connection().expect("opens");
        connection.prune(Millis(before), batch, Unshipped::Keep).expect("committed").done
    }

    /// Releases free pages and empties the WAL.
    pub(super) fn vacuum(&self) {
        let connection = self.store.maintenance_connection().expect("opens");
        while connection.free_pages(1_000).expect("committed").done > 0 {}
        assert!(connection.checkpoint(true).expect("written back"), "there is no reader");
    }

    pub(super) fn get(&self, id: ProcessId) -> ProcessRecord {
        self.store.process(id).expect("read").expect("there")
    }

    pub(super) fn state(&self, id: ProcessId) -> State {
        self.get(id).life.state()
    }
}

pub(super) fn here() -> PidScope {
    PidScope {
        machine_id: Some(Uuid::from_u128(1)),
        boot_id: Uuid::from_u128(2),
        pid_namespace: u64::MAX - 3,
        boottime_offset: -7,
    }
}

pub(super) fn elsewhere() -> PidScope {
    PidScope { boot_id: Uuid::from_u128(99), ..here() }
}

pub(super) fn identity(scope: PidScope, pid: i64) -> Identity {
    let pid = Pid::new(pid).expect("a pid");
    Identity { scope, pid, start_tick: u64::MAX, pidfd_inode: Some(u64::MAX - 1) }
}

pub(super) fn instance(program: &str, scope: PidScope, pid: i64) -> NewInstance {
    NewInstance {
        program: program.to_owned(),
        identity: identity(scope, pid),
        uid: UID,
        lock_name: format!("ledger.db-{pid}.lock"),
        started_at: Millis(1_000),
    }
}

pub(super) fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("a task id")
}

/// A running root without limits.
pub(super) fn process(owner: InstanceId, name: &str, pid: i64) -> NewProcess {
    let limits = Limits::with_grace(Duration::from_millis(100));
    NewProcess::from(ProcessSpec {
        task_id: Some(task(name)),
        token: Some(Uuid::from_u128(77)),
        session: Pid::new(pid),
        containment: Containment::Session,
        command: ["resource-claude-code", "run", "--tag", name].map(str::to_owned).to_vec(),
        cwd: Some("/srv/api".to_owned()),
        started_at: Millis(pid).into(),
        ..ProcessSpec::new(owner, Origin::Spawned, identity(here(), pid), UID, limits)
    })
}

pub(super) fn surviving(mut new: NewProcess) -> NewProcess {
    new.spec.limits.survive = true;
    new
}

/// A stray below `root`, claimed by its owner at once.
pub(super) fn stray(owner: InstanceId, root: ProcessId, pid: i64) -> NewProcess {
    NewProcess { claimed: true, ..below(root, process(owner, "stray", pid)) }
}

/// A descendant of `root`.
pub(super) fn below(root: ProcessId, mut new: NewProcess) -> NewProcess {
    (new.spec.root, new.spec.origin) = (Some(root), Origin::Descendant);
    new
}

/// A process that `root` may keep, without a row so far.
pub(super) fn kept(owner: InstanceId, root: ProcessId, pid: i64) -> Settled {
    let new = NewProcess { claimed: false, ..stray(owner, root, pid) };
    Settled {
        row: Row::New(Box::new(new)),
        verdict: Verdict::Kept(end(EndReason::Released)),
        leak: Some(leak(LeakKind::Stray, Outcome::Kept)),
    }
}

pub(super) fn end(reason: EndReason) -> End {
    End {
        reason,
        status: ExitStatus::Exited(3),
        core_dumped: false,
        at: Millis(9_000).into(),
        because: None,
    }
}

/// Returns how a row has ended.
pub(super) fn ended(row: &ProcessRecord) -> &End {
    row.life.end().expect("it has ended")
}

pub(super) fn dead(id: InstanceId) -> DeadInstance {
    DeadInstance { id, how: StopHow::Crashed, processes_gone: None, replaced: false }
}

pub(super) fn pass(kind: PassKind, started_at: i64) -> PassRecord {
    PassRecord {
        kind,
        started_at: Millis(started_at).into(),
        duration: Duration::from_micros(1_234),
        checked: 5,
        found: 2,
        ended: 1,
        survived: 1,
        unknown: 0,
        error: Some("failed to read `/proc/7/stat`".to_owned()),
    }
}

pub(super) fn leak(kind: LeakKind, outcome: Outcome) -> NewLeak {
    NewLeak {
        kind,
        because: Justification::new(&RuleKey::InstanceDead.into(), Evidence::TaskCgroup),
        found_at: Millis(86_400_000 * 3),
        age: Duration::from_hours(1),
        rss: Some(1 << 20),
        outcome,
        died_after: Some(Duration::from_millis(12)),
        stop_signal: (outcome == Outcome::Term).then_some(2),
    }
}

pub(super) fn settled(process: ProcessId, verdict: Verdict) -> Settled {
    Settled::new(process, verdict)
}

/// Returns the name, content, mode and modification time of everything in a folder. If they are
/// equal, the folder is "untouched".
pub(super) fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut all: BTreeMap<_, _> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let seen = fs::symlink_metadata(&path).expect("metadata");
            // Reads without SQLite, so only ledgers that this process does not have open.
            let bytes = if seen.is_file() { fs::read(&path).expect("bytes") } else { Vec::new() };
            (path, (digest(&bytes), seen.mode(), seen.mtime(), seen.mtime_nsec()))
        })
        .collect();
    let seen = fs::metadata(folder).expect("metadata");
    all.insert(folder.to_owned(), (0, seen.mode(), seen.mtime(), seen.mtime_nsec()));
    all
}

/// Returns a digest of bytes, so that a failure is readable.
fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("metadata").mode() & 0o7777
}

pub(super) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// The environment variable that passes a folder to a test of this program that runs in a separate
/// process.
const FOLDER: &str = "PROCLEDGER_TEST_FOLDER";

#[expect(clippy::disallowed_methods, reason = "a test runs itself in a process of its own")]
pub(super) fn child(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args([name, "--exact", "--nocapture"]).env(FOLDER, folder);
    command
}

/// Returns the folder that the parent passed to this child; `None` if the test was run directly,
/// and has nothing to do.
pub(super) fn given_folder() -> Option<PathBuf> {
    env::var_os(FOLDER).map(PathBuf::from)
}

pub(super) fn run(mut command: impl BorrowMut<Command>) {
    let output = command.borrow_mut().output().expect("starts");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// Returns the path beside the ledger of a folder.
pub(super) fn file(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from("ledger.db");
    name.push(suffix);
    folder.join(name)
}
