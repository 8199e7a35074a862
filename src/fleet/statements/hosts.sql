SELECT s.stream, s.ledger, s.host, s.login, s.made_at, s.seen_at,
  CAST(extract(epoch FROM now() - s.seen_at) * 1000 AS bigint) AS silent_ms, s.skew_ms, s.gap, s.leak_gap, s.lost, s.lost_leaks,
  s.restarts, s.health_at, s.orphan_at, s.version, original.host AS copy_of,
  original.stream AS original, s.process_floor, s.copied, s.leak_floor, s.copied_leaks,
  s.forgotten_at IS NOT NULL AND s.forgotten_at >= s.seen_at AS forgotten, coalesce(l.live, 0) AS live,
  coalesce(l.survivors, 0) AS survivors
FROM fleet.stream AS s
LEFT JOIN fleet.stream AS original ON original.ledger = s.forked_from
LEFT JOIN (
  SELECT stream, count(*) AS live, sum(CASE state WHEN 'survived' THEN 1 ELSE 0 END) AS survivors FROM fleet.live GROUP BY stream
) AS l ON l.stream = s.stream
ORDER BY s.host, s.stream
