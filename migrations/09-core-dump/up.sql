-- Additive: a program that knows schema 3 works on as before, and records no core dumps.

ALTER TABLE process ADD COLUMN core_dumped /* 1: it dumped its core when exit_signal ended it; NULL where it did not, or that is not known */ INTEGER;
