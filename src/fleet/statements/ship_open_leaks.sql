SELECT id, print FROM fleet.leak WHERE stream = $1 AND outcome = 'survived'
