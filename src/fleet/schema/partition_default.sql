SELECT count(*) FROM (SELECT 1 FROM fleet.ended_default WHERE started_at >= $1 AND started_at < $2 LIMIT 1) AS found
