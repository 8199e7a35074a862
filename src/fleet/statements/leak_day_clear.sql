DELETE FROM fleet.leak_day WHERE stream = $1 AND day = ANY ($2)
