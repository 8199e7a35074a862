INSERT INTO fleet.ended (stream, id, print, root, task_id, pid, origin, containment, owner, uid, program, command,
  started_at, peak_rss_bytes, cpu_ms, last_error, ended_at, end_reason, end_rule, end_rule_key, end_evidence,
  exit_code, exit_signal, asked_by)
SELECT CAST($1 AS integer), it.* FROM unnest(CAST($2 AS bigint[]), CAST($3 AS integer[]), CAST($4 AS bigint[]),
  CAST($5 AS text[]), CAST($6 AS integer[]), CAST($7 AS text[]), CAST($8 AS text[]), CAST($9 AS text[]),
  CAST($10 AS bigint[]), CAST($11 AS text[]), CAST($12 AS text[]), CAST($13 AS timestamptz[]), CAST($14 AS bigint[]),
  CAST($15 AS bigint[]), CAST($16 AS text[]), CAST($17 AS timestamptz[]), CAST($18 AS text[]), CAST($19 AS text[]),
  CAST($20 AS text[]), CAST($21 AS text[]), CAST($22 AS integer[]), CAST($23 AS integer[]), CAST($24 AS text[])) AS it
ON CONFLICT DO NOTHING
