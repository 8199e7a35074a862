DELETE FROM fleet.live WHERE stream IN (SELECT stream FROM fleet.stream WHERE host = $1)
