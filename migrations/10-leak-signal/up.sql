-- Additive: a program that knows schema 3 works on as before, and records leaks without their signals.

ALTER TABLE leak ADD COLUMN stop_signal /* signal that ended it, where outcome is term; NULL for other outcomes, and in rows of versions that did not record it */ INTEGER;

DROP VIEW leaks;

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
    l.evidence_key,
    l.stop_signal      -- signal that ended it, where outcome is term; NULL where it is not known
  FROM leak AS l
  JOIN process AS p ON p.id = l.process
  LEFT JOIN instance AS i ON i.id = p.first_owner
  ORDER BY l.found_at DESC;
