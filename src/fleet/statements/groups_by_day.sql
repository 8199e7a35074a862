SELECT key, CAST(sum(leaks) AS bigint), CAST(sum(CASE kind WHEN 'orphan' THEN leaks ELSE 0 END) AS bigint),
  CAST(sum(CASE kind WHEN 'stray' THEN leaks ELSE 0 END) AS bigint),
  CAST(sum(CASE kind WHEN 'unregistered' THEN leaks ELSE 0 END) AS bigint),
  CAST(sum(CASE outcome WHEN 'survived' THEN leaks ELSE 0 END) AS bigint), CAST(least(sum(age_ms), 9223372036854775807) AS bigint),
  CAST(least(sum(rss_bytes), 9223372036854775807) AS bigint), max(last_found_at)
FROM (
  -- Whole days by their sums, and the part of a day before them leak by leak.
  SELECT {key_of_day} AS key, d.kind, d.outcome, d.leaks, d.age_ms, d.rss_bytes, d.last_found_at
  FROM fleet.leak_day AS d JOIN fleet.stream AS s ON s.stream = d.stream
  WHERE d.day >= $2
  UNION ALL
  SELECT {key_of_leak}, l.kind, l.outcome, 1, l.age_ms, coalesce(l.rss_bytes, 0), l.found_at
  FROM fleet.leak AS l JOIN fleet.stream AS s ON s.stream = l.stream
  WHERE l.found_at >= $1 AND l.found_at < $3
) AS parts
GROUP BY key
