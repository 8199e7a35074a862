SELECT t.key, t.rest, t.leaks, t.orphans, t.strays, t.unregistered, t.survived, t.age_ms, t.rss_bytes, t.last_found_at
  FROM fleet.leak_top AS t
  WHERE t.day >= $2 AND t.dimension = '{dimension}'
  UNION ALL
  SELECT {key_of_leak}, false, 1, CASE l.kind WHEN 'orphan' THEN 1 ELSE 0 END, CASE l.kind WHEN 'stray' THEN 1 ELSE 0 END,
    CASE l.kind WHEN 'unregistered' THEN 1 ELSE 0 END, CASE l.outcome WHEN 'survived' THEN 1 ELSE 0 END, l.age_ms,
    coalesce(l.rss_bytes, 0), l.found_at
  FROM fleet.leak AS l
  WHERE l.found_at >= $1 AND l.found_at < $3
