//! The table `process`: its columns, and the only code that inserts and reads whole rows.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    cell::{RowReader, status},
    migration::Schema,
    table::{self, table},
    transaction::Transaction,
};
use crate::{
    identity::{Identity, PidScope},
    model::{
        Attributes, Cgroup, End, EndPlan, EvidenceKey, InstanceId, Justification, Life, Limits,
        Millis, NewProcess, ProcessId, ProcessRecord, ProcessSpec, RuleKey, State,
    },
    redact::{mask_command, mask_text},
};

/// The row number, and the data from other tables.
struct Joined {
    id: ProcessId,
    owner_program: String,
    scope: PidScope,
}

/// The data that an insert adds to a new row.
struct Added {
    owner: InstanceId,
    command: Vec<String>,
    attributes: Option<Attributes>,
}

table! {
    "process",
    insert(new: &NewProcess, Added { owner, command, attributes } => Added),
    read(Joined { id, owner_program, scope } => Joined) -> ProcessRecord,
    {
        task_id = new.spec.task_id;
        owner = owner;
        first_owner = new.spec.recorded_by;
        root = new.spec.root;
        origin = new.spec.origin;
        token = new.spec.token;
        pid = new.spec.identity.pid;
        start_tick = new.spec.identity.start_tick;
        pidfd_inode = new.spec.identity.pidfd_inode;
        session = new.spec.session;
        cgroup = new.spec.cgroup.as_ref().map(|it| it.path.to_string_lossy().into_owned());
        cgroup_inode = new.spec.cgroup.as_ref().map(|it| it.inode);
        containment = new.spec.containment;
        keeper_pid since KEEPER = new.spec.keeper.map(|it| it.pid);
        keeper_start_tick since KEEPER = new.spec.keeper.map(|it| it.start_tick);
        keeper_pidfd_inode since KEEPER = new.spec.keeper.and_then(|it| it.pidfd_inode);
        attributes since KEEPER = attributes;
        command = command;
        cwd = new.spec.cwd;
        uid = new.spec.uid;
        state = if new.claimed { State::Ending } else { State::Running };
        claimed_by = new.claimed.then_some(new.spec.recorded_by);
        asked_by = None::<String>;
        started_at = new.spec.started_at;
        ended_at = None::<Millis>;
        exit_code = None::<i32>;
        exit_signal = None::<i32>;
        core_dumped since CORE_DUMP = None::<bool>;
        end_reason = None::<String>;
        end_rule = None::<String>;
        end_evidence = None::<String>;
        end_rule_key since KEYS = None::<RuleKey>;
        end_evidence_key since KEYS = None::<EvidenceKey>;
        survive = new.spec.limits.survive;
        grace_ms = new.spec.limits.grace;
        end_plan since END_PLAN = Some(&new.spec.end_plan).filter(|it| !it.is_default()).cloned();
        max_runtime_ms = new.spec.limits.max_runtime;
        max_rss_bytes = new.spec.limits.max_rss;
        peak_rss_bytes = new.peak_rss;
        cpu_ms = new.cpu;
        last_error = None::<String>;
        evidence since CGROUP = new.spec.evidence;
    },
    unread {},
    ProcessRecord {
        id,
        spec: ProcessSpec {
            task_id,
            recorded_by: first_owner,
            root,
            origin,
            token,
            identity: Identity { scope, pid, start_tick, pidfd_inode },
            session,
            cgroup: Option::zip(cgroup, cgroup_inode)
                .map(|(path, inode): (String, _)| Cgroup { path: path.into(), inode }),
            containment,
            // In the same PID scope as its program, since one host creates both.
            keeper: Option::zip(keeper_pid, keeper_start_tick).map(|(pid, start_tick)| Identity {
                scope,
                pid,
                start_tick,
                pidfd_inode: keeper_pidfd_inode,
            }),
            command,
            cwd,
            uid,
            attributes: Option::<Attributes>::unwrap_or_default(attributes),
            limits: Limits {
                survive,
                grace: grace_ms,
                max_runtime: max_runtime_ms,
                max_rss: max_rss_bytes,
            },
            end_plan: Option::<EndPlan>::unwrap_or_default(end_plan),
            started_at,
            evidence,
        },
        // The table's checks make these the only combinations.
        life: match (state, claimed_by, Option::zip(ended_at, end_reason)) {
            (State::Ending, Some(claimed_by), _) => Life::Ending { claimed_by },
            (State::Ended, _, Some((at, reason))) => Life::Ended(End {
                at,
                status: status(exit_code, exit_signal),
                core_dumped: Option::<bool>::unwrap_or_default(core_dumped),
                reason,
                because: Option::zip(end_rule, end_evidence).map(|(rule, evidence)| {
                    Justification::recorded((rule, end_rule_key), (evidence, end_evidence_key))
                }),
            }),
            (State::Survived, ..) => Life::Survived,
            _ => Life::Running,
        },
        owner,
        owner_program,
        requested_by: asked_by,
        peak_rss: peak_rss_bytes,
        cpu: cpu_ms,
        last_error,
    }
}

