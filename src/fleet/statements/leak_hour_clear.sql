DELETE FROM fleet.leak_hour WHERE stream = $1 AND hour = ANY ($2)
