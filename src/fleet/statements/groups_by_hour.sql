SELECT to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00"Z"') AS key, CAST(sum(leaks) AS bigint), CAST(sum(orphans) AS bigint),
  CAST(sum(strays) AS bigint), CAST(sum(unregistered) AS bigint), CAST(sum(survived) AS bigint),
  CAST(least(sum(age_ms), 9223372036854775807) AS bigint), CAST(least(sum(rss_bytes), 9223372036854775807) AS bigint),
  max(last_found_at)
FROM (
  -- Whole hours by their sums, and the part of an hour before them leak by leak.
  SELECT h.hour, h.leaks, h.orphans, h.strays, h.unregistered, h.survived, h.age_ms, h.rss_bytes, h.last_found_at
  FROM fleet.leak_hour AS h
  WHERE h.hour >= $2
  UNION ALL
  SELECT date_trunc('hour', l.found_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', 1, CASE l.kind WHEN 'orphan' THEN 1 ELSE 0 END,
    CASE l.kind WHEN 'stray' THEN 1 ELSE 0 END, CASE l.kind WHEN 'unregistered' THEN 1 ELSE 0 END,
    CASE l.outcome WHEN 'survived' THEN 1 ELSE 0 END, l.age_ms, coalesce(l.rss_bytes, 0), l.found_at
  FROM fleet.leak AS l
  WHERE l.found_at >= $1 AND l.found_at < $2
) AS parts
GROUP BY hour
