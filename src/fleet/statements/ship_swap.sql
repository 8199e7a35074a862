UPDATE fleet.stream SET previous_mark = mark, mark = $3, process = $4, leak = $5, process_print = $6, leak_print = $7,
  counted = $8, counted_leaks = $9, host = $10, boot = $11, version = $12, seen_at = now(),
  skew_ms = CAST(extract(epoch FROM (CAST($13 AS timestamptz) - now())) * 1000 AS bigint),
  gap = gap + $14, leak_gap = leak_gap + $15, lost = lost + $16, lost_leaks = lost_leaks + $17,
  health_at = coalesce($18, health_at), orphan_at = coalesce($19, orphan_at)
WHERE stream = $1 AND mark = $2 RETURNING seen_at, current_setting('search_path')
