SELECT s.host, l.stream, l.id, l.process, l.root, l.verified, l.task_id, l.pid, l.kind, l.rule, l.rule_key, l.evidence,
  l.evidence_key, l.found_at, l.age_ms, l.rss_bytes, l.outcome, l.died_after_ms, l.stop_signal,
  l.command
FROM fleet.leak AS l JOIN fleet.stream AS s ON s.stream = l.stream
WHERE l.found_at >= $1
ORDER BY l.found_at DESC, l.stream, l.id
LIMIT $2
