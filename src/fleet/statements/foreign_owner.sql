SELECT owner.rolname FROM pg_catalog.pg_namespace AS n
JOIN pg_catalog.pg_roles AS owner ON owner.oid = n.nspowner AND NOT owner.rolsuper
JOIN pg_catalog.pg_roles AS own ON own.rolname = current_user AND own.rolsuper
WHERE n.nspname = 'fleet'
