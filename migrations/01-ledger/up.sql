PRAGMA application_id = 0x706c6467;

CREATE TABLE instance (
  -- One run of a program that opened this ledger for writing.
  -- It is alive while its lock file is held or its identity is found; only then may nobody else end its processes.
  id                INTEGER PRIMARY KEY,
  program           TEXT    NOT NULL, -- name of the embedding program; survivors are adopted by the next instance of the same one
  version           TEXT    NOT NULL, -- of procledger
  machine_id        TEXT,             -- /etc/machine-id, 32 hex digits; NULL where the machine has none
  boot_id           TEXT    NOT NULL, -- /proc/sys/kernel/random/boot_id, 32 hex digits; a pid means nothing in another boot
  pid_namespace     INTEGER NOT NULL, -- inode of /proc/self/ns/pid; a pid means nothing in another namespace
  boottime_offset   INTEGER NOT NULL, -- nanoseconds; of the time namespace, which shifts every start tick
  pid               INTEGER NOT NULL,
  start_tick        INTEGER NOT NULL, -- field 22 of /proc/PID/stat, raw clock ticks since boot
  pidfd_inode       INTEGER,          -- unique for the boot on pidfs (Linux 6.9); NULL before that
  uid               INTEGER NOT NULL,
  lock_name         TEXT    NOT NULL, -- file beside the ledger that this instance keeps locked while it lives
  ledger_device     INTEGER NOT NULL, -- device and inode of the ledger file that it opened:
  ledger_inode      INTEGER NOT NULL, -- in a copy they differ, and a copy kills nothing
  started_at        INTEGER NOT NULL, -- unix milliseconds, as every column that ends in _at
  stopped_at        INTEGER,          -- NULL while it runs, or while nobody has noticed its death
  stopped_how       TEXT CHECK (stopped_how IN ('clean', 'crashed', 'rebooted')),
  CHECK ((stopped_at IS NULL) = (stopped_how IS NULL))
) STRICT;

CREATE TABLE process (
  -- One tracked process: a root that was spawned or registered, or a descendant found below one.
  -- Its identity is pid, start_tick and pidfd_inode, in the boot and namespace of first_owner.
  id                INTEGER PRIMARY KEY,
  task_id           TEXT,             -- the caller's unit of work; NULL where nobody registered it (a name sweep found it)
  owner             INTEGER NOT NULL REFERENCES instance (id), -- who answers for it now
  first_owner       INTEGER NOT NULL REFERENCES instance (id), -- who recorded it; names boot and namespace
  root              INTEGER REFERENCES process (id), -- the root it was found below; NULL for a root
  origin            TEXT    NOT NULL CHECK (origin IN ('spawned', 'registered', 'imported', 'descendant', 'swept')),
  token             TEXT,             -- of a spawned root: an element of PROCLEDGER_TOKEN in its environment, inherited
  pid               INTEGER NOT NULL CHECK (pid > 0),
  start_tick        INTEGER NOT NULL, -- field 22 of /proc/PID/stat, raw; never compared as wall time
  pidfd_inode       INTEGER,          -- unique for the boot on pidfs (Linux 6.9); NULL before that
  session           INTEGER,          -- session or foreground process group that the gate made for it (its pid), else NULL
  cgroup            TEXT,             -- the leaf made for it, else NULL
  cgroup_inode      INTEGER,          -- verified before anything is written to the leaf
  containment       TEXT    NOT NULL CHECK (containment IN ('none', 'session', 'keeper', 'cgroup')),
  command           TEXT    NOT NULL CHECK (json_valid(command)), -- JSON array: program and arguments
  cwd               TEXT,
  uid               INTEGER NOT NULL,
  state             TEXT    NOT NULL CHECK (state IN ('running', 'ending', 'survived', 'ended')),
  claimed_by        INTEGER REFERENCES instance (id), -- who is ending it, while state is 'ending'
  asked_by          TEXT,             -- the person behind a kill, or the owner
  started_at        INTEGER NOT NULL,
  ended_at          INTEGER,
  exit_code         INTEGER,          -- as passed to exit(3); NULL when a signal ended it or nobody could observe it
  exit_signal       INTEGER,
  end_reason        TEXT CHECK (end_reason IN ('exited', 'failed', 'terminated', 'killed', 'shutdown', 'orphan', 'stray',
                                               'unregistered', 'max_runtime', 'max_rss', 'oom', 'gone', 'rebooted',
                                               'released', 'forgotten')),
  end_rule          TEXT,             -- why it was ended, in words; NULL for what ended by itself
  end_evidence      TEXT,             -- what tied it to its task
  survive           INTEGER NOT NULL DEFAULT 0 CHECK (survive IN (0, 1)), -- 1: outlives its owner, adopted by the next
  grace_ms          INTEGER NOT NULL, -- between SIGTERM and SIGKILL, counted anew while members keep dying
  max_runtime_ms    INTEGER,
  max_rss_bytes     INTEGER,          -- of the whole tree
  peak_rss_bytes    INTEGER,          -- largest resident size that a health pass saw
  cpu_ms            INTEGER,          -- user and system time at the last look
  last_error        TEXT,             -- why the last attempt to end it failed, or why it never ran
  CHECK ((state = 'ended') = (ended_at IS NOT NULL)),
  CHECK ((state = 'ended') = (end_reason IS NOT NULL)),
  CHECK ((state = 'ending') = (claimed_by IS NOT NULL))
) STRICT;

