-- Indexes that an interrupted rebuild has left, and keys that are partly empty: a full one has 44 bytes for each row.
SELECT i.relname, x.indisvalid FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid
WHERE t.relnamespace = CAST('fleet' AS regnamespace) AND t.relkind = 'r' AND (NOT x.indisvalid AND i.relname ~ '_cc(new|old)[0-9]*$' OR (
  x.indisprimary AND (t.relname = 'leak' OR t.relname ~ '^ended_[0-9]+$') AND t.reltuples > 0
  AND pg_catalog.pg_relation_size(i.oid) > 4194304 AND pg_catalog.pg_relation_size(i.oid) > 60 * t.reltuples))
ORDER BY x.indisvalid, i.relname
