INSERT INTO fleet.ended (stream, id, print, task_id, pid, origin, containment, owner, uid, program, command, started_at, ended_at,
  end_reason, exit_code, peak_rss_bytes, cpu_ms)
SELECT 1 + n % 1000, n / 1000, hashint8(n), 'task-' || n, 1000 + n % 60000, 'spawned', 'cgroup', 'api', 0, 'worker',
  '["/usr/bin/worker","--batch","' || n || '"]', it.at, it.at + interval '5 seconds', 'exited', 0, 20000000 + n % 1000, n % 5000
FROM generate_series({from}, {to} - 1) AS n, LATERAL (
  SELECT CAST('{first} 00:00:00+00' AS timestamptz) + interval '1 hour' * ({hour} + CAST(n - {from} AS double precision) / {count})
) AS it (at);
