DELETE FROM fleet.live WHERE stream = $1 AND id = ANY ($2)
