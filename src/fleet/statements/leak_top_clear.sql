DELETE FROM fleet.leak_top WHERE stream = $1 AND day = ANY ($2)
