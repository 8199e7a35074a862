-- A host adds to its own streams. It cannot read, change or delete history, and cannot see another host at all.
GRANT USAGE ON SCHEMA fleet TO fleet_read, fleet_ship;
GRANT SELECT ON ALL TABLES IN SCHEMA fleet TO fleet_read;

GRANT SELECT ON fleet.meta TO fleet_ship;
GRANT SELECT ON fleet.stream TO fleet_ship;
-- Not `login`, which is the role that inserts, and not what only the owner writes.
GRANT INSERT (ledger, host, boot, mark, previous_mark, process, leak, process_print, leak_print, counted, counted_leaks, made_at,
  seen_at, skew_ms, gap, leak_gap, lost, lost_leaks, restarts, health_at, orphan_at, version, forked_from, process_floor,
  leak_floor, copied, copied_leaks) ON fleet.stream TO fleet_ship;
GRANT UPDATE (host, boot, mark, previous_mark, process, leak, process_print, leak_print, counted, counted_leaks, seen_at,
  skew_ms, gap, leak_gap, lost, lost_leaks, restarts, health_at, orphan_at, version) ON fleet.stream TO fleet_ship;
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.live TO fleet_ship;
GRANT INSERT ON fleet.ended TO fleet_ship;
-- Of a leak it reads what the sums are made of, and what ON CONFLICT updates.
GRANT SELECT (stream, id, print, process, task_id, kind, rule_key, found_at, age_ms, rss_bytes, outcome, died_after_ms, program,
  stop_signal)
  ON fleet.leak TO fleet_ship;
GRANT INSERT ON fleet.leak TO fleet_ship;
GRANT UPDATE (outcome, died_after_ms, stop_signal) ON fleet.leak TO fleet_ship;
GRANT SELECT, INSERT, UPDATE, DELETE ON fleet.leak_day, fleet.leak_hour, fleet.leak_top, fleet.pass_day TO fleet_ship;
