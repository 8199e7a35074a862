SELECT s.host, l.stream, l.id, l.root, l.task_id, l.pid, l.state, l.origin, l.containment, l.owner, l.uid, l.survive, l.command,
  l.started_at, l.peak_rss_bytes, l.cpu_ms, l.last_error, s.seen_at, now()
FROM fleet.live AS l JOIN fleet.stream AS s ON s.stream = l.stream
