UPDATE fleet.meta SET keep_ms = $1 WHERE one = 1
