INSERT INTO fleet.live (stream, id, print, root, task_id, pid, origin, containment, owner, uid, program, command,
  started_at, peak_rss_bytes, cpu_ms, last_error, state, survive)
SELECT CAST($1 AS integer), it.* FROM unnest(CAST($2 AS bigint[]), CAST($3 AS integer[]), CAST($4 AS bigint[]),
  CAST($5 AS text[]), CAST($6 AS integer[]), CAST($7 AS text[]), CAST($8 AS text[]), CAST($9 AS text[]),
  CAST($10 AS bigint[]), CAST($11 AS text[]), CAST($12 AS text[]), CAST($13 AS timestamptz[]), CAST($14 AS bigint[]),
  CAST($15 AS bigint[]), CAST($16 AS text[]), CAST($17 AS text[]), CAST($18 AS boolean[])) AS it
ON CONFLICT (stream, id) DO UPDATE SET print = excluded.print, root = excluded.root, task_id = excluded.task_id, pid =
  excluded.pid, origin = excluded.origin, containment = excluded.containment, owner = excluded.owner, uid =
  excluded.uid, program = excluded.program, command = excluded.command, started_at = excluded.started_at,
  peak_rss_bytes = excluded.peak_rss_bytes, cpu_ms = excluded.cpu_ms, last_error = excluded.last_error, state =
  excluded.state, survive = excluded.survive
