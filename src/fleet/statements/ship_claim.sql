SELECT stream, mark, previous_mark, process, leak, process_print, leak_print, counted, counted_leaks, boot, seen_at
FROM fleet.stream WHERE ledger = $1 FOR UPDATE
