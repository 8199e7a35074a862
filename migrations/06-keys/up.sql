-- Rules and evidence by key: the sentences contain particulars (a name, a size), so they cannot be counted by their text.
ALTER TABLE process ADD COLUMN end_rule_key /* identifies end_rule, whatever its particulars; NULL where end_rule is, and in rows of programs before this schema */ TEXT;
ALTER TABLE process ADD COLUMN end_evidence_key /* as end_rule_key, of end_evidence */ TEXT;
ALTER TABLE leak ADD COLUMN rule_key /* identifies the rule, whatever its particulars; NULL in rows of programs before this schema */ TEXT;
ALTER TABLE leak ADD COLUMN evidence_key /* as rule_key, of the evidence */ TEXT;

-- The keys of what former versions have recorded. Both tables at once, so that each sentence is named once.
CREATE TEMPORARY TABLE known_rule (sentence TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO known_rule
SELECT text, CASE
    WHEN text = 'its instance is dead' THEN 'instance_dead'
    WHEN text = 'its instance was ended by an exec of its program' THEN 'instance_replaced'
    WHEN text = 'its machine was restarted, or its PID namespace is gone' THEN 'place_gone'
    WHEN text = 'its root had ended' THEN 'root_ended'
    WHEN text = 'its root had ended, and its keeper ended it' THEN 'keeper_ended_stray'
    WHEN text = 'its instance died, and its keeper ended it' THEN 'keeper_ended'
    WHEN text = 'its instance died, and its keeper could not end it' THEN 'keeper_failed'
    WHEN text = 'its instance died, and its keeper was ending it when that was killed' THEN 'keeper_killed'
    WHEN text = 'it had survived an earlier attempt' THEN 'survived_before'
    WHEN text = 'its owner asked' THEN 'owner_asked'
    WHEN text = 'its owner shut down' THEN 'owner_shut_down'
    WHEN text = 'its handle was dropped' THEN 'handle_dropped'
    WHEN text = 'the kernel ran out of memory' THEN 'out_of_memory'
    WHEN text = 'it is not there any more' THEN 'gone'
    WHEN text = 'it was left before' THEN 'left_before'
    WHEN text = 'its job keeps its strays' THEN 'keeps_strays'
    WHEN text GLOB 'its name is configured, and *' THEN 'name_match'
    WHEN text GLOB 'asked by *' THEN 'person_asked'
    WHEN text GLOB 'its caller * has ended' THEN 'caller_ended'
    WHEN text GLOB 'the former processor left it; *' THEN 'imported'
    WHEN text GLOB 'ran for *, longer than its limit of *' THEN 'max_runtime'
    WHEN text GLOB 'its tree used *, more than its limit of *' THEN 'max_rss'
    WHEN text GLOB 'the kernel enforced its memory limit of * bytes' THEN 'cgroup_limit'
    WHEN text GLOB 'it is below process *: it was left before' THEN 'left_before'
    WHEN text GLOB 'it is below process *: its job keeps its strays' THEN 'keeps_strays'
    WHEN text GLOB '*, which is protected' THEN 'protected'
    WHEN text GLOB 'executable is named *' THEN 'name_match'
    WHEN text GLOB 'argv[[]0] is named *' THEN 'name_match'
    WHEN text GLOB 'script is named *' THEN 'name_match'
    ELSE 'other' END
FROM (SELECT rule AS text FROM leak UNION SELECT end_rule FROM process WHERE end_rule IS NOT NULL);

CREATE TEMPORARY TABLE known_evidence (sentence TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO known_evidence
SELECT text, CASE text
    WHEN 'identity' THEN 'identity'
    WHEN 'cgroup' THEN 'cgroup'
    WHEN 'session' THEN 'session'
    WHEN 'name' THEN 'name'
    WHEN 'process group' THEN 'process_group'
    WHEN 'below its keeper' THEN 'keeper'
    WHEN 'token' THEN 'token'
    WHEN 'recorded descendant' THEN 'recorded'
    WHEN 'forked below it, as the kernel reported' THEN 'fork_event'
    ELSE CASE WHEN text GLOB 'child of *' THEN 'child' WHEN text GLOB 'oom_kill *' THEN 'oom_kills' ELSE 'other' END
  END
FROM (SELECT evidence AS text FROM leak UNION SELECT end_evidence FROM process WHERE end_evidence IS NOT NULL);

UPDATE process SET
  end_rule_key = (SELECT key FROM known_rule WHERE sentence = end_rule),
  end_evidence_key = (SELECT key FROM known_evidence WHERE sentence = end_evidence)
WHERE end_rule IS NOT NULL OR end_evidence IS NOT NULL;
UPDATE leak SET
  rule_key = (SELECT key FROM known_rule WHERE sentence = rule),
  evidence_key = (SELECT key FROM known_evidence WHERE sentence = evidence);
DROP TABLE known_rule;
DROP TABLE known_evidence;

DROP VIEW history;
DROP VIEW leaks;

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
    p.ended_at,
    p.end_rule_key,    -- identifies end_rule, whatever its particulars
    p.end_evidence_key
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
    l.age_ms,
    l.rule_key,        -- identifies rule, whatever its particulars: group by this
    l.evidence_key
  FROM leak AS l
  JOIN process AS p ON p.id = l.process
  LEFT JOIN instance AS i ON i.id = p.first_owner
  ORDER BY l.found_at DESC;
