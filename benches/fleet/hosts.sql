INSERT INTO fleet.stream (ledger, host, boot, mark, process, leak, version)
SELECT gen_random_uuid(), 'web-' || n, gen_random_uuid(), gen_random_uuid(), 0, 0, '0.2.0' FROM generate_series(1, 1000) AS n;
INSERT INTO fleet.pass_day (stream, day, kind, passes, failed, longest_gap_ms, last_at)
SELECT stream, current_date - day, kind, 2880, 0, 31000, now()
FROM fleet.stream, generate_series(0, 29) AS day, unnest(ARRAY['health', 'orphan']) AS kind;
