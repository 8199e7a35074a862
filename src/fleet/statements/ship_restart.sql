UPDATE fleet.stream SET mark = $2, previous_mark = NULL, process = $3, leak = $4, process_print = NULL, leak_print = NULL,
  boot = $5, restarts = restarts + 1, seen_at = now()
WHERE stream = $1 RETURNING seen_at
