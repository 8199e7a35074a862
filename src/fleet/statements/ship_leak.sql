INSERT INTO fleet.leak (stream, id, print, process, root, verified, task_id, pid, kind, rule, rule_key, evidence,
  evidence_key, found_at, age_ms, rss_bytes, outcome, died_after_ms, program, command, stop_signal)
SELECT CAST($1 AS integer), it.* FROM unnest(CAST($2 AS bigint[]), CAST($3 AS integer[]), CAST($4 AS bigint[]),
  CAST($5 AS bigint[]), CAST($6 AS boolean[]), CAST($7 AS text[]), CAST($8 AS integer[]), CAST($9 AS text[]),
  CAST($10 AS text[]), CAST($11 AS text[]), CAST($12 AS text[]), CAST($13 AS text[]), CAST($14 AS timestamptz[]),
  CAST($15 AS bigint[]), CAST($16 AS bigint[]), CAST($17 AS text[]), CAST($18 AS bigint[]), CAST($19 AS text[]),
  CAST($20 AS text[]), CAST($21 AS integer[])) AS it
ON CONFLICT (stream, found_at, id, print) DO UPDATE SET outcome = excluded.outcome, died_after_ms = excluded.died_after_ms,
  stop_signal = excluded.stop_signal
WHERE leak.outcome IN ('survived', 'lost')
