-- Additive: a program that knows schema 3 reads and writes this ledger as before, so `PRAGMA user_version` stays 3.

CREATE TABLE ledger (
  -- This ledger itself, in one row.
  one           INTEGER PRIMARY KEY CHECK (one = 1),
  uuid          TEXT    NOT NULL CHECK (length(uuid) = 32), -- random UUID, 32 hex digits; a copy of the file has the same one
  schema        INTEGER NOT NULL CHECK (schema >= 4), -- migrations that the ledger has had; user_version is the oldest schema whose programs may use it
  needs         TEXT    NOT NULL, -- oldest version of procledger that may read and write it
  forked_from   TEXT,             -- uuid of the ledger that this one is a copy of, once they are distinguished; else NULL
  process_floor INTEGER NOT NULL DEFAULT 0, -- in a fork: process rows up to this id belong to forked_from
  leak_floor    INTEGER NOT NULL DEFAULT 0  -- in a fork: leak rows up to this id belong to forked_from
) STRICT;

-- A random UUID (RFC 9562, version 4), written as the boot id and the tokens are. `schema` and `needs` are set by the
-- program that migrates, at the end of the same transaction.
INSERT INTO ledger (one, uuid, schema, needs)
SELECT 1, substr(digits, 1, 12) || '4' || substr(digits, 14, 3) || substr('89ab', 1 + (random() & 3), 1) || substr(digits, 18), 4, '0.1.0'
FROM (SELECT lower(hex(randomblob(16))) AS digits);
