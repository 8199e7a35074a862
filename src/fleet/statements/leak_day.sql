INSERT INTO fleet.leak_day (stream, day, kind, rule_key, outcome, leaks, age_ms, rss_bytes, last_found_at)
SELECT stream, CAST(found_at AT TIME ZONE 'UTC' AS date), kind, rule_key, outcome, count(*), CAST(least(sum(age_ms), 9223372036854775807) AS bigint),
  CAST(least(coalesce(sum(rss_bytes), 0), 9223372036854775807) AS bigint), max(found_at)
FROM fleet.leak
WHERE stream = $1 AND found_at >= $3 AND found_at < $4 AND CAST(found_at AT TIME ZONE 'UTC' AS date) = ANY ($2)
GROUP BY 1, 2, 3, 4, 5