/// Inserts one complete row. Its first owner is the instance that records it, whose row has the
/// boot and the namespace. A descendant belongs to the owner of its root, whichever instance found
/// it: otherwise, if an instance died while it ended another instance's tree, a third one would
/// take the descendants for rows of a dead owner.
pub(super) fn insert(tx: &Transaction<'_>, new: &NewProcess) -> rusqlite::Result<ProcessId> {
    let owner_of = |root: ProcessId| {
        tx.prepare_cached("SELECT owner FROM process WHERE id = ?1")?
            .query_one([root.0], |row| row.get(0).map(InstanceId))
            .optional()
    };
    let owner = new.spec.root.map(owner_of).transpose()?.flatten().unwrap_or(new.spec.recorded_by);
    // The caller may have masked it already, and masking twice changes nothing. This is the only
    // way to the disk.
    let command = mask_command(&new.spec.command);
    let attributes = Attributes {
        arg0: new.spec.attributes.arg0.as_deref().map(mask_text),
        ..new.spec.attributes.clone()
    };
    let attributes = Some(attributes).filter(|it| !it.is_empty());
    insert_row(tx, new, Added { owner, command, attributes }).map(ProcessId)
}

/// Returns the statement that selects rows `p` for [`read`]. `from` is the text after FROM, `rest`
/// the text after the joins.
///
/// `CROSS JOIN` fixes the order of the tables: SQLite might otherwise begin with the few instances.
/// `from` names the index, so that a statement that cannot use it fails in the tests instead of
/// reading all history at every spawn.
pub(super) fn select(schema: Schema, from: &str, rest: &str) -> String {
    let columns = table::select("p", schema, COLUMNS);
    format!(
        "SELECT p.id, o.program, f.machine_id, f.boot_id, f.pid_namespace, f.boottime_offset, {columns} FROM {from}
         CROSS JOIN instance AS o ON o.id = p.owner CROSS JOIN instance AS f ON f.id = p.first_owner {rest}"
    )
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<ProcessRecord> {
    let mut reader = RowReader::of(row);
    let (id, owner_program, scope) = (reader.take()?, reader.take()?, reader.pid_scope()?);
    read_row(&mut reader, Joined { id, owner_program, scope })
}

/// Returns one row, within a transaction of the caller; `None` if it does not exist.
pub(super) fn find(
    connection: &Connection,
    schema: Schema,
    id: ProcessId,
) -> rusqlite::Result<Option<ProcessRecord>> {
    one(connection, schema, id).optional()
}

/// Returns one row, which must exist, within a transaction of the caller.
pub(super) fn one(
    connection: &Connection,
    schema: Schema,
    id: ProcessId,
) -> rusqlite::Result<ProcessRecord> {
    connection
        .prepare_cached(&select(schema, "process AS p", "WHERE p.id = ?1"))?
        .query_one([id.0], read)
}
