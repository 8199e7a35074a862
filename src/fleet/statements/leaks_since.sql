SELECT count(*) FROM fleet.leak WHERE found_at >= $1
