-- Additive: a program that knows schema 3 works on as before, but prunes rows that were not shipped yet; those count as a gap.

CREATE TABLE shipment (
  -- How far this ledger was shipped to a fleet, one row a fleet: history that it does not have yet is not pruned.
  fleet         TEXT    PRIMARY KEY, -- uuid of the fleet's database, 32 hex digits
  mark          TEXT    NOT NULL,    -- random UUID of the last batch that the fleet has acknowledged, 32 hex digits
  process       INTEGER NOT NULL,    -- largest process id that the fleet has
  leak          INTEGER NOT NULL,    -- largest leak id that the fleet has
  acked_at      INTEGER NOT NULL,    -- when the fleet acknowledged it
  shipped_at    INTEGER NOT NULL,    -- all that was recorded before has been shipped, ends as well; 0 until it has caught up once
  give_up_ms    INTEGER NOT NULL     -- without an acknowledgement for this long, history is pruned as if there were no such row
) STRICT;
