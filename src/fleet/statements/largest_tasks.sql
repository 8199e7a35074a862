SELECT key FROM (
  -- Each part is in the order of the tasks, so that they can be merged: the index has the first one in it.
  (SELECT t.key, t.leaks FROM fleet.leak_top AS t WHERE t.day >= $2 AND t.dimension = 'task' AND NOT t.rest ORDER BY t.key)
  UNION ALL
  (SELECT coalesce(l.task_id, ''), 1 FROM fleet.leak AS l WHERE l.found_at >= $1 AND l.found_at < $3 ORDER BY 1)
) AS parts
GROUP BY key
ORDER BY sum(leaks) DESC, key
LIMIT {named}
