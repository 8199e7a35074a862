SELECT count(*) FROM (SELECT 1 FROM fleet.{partition} WHERE ended_at >= $1 LIMIT 1) AS recent