CREATE TABLE pass (
  -- One run of the health or the orphan check, recorded even when it found nothing.
  id                INTEGER PRIMARY KEY,
  instance          INTEGER NOT NULL REFERENCES instance (id),
  kind              TEXT    NOT NULL CHECK (kind IN ('health', 'orphan')),
  started_at        INTEGER NOT NULL,
  duration_us       INTEGER NOT NULL,
  checked           INTEGER NOT NULL, -- processes looked at
  found             INTEGER NOT NULL, -- that needed something done: dead rows, orphans, matches
  ended             INTEGER NOT NULL, -- of these: known to be dead now
  survived          INTEGER NOT NULL, -- of these: could not be ended; tried again at the next pass
  unknown           INTEGER NOT NULL, -- that could not be judged, and so were left alone
  error             TEXT              -- the first thing that went wrong
) STRICT;

CREATE TABLE leak (
  -- Something that outlived its owner, and what became of it.
  id                INTEGER PRIMARY KEY,
  process           INTEGER NOT NULL REFERENCES process (id),
  kind              TEXT    NOT NULL CHECK (kind IN ('orphan', 'stray', 'unregistered')),
  rule              TEXT    NOT NULL, -- why it counts as a leak
  evidence          TEXT    NOT NULL, -- what tied it to the task
  pass              INTEGER REFERENCES pass (id), -- the pass that found it; NULL where a root's end did
  found_at          INTEGER NOT NULL,
  age_ms            INTEGER NOT NULL, -- from its start until it was found
  rss_bytes         INTEGER,          -- resident memory when it was found
  outcome           TEXT    NOT NULL CHECK (outcome IN ('gone', 'term', 'kill', 'survived', 'kept')),
  died_after_ms     INTEGER           -- from the first signal until it was dead
) STRICT;

