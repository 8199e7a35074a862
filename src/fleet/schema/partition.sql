CREATE TABLE IF NOT EXISTS fleet.ended_{from} PARTITION OF fleet.ended
  FOR VALUES FROM ('{from_day} 00:00:00+00') TO ('{to_day} 00:00:00+00');
