-- Views that stay fast beside a million rows: each column that a person filters by has an index to go by, and the times
-- that an index knows are there in unix milliseconds, beside what one can read.

-- One day's leaks are found without a look at the others.
CREATE INDEX leak_day ON leak (strftime('%Y-%m-%d', found_at / 1000.0, 'unixepoch'));
-- The newest passes, and those of a window, whatever their kind. One is written every 30 seconds, none at a spawn.
CREATE INDEX pass_started ON pass (started_at);

-- They served one question alone, which ended processes name an old instance, and each cost every spawn a page: a fifth of
-- the time of its row. That question is now asked of all instances at once, when history is pruned.
DROP INDEX process_owner;
DROP INDEX process_first_owner;

-- What the planner takes for granted about the sizes of a ledger, written by hand: a plan is the same on the first day
-- and after a million rows, and does not hang on who ran ANALYZE when. First the rows of the index, then how many of
-- them share its first column, its first two, and so on (https://sqlite.org/fileformat2.html#the_sqlite_stat1_table).
ANALYZE sqlite_schema;
DELETE FROM sqlite_stat1;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('process', 'process_task', '1000000 100 1'),
  ('process', 'process_ended', '1000000 1'),
  ('process', 'process_live_owner', '100 50'),
  ('process', 'process_live_task', '100 2'),
  ('process', 'process_root', '100000 5'),
  ('process', 'process_claim', '10 5'),
  ('instance', 'instance_running', '10 1'),
  ('instance', 'instance_cgroup', '10 1'),
  ('leak', 'leak_found', '50000 1'),
  ('leak', 'leak_day', '50000 100'),
  ('leak', 'leak_process', '50000 1'),
  ('leak', 'leak_pass', '50000 5'),
  ('pass', 'pass_kind', '1000000 500000 1'),
  ('pass', 'pass_started', '1000000 1'),
  ('pass', 'pass_instance', '1000000 1000');

DROP VIEW running;
DROP VIEW history;
DROP VIEW leaks;
DROP VIEW leaks_by_day;
DROP VIEW leaks_by_task;
DROP VIEW survivors;
DROP VIEW passes;

-- LEFT JOIN where an inner one would give the same rows: what is joined for a name alone is looked up last, and not at all
-- where nobody asks for the name.

CREATE VIEW running AS
  -- What is tracked now, longest-running first.
  SELECT
    p.task_id,
    p.pid,
    p.state,           -- running, ending (somebody is ending it) or survived (could not be ended)
    i.program AS owner,
    p.containment,     -- what holds its tree together: cgroup, keeper, session or none
    strftime('%Y-%m-%dT%H:%M:%fZ', p.started_at / 1000.0, 'unixepoch') AS started,
    printf('%dd %02d:%02d:%02d', p.s / 86400, p.s / 3600 % 24, p.s / 60 % 60, p.s % 60) AS age,
    round(p.peak_rss_bytes / 1048576.0, 1) AS peak_mib,
    p.survive,
    p.root IS NOT NULL AS descendant, -- 1: found below a root that was spawned or registered
    p.evidence,        -- what tied a descendant to its root
    p.command,
    p.id AS process,   -- its row in the table
    p.started_at
  FROM (SELECT *, max(0, strftime('%s', 'now') - started_at / 1000) AS s FROM process WHERE state <> 'ended') AS p
  LEFT JOIN instance AS i ON i.id = p.owner
  ORDER BY p.started_at;

CREATE VIEW history AS
  -- Every process that has ended, newest end first. Ask for a window by ended_at: an index knows it, and not `ended`.
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
    i.program AS owner, -- who answered for it last
    p.asked_by,
    p.last_error,
    round(p.peak_rss_bytes / 1048576.0, 1) AS peak_mib,
    p.root IS NOT NULL AS descendant,
    p.command,
    p.id AS process,
    p.started_at,
    p.ended_at
  FROM process AS p
  LEFT JOIN instance AS i ON i.id = p.owner
  WHERE p.ended_at IS NOT NULL
  ORDER BY p.ended_at DESC;

CREATE VIEW leaks AS
  -- Every leak, newest first: what it was, why it counts as one, and what became of it.
  SELECT
    strftime('%Y-%m-%dT%H:%M:%fZ', l.found_at / 1000.0, 'unixepoch') AS found,
    p.task_id,
    p.pid,
    l.kind,            -- orphan (its instance was dead), stray (its root had ended), unregistered (known by name alone)
    l.outcome,         -- gone (by itself), term, kill, survived, or kept (marked survive)
    printf('%dd %02d:%02d:%02d', l.age_ms / 86400000, l.age_ms / 3600000 % 24, l.age_ms / 60000 % 60, l.age_ms / 1000 % 60) AS age,
    round(l.rss_bytes / 1048576.0, 1) AS mib,
    l.died_after_ms,
    l.rule,
    l.evidence,
    i.program,         -- who had started it, or found it
    p.command,
    p.id AS process,
    l.found_at,
    l.age_ms
  FROM leak AS l
  JOIN process AS p ON p.id = l.process
  LEFT JOIN instance AS i ON i.id = p.first_owner
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
    round(sum(l.age_ms) / 3600000.0, 2) AS process_hours, -- from start until found, of all together
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
    sum(l.kind = 'unregistered') AS unregistered,
    sum(l.outcome = 'survived') AS survived,
    round(sum(l.age_ms) / 3600000.0, 2) AS process_hours,
    round(sum(l.rss_bytes) / 1048576.0, 1) AS mib,
    strftime('%Y-%m-%dT%H:%M:%fZ', max(l.found_at) / 1000.0, 'unixepoch') AS last_found
  FROM leak AS l
  JOIN process AS p ON p.id = l.process
  GROUP BY p.task_id
  ORDER BY leaks DESC, max(l.found_at) DESC;

CREATE VIEW survivors AS
  -- What could not be ended and is still there: tried again at each pass.
  SELECT
    p.task_id,
    p.pid,
    p.last_error,      -- why, as of the last attempt
    strftime('%Y-%m-%dT%H:%M:%fZ', p.started_at / 1000.0, 'unixepoch') AS started,
    i.program AS owner,
    p.command,
    p.id AS process,
    p.started_at
  FROM process AS p
  LEFT JOIN instance AS i ON i.id = p.owner
  -- Twice, so that the index of the living fits.
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
    s.error,
    s.started_at
  FROM pass AS s
  LEFT JOIN instance AS i ON i.id = s.instance
  ORDER BY s.started_at DESC;