-- History may grow for years; what is asked at every spawn, end and pass reads only the living.
CREATE INDEX process_live_owner ON process (owner) WHERE state <> 'ended';
CREATE INDEX process_live_task ON process (task_id) WHERE state <> 'ended';
CREATE INDEX process_task ON process (task_id, started_at);
CREATE INDEX process_ended ON process (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX process_root ON process (root) WHERE root IS NOT NULL;
CREATE INDEX instance_running ON instance (id) WHERE stopped_at IS NULL;
CREATE INDEX leak_found ON leak (found_at);
CREATE INDEX leak_process ON leak (process);
CREATE INDEX leak_pass ON leak (pass) WHERE pass IS NOT NULL;
CREATE INDEX pass_kind ON pass (kind, started_at);

-- To delete an instance, SQLite must know that nothing names it: without these it reads all history for each.
CREATE INDEX process_owner ON process (owner);
CREATE INDEX process_first_owner ON process (first_owner);
CREATE INDEX process_claim ON process (claimed_by) WHERE claimed_by IS NOT NULL;
CREATE INDEX pass_instance ON pass (instance);

-- Views for people: ISO 8601 in UTC, durations one can read.

CREATE VIEW running AS
  -- What is tracked now, longest-running first.
  SELECT
    p.task_id,
    p.pid,
    p.state,
    i.program AS owner,
    p.containment,
    strftime('%Y-%m-%dT%H:%M:%fZ', p.started_at / 1000.0, 'unixepoch') AS started,
    printf('%dd %02d:%02d:%02d', age.s / 86400, age.s / 3600 % 24, age.s / 60 % 60, age.s % 60) AS age,
    round(p.peak_rss_bytes / 1048576.0, 1) AS peak_mib,
    p.survive,
    p.root IS NOT NULL AS descendant,
    p.command,
    p.id AS process
  FROM process AS p
  JOIN instance AS i ON i.id = p.owner
  JOIN (SELECT id, max(0, CAST(strftime('%s', 'now') AS INTEGER) - started_at / 1000) AS s FROM process WHERE state <> 'ended') AS age
    ON age.id = p.id
  WHERE p.state <> 'ended'
  ORDER BY p.started_at;

CREATE VIEW history AS
  -- Every process that has ended, newest end first.
  SELECT
    p.task_id,
    p.pid,
    p.end_reason,
    p.end_rule,
    p.end_evidence,
    p.exit_code,
    p.exit_signal,
    strftime('%Y-%m-%dT%H:%M:%fZ', p.started_at / 1000.0, 'unixepoch') AS started,
    strftime('%Y-%m-%dT%H:%M:%fZ', p.ended_at / 1000.0, 'unixepoch') AS ended,
    printf('%dd %02d:%02d:%02d.%03d', (p.ended_at - p.started_at) / 86400000, (p.ended_at - p.started_at) / 3600000 % 24,
           (p.ended_at - p.started_at) / 60000 % 60, (p.ended_at - p.started_at) / 1000 % 60,
           (p.ended_at - p.started_at) % 1000) AS lasted,
    i.program AS owner,
    p.asked_by,
    p.last_error,
    round(p.peak_rss_bytes / 1048576.0, 1) AS peak_mib,
    p.root IS NOT NULL AS descendant,
    p.command,
    p.id AS process
  FROM process AS p
  JOIN instance AS i ON i.id = p.owner
  WHERE p.ended_at IS NOT NULL
  ORDER BY p.ended_at DESC;

CREATE VIEW leaks AS
  -- Every leak, newest first: what it was, why it counts as one, and what became of it.
  SELECT
    strftime('%Y-%m-%dT%H:%M:%fZ', l.found_at / 1000.0, 'unixepoch') AS found,
    p.task_id,
    p.pid,
    l.kind,
    l.outcome,
    printf('%dd %02d:%02d:%02d', l.age_ms / 86400000, l.age_ms / 3600000 % 24, l.age_ms / 60000 % 60, l.age_ms / 1000 % 60) AS age,
    round(l.rss_bytes / 1048576.0, 1) AS mib,
    l.died_after_ms,
    l.rule,
    l.evidence,
    p.command,
    p.id AS process
  FROM leak AS l
  JOIN process AS p ON p.id = l.process
  ORDER BY l.found_at DESC;

CREATE VIEW leaks_by_day AS
  -- Leaks of each day (UTC), newest first.
  SELECT
    strftime('%Y-%m-%d', l.found_at / 1000.0, 'unixepoch') AS day,
    count(*) AS leaks,
    sum(l.kind = 'orphan') AS orphans,
    sum(l.kind = 'stray') AS strays,
    sum(l.kind = 'unregistered') AS unregistered,
    sum(l.outcome = 'survived') AS survived,
    round(sum(l.age_ms) / 3600000.0, 2) AS process_hours,
    round(sum(l.rss_bytes) / 1048576.0, 1) AS mib
  FROM leak AS l
  GROUP BY day
  ORDER BY day DESC;

CREATE VIEW leaks_by_task AS
  -- Which tasks leak most.
  SELECT
    p.task_id,
    count(*) AS leaks,
    sum(l.kind = 'orphan') AS orphans,
    sum(l.kind = 'stray') AS strays,
    sum(l.outcome = 'survived') AS survived,
    round(sum(l.age_ms) / 3600000.0, 2) AS process_hours,
    round(sum(l.rss_bytes) / 1048576.0, 1) AS mib,
    strftime('%Y-%m-%dT%H:%M:%fZ', max(l.found_at) / 1000.0, 'unixepoch') AS last_found
  FROM leak AS l
  JOIN process AS p ON p.id = l.process
  GROUP BY p.task_id
  ORDER BY leaks DESC, last_found DESC;

CREATE VIEW survivors AS
  -- What could not be ended and is still there: tried again at each pass.
  SELECT
    p.task_id,
    p.pid,
    p.last_error,
    strftime('%Y-%m-%dT%H:%M:%fZ', p.started_at / 1000.0, 'unixepoch') AS started,
    i.program AS owner,
    p.command,
    p.id AS process
  FROM process AS p
  JOIN instance AS i ON i.id = p.owner
  WHERE p.state <> 'ended' AND p.state = 'survived'
  ORDER BY p.started_at;

CREATE VIEW passes AS
  -- Was the checker running? Every pass, newest first.
  SELECT
    strftime('%Y-%m-%dT%H:%M:%fZ', s.started_at / 1000.0, 'unixepoch') AS started,
    s.kind,
    i.program AS by,
    i.pid AS by_pid,
    round(s.duration_us / 1000.0, 3) AS took_ms,
    s.checked,
    s.found,
    s.ended,
    s.survived,
    s.unknown,
    s.error
  FROM pass AS s
  JOIN instance AS i ON i.id = s.instance
  ORDER BY s.started_at DESC;
