DELETE FROM fleet.leak WHERE found_at < $1 AND outcome <> 'survived'
