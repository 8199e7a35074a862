SELECT stream, id, root, task_id, pid, state, origin, containment, owner, uid, survive, command, started_at, peak_rss_bytes, cpu_ms,
  last_error
FROM fleet.live
