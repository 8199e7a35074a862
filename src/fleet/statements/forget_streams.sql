SELECT stream FROM fleet.stream WHERE host = $1 ORDER BY stream FOR UPDATE
