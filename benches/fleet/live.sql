INSERT INTO fleet.live (stream, id, print, task_id, pid, state, origin, containment, owner, uid, survive, program, command,
  started_at, peak_rss_bytes, cpu_ms)
SELECT 1 + n % 1000, 1000000 + n / 1000, n, 'task-' || n, 1000 + n % 60000, CASE n % 997 WHEN 0 THEN 'survived' ELSE 'running' END,
  'spawned', 'cgroup', 'api', 0, false, 'worker', '["/usr/bin/worker","--batch","' || n || '","--input","/srv/in/' || n || '"]',
  now() - n % 86400 * interval '1 second', 20000000 + n, n
FROM generate_series(1, {rows}) AS n;
