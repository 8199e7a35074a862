-- Sums by hour: without them a report by hour reads every leak of its window.
CREATE TABLE fleet.leak_hour (
  -- Sums over the leaks of a stream's hour. Recomputed for a whole hour, never incremented.
  stream        integer     NOT NULL,
  leaks         integer     NOT NULL,
  hour          timestamptz NOT NULL, -- its beginning
  last_found_at timestamptz NOT NULL,
  age_ms        bigint      NOT NULL,
  rss_bytes     bigint      NOT NULL,
  orphans       integer     NOT NULL,
  strays        integer     NOT NULL,
  unregistered  integer     NOT NULL,
  survived      integer     NOT NULL,
  PRIMARY KEY (stream, hour),
  CHECK (hour BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999+00'),
  CHECK (last_found_at BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999+00'),
  CHECK (least(leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes) >= 0)
);
ALTER TABLE fleet.leak_hour ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON fleet.leak_hour FOR SELECT TO fleet_read USING (true);
CREATE POLICY ship ON fleet.leak_hour FOR ALL TO fleet_ship
  USING (stream IN (SELECT stream FROM fleet.stream)) WITH CHECK (stream IN (SELECT stream FROM fleet.stream));

-- Of the leaks that were shipped before. Older shippers make no sums by hour: `fleet maintain` does it for them.
INSERT INTO fleet.leak_hour (stream, hour, leaks, orphans, strays, unregistered, survived, age_ms, rss_bytes, last_found_at)
SELECT stream, date_trunc('hour', found_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', count(*),
  sum(CASE kind WHEN 'orphan' THEN 1 ELSE 0 END), sum(CASE kind WHEN 'stray' THEN 1 ELSE 0 END),
  sum(CASE kind WHEN 'unregistered' THEN 1 ELSE 0 END), sum(CASE outcome WHEN 'survived' THEN 1 ELSE 0 END),
  CAST(least(sum(age_ms), 9223372036854775807) AS bigint),
  CAST(least(coalesce(sum(rss_bytes), 0), 9223372036854775807) AS bigint), max(found_at)
FROM fleet.leak
GROUP BY 1, 2;

-- The tasks in their order: a report sums up to a million of them one after the other, without a hash table of all.
CREATE INDEX leak_top_task ON fleet.leak_top (key, day, leaks) WHERE dimension = 'task' AND NOT rest;

-- One host must not take from the sums over all of them, or make them impossible. What is there already is not checked.
ALTER TABLE fleet.leak_day ADD CONSTRAINT leak_day_counts CHECK (leaks >= 0) NOT VALID;
ALTER TABLE fleet.leak_top ADD CONSTRAINT leak_top_counts CHECK (least(leaks, orphans, strays, unregistered, survived) >= 0) NOT VALID;
ALTER TABLE fleet.pass_day ADD CONSTRAINT pass_day_counts
  CHECK (least(passes, failed) >= 0 AND greatest(passes, failed) < 1000000000000) NOT VALID;

-- Leaks of older shippers do not have it.
ALTER TABLE fleet.leak ADD COLUMN stop_signal integer; -- signal that ended it, where outcome is term

UPDATE fleet.meta SET version = 2 WHERE one = 1;
