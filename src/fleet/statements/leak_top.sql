INSERT INTO fleet.leak_top (stream, day, dimension, rest, key, leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes,
  last_found_at)
SELECT $1, day, dimension, place > 20, CASE WHEN place > 20 THEN '' ELSE key END, CAST(sum(leaks) AS bigint),
  CAST(sum(orphans) AS bigint), CAST(sum(strays) AS bigint), CAST(sum(unregistered) AS bigint), CAST(sum(survived) AS bigint),
  CAST(least(sum(age_ms), 9223372036854775807) AS bigint), CAST(least(sum(rss_bytes), 9223372036854775807) AS bigint), max(last_found_at)
FROM (
  SELECT day, dimension, key, leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes, last_found_at,
    row_number() OVER (PARTITION BY day, dimension ORDER BY leaks DESC, key) AS place
  FROM (
    SELECT CAST(found_at AT TIME ZONE 'UTC' AS date) AS day, g.dimension,
      CASE g.dimension WHEN 'task' THEN coalesce(task_id, '') ELSE program END AS key, count(*) AS leaks,
      sum(CASE kind WHEN 'orphan' THEN 1 ELSE 0 END) AS orphans, sum(CASE kind WHEN 'stray' THEN 1 ELSE 0 END) AS strays,
      sum(CASE kind WHEN 'unregistered' THEN 1 ELSE 0 END) AS unregistered,
      sum(CASE outcome WHEN 'survived' THEN 1 ELSE 0 END) AS survived, sum(age_ms) AS age_ms,
      coalesce(sum(rss_bytes), 0) AS rss_bytes, max(found_at) AS last_found_at
    FROM fleet.leak CROSS JOIN (SELECT 'task' AS dimension UNION ALL SELECT 'program') AS g
    WHERE stream = $1 AND found_at >= $3 AND found_at < $4 AND CAST(found_at AT TIME ZONE 'UTC' AS date) = ANY ($2)
    GROUP BY 1, 2, 3
  ) AS keys
) AS places
GROUP BY day, dimension, place > 20, CASE WHEN place > 20 THEN '' ELSE key END
