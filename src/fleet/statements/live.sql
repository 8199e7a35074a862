SELECT s.host, s.seen_at, l.stream, l.id, l.root, l.task_id, l.pid, l.state, l.origin, l.containment, l.owner, l.uid, l.survive,
  l.command, l.started_at, l.peak_rss_bytes, l.cpu_ms, l.last_error,
  CAST(extract(epoch FROM now() - s.seen_at) * 1000 AS bigint) AS silent_ms
FROM fleet.live AS l JOIN fleet.stream AS s ON s.stream = l.stream
ORDER BY s.host, l.started_at, l.stream, l.id
