SELECT stream FROM fleet.stream WHERE stream = $1 FOR UPDATE
