-- Rows of a copied ledger that the stream of its original has as well: those that were recorded after the last batch before that.
-- A print is of what never changes in a row, the token of a process included: rows with one number, time and print are one row.
SELECT (
  SELECT count(*) FROM (
    SELECT id, print, started_at FROM fleet.ended WHERE stream = $1 AND id > $3 AND id <= $4
    UNION ALL
    SELECT id, print, started_at FROM fleet.live WHERE stream = $1 AND id > $3 AND id <= $4
  ) AS own JOIN (
    SELECT id, print, started_at FROM fleet.ended WHERE stream = $2 AND id > $3 AND id <= $4
    UNION ALL
    SELECT id, print, started_at FROM fleet.live WHERE stream = $2 AND id > $3 AND id <= $4
  ) AS original ON original.id = own.id AND original.print = own.print AND original.started_at = own.started_at
) + (
  SELECT count(*) FROM fleet.leak AS own
  JOIN fleet.leak AS original ON original.id = own.id AND original.print = own.print AND original.found_at = own.found_at
  WHERE own.stream = $1 AND original.stream = $2 AND own.id > $5 AND own.id <= $6 AND original.id > $5 AND original.id <= $6
)
