INSERT INTO fleet.leak_hour (stream, hour, leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes, last_found_at)
SELECT stream, date_trunc('hour', found_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', count(*),
  sum(CASE kind WHEN 'orphan' THEN 1 ELSE 0 END), sum(CASE kind WHEN 'stray' THEN 1 ELSE 0 END),
  sum(CASE kind WHEN 'unregistered' THEN 1 ELSE 0 END), sum(CASE outcome WHEN 'survived' THEN 1 ELSE 0 END),
  CAST(least(sum(age_ms), 9223372036854775807) AS bigint),
  CAST(least(coalesce(sum(rss_bytes), 0), 9223372036854775807) AS bigint), max(found_at)
FROM fleet.leak
WHERE stream = $1 AND found_at >= $3 AND found_at < $4
  AND date_trunc('hour', found_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' = ANY ($2)
GROUP BY 1, 2
