-- Which process holds the tree of a root together: by identity, as every other process is known. A process that ends a tree goes by
-- this, and never by what a process calls itself.
ALTER TABLE process ADD COLUMN keeper_pid /* the keeper above it; NULL without one, and in rows of versions that did not record it */ INTEGER;
ALTER TABLE process ADD COLUMN keeper_start_tick /* as start_tick, of the keeper */ INTEGER;
ALTER TABLE process ADD COLUMN keeper_pidfd_inode /* as pidfd_inode, of the keeper */ INTEGER;
-- How the program was started.
ALTER TABLE process ADD COLUMN attributes /* JSON object: what it did not inherit from its host (user, groups, umask, nice value, limits ...); NULL where it inherited all, and in rows of versions that did not record it */ TEXT;
