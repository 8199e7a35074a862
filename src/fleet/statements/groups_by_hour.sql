SELECT to_char(l.found_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00"Z"') AS key, count(*),
  sum(CASE l.kind WHEN 'orphan' THEN 1 ELSE 0 END), sum(CASE l.kind WHEN 'stray' THEN 1 ELSE 0 END),
  sum(CASE l.kind WHEN 'unregistered' THEN 1 ELSE 0 END), sum(CASE l.outcome WHEN 'survived' THEN 1 ELSE 0 END),
  CAST(sum(l.age_ms) AS bigint), CAST(coalesce(sum(l.rss_bytes), 0) AS bigint), max(l.found_at)
FROM fleet.leak AS l
WHERE l.found_at >= $1
GROUP BY 1
