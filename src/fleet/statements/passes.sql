SELECT kind, CAST(sum(passes) AS bigint), CAST(sum(failed) AS bigint), max(longest_gap_ms), max(last_at), min(last_at)
FROM fleet.pass_day
WHERE day >= $1
GROUP BY kind
ORDER BY kind
