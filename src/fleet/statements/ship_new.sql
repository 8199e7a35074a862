INSERT INTO fleet.stream (ledger, host, boot, mark, process, leak, version, forked_from, process_floor, leak_floor, copied,
  copied_leaks)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING stream, seen_at
