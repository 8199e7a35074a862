SELECT stream FROM fleet.stream ORDER BY stream
