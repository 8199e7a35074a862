INSERT INTO fleet.leak (stream, id, print, process, root, verified, task_id, pid, kind, rule, rule_key, evidence, evidence_key,
  found_at, age_ms, rss_bytes, outcome, died_after_ms, stop_signal, program, command)
SELECT 1 + n % 1000, n / 1000, hashint8(n), n, n, true, 'task-' || n, 1000 + n % 60000,
  (ARRAY['orphan', 'stray', 'unregistered'])[1 + n / 1000 % 3], 'its instance is dead',
  (ARRAY['instance_dead', 'root_ended', 'caller_ended'])[1 + n / 1000 % 3], 'cgroup', 'cgroup',
  CAST('{first} 00:00:00+00' AS timestamptz) + interval '1 hour' * ({hour} + CAST(n - {from} AS double precision) / {count}),
  60000 + n % 5000, 20000000 + n % 1000, CASE n % 9973 WHEN 0 THEN 'survived' WHEN 1 THEN 'kill' ELSE 'term' END, 12, 15,
  'prog-' || n % 211, '["/usr/bin/worker","--batch","' || n || '"]'
FROM generate_series({from}, {to} - 1) AS n;
