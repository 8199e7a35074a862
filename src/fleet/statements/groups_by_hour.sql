SELECT to_char(hour, 'YYYY-MM-DD"T"HH24:00"Z"') AS key, leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes,
  last_found_at
FROM (
  SELECT date_trunc('hour', found_at AT TIME ZONE 'UTC') AS hour, count(*) AS leaks,
    CAST(sum(CASE kind WHEN 'orphan' THEN 1 ELSE 0 END) AS bigint) AS orphans,
    CAST(sum(CASE kind WHEN 'stray' THEN 1 ELSE 0 END) AS bigint) AS strays,
    CAST(sum(CASE kind WHEN 'unregistered' THEN 1 ELSE 0 END) AS bigint) AS unregistered,
    CAST(sum(CASE outcome WHEN 'survived' THEN 1 ELSE 0 END) AS bigint) AS survived, CAST(least(sum(age_ms), 9223372036854775807) AS bigint) AS age_ms,
    CAST(least(coalesce(sum(rss_bytes), 0), 9223372036854775807) AS bigint) AS rss_bytes, max(found_at) AS last_found_at
  FROM fleet.leak
  WHERE found_at >= $1
  GROUP BY 1
) AS hours
