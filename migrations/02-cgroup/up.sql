-- Where an instance makes the leaves of its processes. Written before the folder is made, so that none is ever forgotten.
ALTER TABLE instance ADD COLUMN cgroup /* folder that its leaves are in; NULL before the first one, and once it is removed */ TEXT;
ALTER TABLE instance ADD COLUMN cgroup_inode /* NULL until it is made; compared before the folder is touched */ INTEGER;
CREATE INDEX instance_cgroup ON instance (id) WHERE cgroup IS NOT NULL;

ALTER TABLE process ADD COLUMN evidence /* what tied a descendant to its root when it was found; NULL for a root */ TEXT;
