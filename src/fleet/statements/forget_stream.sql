UPDATE fleet.stream SET forgotten_at = now(), mark = $2, previous_mark = NULL,
  lost = lost + (SELECT count(*) FROM fleet.live WHERE live.stream = $1),
  lost_leaks = lost_leaks + (SELECT count(*) FROM fleet.leak WHERE leak.stream = $1 AND outcome = 'survived')
WHERE stream = $1
