UPDATE fleet.leak SET outcome = 'lost'
WHERE outcome = 'survived' AND stream IN (SELECT stream FROM fleet.stream WHERE host = $1)
RETURNING stream, found_at
