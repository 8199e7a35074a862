-- Additive: a program that knows schema 3 works on as before; it asks every tree to end by SIGTERM.

ALTER TABLE process ADD COLUMN end_plan /* JSON object: stop_signals (signal, wait_ms) and root_first, how its tree is asked to end; NULL for SIGTERM to all of it, and in rows of versions that did not record it */ TEXT;
