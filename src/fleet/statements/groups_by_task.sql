SELECT coalesce(largest.key, ''), CAST(sum(leaks) AS bigint), CAST(sum(orphans) AS bigint), CAST(sum(strays) AS bigint),
  CAST(sum(unregistered) AS bigint), CAST(sum(survived) AS bigint), CAST(least(sum(age_ms), 9223372036854775807) AS bigint),
  CAST(least(sum(rss_bytes), 9223372036854775807) AS bigint), max(last_found_at), largest.key IS NULL AS rest
FROM (
  {parts}
) AS parts
-- Which are the largest was found by one sum: with all sums for each of a million tasks, a hash table does not fit into memory.
LEFT JOIN unnest(CAST($4 AS text[])) AS largest (key) ON NOT parts.rest AND largest.key = parts.key
GROUP BY largest.key
