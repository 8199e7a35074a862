INSERT INTO fleet.pass_day (stream, day, kind, passes, failed, longest_gap_ms, last_at)
SELECT CAST($1 AS integer), it.* FROM unnest(CAST($2 AS date[]), CAST($3 AS text[]), CAST($4 AS bigint[]),
  CAST($5 AS bigint[]), CAST($6 AS bigint[]), CAST($7 AS timestamptz[])) AS it
-- If a part of the day was pruned in the ledger, the fleet keeps the larger count.
ON CONFLICT (stream, day, kind) DO UPDATE SET passes = excluded.passes, failed = excluded.failed,
  longest_gap_ms = excluded.longest_gap_ms, last_at = excluded.last_at
WHERE excluded.passes >= pass_day.passes
