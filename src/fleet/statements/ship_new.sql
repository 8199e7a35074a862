INSERT INTO fleet.stream (ledger, host, boot, mark, process, leak, version, forked_from)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING stream, seen_at
