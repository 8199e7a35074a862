DELETE FROM fleet.ended WHERE ended_at < $1 AND started_at < $1
