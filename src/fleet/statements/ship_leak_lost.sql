UPDATE fleet.leak SET outcome = 'lost'
FROM unnest(CAST($2 AS bigint[]), CAST($3 AS integer[])) AS it (id, print)
WHERE leak.stream = $1 AND leak.id = it.id AND leak.print = it.print AND leak.outcome = 'survived'
RETURNING leak.found_at
