SELECT stream, host, seen_at, now() FROM fleet.stream ORDER BY host
