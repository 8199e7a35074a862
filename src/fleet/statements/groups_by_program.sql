SELECT CASE WHEN rest THEN '' ELSE key END, CAST(sum(leaks) AS bigint), CAST(sum(orphans) AS bigint), CAST(sum(strays) AS bigint),
  CAST(sum(unregistered) AS bigint), CAST(sum(survived) AS bigint), CAST(least(sum(age_ms), 9223372036854775807) AS bigint),
  CAST(least(sum(rss_bytes), 9223372036854775807) AS bigint), max(last_found_at), rest
FROM (
  SELECT key, rest OR row_number() OVER (ORDER BY rest, leaks DESC, key) > {named} AS rest, leaks, orphans, strays, unregistered,
    survived, age_ms, rss_bytes, last_found_at
  FROM (
    -- Programs are few, unlike tasks: all sums of each are made at once, and the largest are selected from them.
    SELECT key, rest, sum(leaks) AS leaks, sum(orphans) AS orphans, sum(strays) AS strays, sum(unregistered) AS unregistered,
      sum(survived) AS survived, sum(age_ms) AS age_ms, sum(rss_bytes) AS rss_bytes, max(last_found_at) AS last_found_at
    FROM (
      {parts}
    ) AS parts
    GROUP BY key, rest
  ) AS programs
) AS places
GROUP BY 1, rest
